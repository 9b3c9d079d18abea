-- fault_operations.lua - what is done while faults are made on purpose (faults.lua): operations
-- that check themselves what came of them, each from the beginning to the end.

local kvm = require "minikvm"
local blk = require "minikvm.devices.blk"
local net = require "minikvm.devices.net"
local files = require "support.files"
local support = require "support.guest"

local out, into, program = support.out, support.into, support.program

---A VM whose guest halts, after a byte in AL.
local function small(opts)
  local o = { echo = false }
  for key, value in pairs(opts or {}) do o[key] = value end
  local vm = assert(kvm.vm(o))
  local ok, why = pcall(function() assert(vm:load{ bytes = "\xb0\x07\xf4" }) end)
  if not ok then vm:close() error(why, 0) end
  return vm
end

local function halts(vm)
  local reason, info = vm:run{ deadline = 20 }
  if reason ~= "halt" then error(info and info.text or reason, 0) end
  return info
end

local function equal(want, got)
  if want ~= got then error(("wrong: expected %s, got %s"):format(want, got), 0) end
end

local function contents(path)
  local file <close> = assert(io.open(path, "rb"))
  return file:read "a"
end

local M = {}

function M.create()
  local vm <close> = assert(kvm.vm{ echo = false, name = "two", cpus = 2, irqchip = "pic",
                                    mode = "protected", memory = "8M" })
  local other <close> = assert(kvm.vm{ echo = false, mode = "long", cmdline = "words" })
  equal("idle", vm.state)
  equal("long", other.mode)
end

function M.load()
  local vm <close> = assert(kvm.vm{ echo = false })
  assert(vm:load "guests/boot/multiboot2.elf")
  local flat <close> = assert(kvm.vm{ echo = false })
  assert(flat:load "guests/real/hello.bin")
  halts(flat)
  equal("Hello, KVM!\n", flat.console:text())
end

function M.run()
  local vm <close> = small()
  halts(vm)
  equal(7, vm.cpu[0].al)
  assert(vm:reset())
  halts(vm)
  equal(7, vm.cpu[0].al)
end

function M.start()
  local vm <close> = assert(kvm.vm{ echo = false, cpus = 2, mode = "protected" })
  assert(vm:load({ bytes = "\xf3\x90\xeb\xfc" }, { cpu = "all" })) -- pause; jmp
  vm:start{ deadline = 20 }
  assert(vm:pause())
  vm:resume()
  local reason, info = vm:stop()
  if reason ~= "stopped" then error(info.text, 0) end
  local short <close> = small()
  short:start()
  reason, info = short:wait(20)
  if reason ~= "halt" then error(info and info.text or info, 0) end
end

function M.hooks()
  local seen = 0
  local vm <close> = program({ out(0x300, 5), into(0x1000, 0x301), into(0x1004, 0x310),
                               out(0x320, 65), out(0x320, 10), into(0x1008, 0x330),
                               out(0x340, 9), out(0x350, 1), "\xb0\x42\xa2\x00\x00" })
  vm.ports:on(0x300, { read = function() return 3 end,
                       write = function(_, value) seen = seen + value end })
  vm.ports:latch({ 0x301, 0x302 }, 0x44)
  vm.ports:const(0x310, 0x55)
  vm.ports:fifo(0x320, { on = "\n" }, function(record) seen = seen + record:byte() end)
  vm.ports:source(0x330):put("x")
  vm.ports:match(0x340, 9, function() seen = seen + 1000 end)
  local bell = vm.ports:doorbell(0x350, 1, function(count) seen = seen + 10000 * count end)
  vm.ports:tap(0x300, function() seen = seen + 100 end)
  vm.mmio:on({ 0x10000000, 0x10000fff }, { read = function() return 1 end })
  vm.hypercalls:define(0x90, "faulty", function() return 0 end)
  halts(vm)
  equal(0x44, vm.memory:u8(0x1000))
  equal(0x55, vm.memory:u8(0x1004))
  equal(("x"):byte(), vm.memory:u8(0x1008))
  bell:remove()
  equal(5 + 65 + 1000 + 10000 + 100, seen)
end

function M.memory()
  local vm <close> = small{ mode = "protected" }
  local rom = assert(vm.memory:map{ at = 0x40000000, bytes = "read-only", rom = true })
  local ram = assert(vm.memory:map{ at = 0x50000000, size = 8192 })
  vm.memory:write(0x50000000, ("ram"):rep(100))
  equal("read-only", vm.memory:read(0x40000000, 9))
  halts(vm)
  ram:remove()
  rom:remove()
end

function M.timers()
  local ticks = 0
  local vm <close> = support.code "fb f4 eb fd" -- sti; hlt; jmp
  vm.clock:after(0.0005, function() ticks = ticks + 1 end)
  vm.clock:every(0.0005, function()
    ticks = ticks + 1
    if ticks > 3 then vm:stop() end
  end)
  local reason, info = vm:run{ deadline = 20 }
  if reason ~= "stopped" and reason ~= "halt" then error(info.text, 0) end
end

function M.console(dir)
  local vm <close> = support.vm()
  assert(vm:load "guests/real/hello.bin")
  local lines = {}
  vm.console:on_line(function(line) lines[#lines + 1] = line end)
  assert(vm.console:log(dir .. "/log"))
  assert(vm.console:output(dir .. "/output"))
  assert(vm.console:send "typed")
  assert(vm.console:expect "KVM")
  halts(vm)
  assert(vm.console:log(nil))
  equal("Hello, KVM!", lines[1])
  equal("Hello, KVM!\n", contents(dir .. "/log"))
  equal("Hello, KVM!\n", contents(dir .. "/output"))
end

function M.snapshot()
  local vm <close> = program({ out(0x80, 1), "\xf4", into(0x1000, 0x301) }, { irqchip = "pic" })
  vm.ports:latch({ 0x301, 0x301 }, 0x21)
  halts(vm)
  local snap <close> = assert(vm:snapshot())
  vm.memory:write(0x3000, "changed")
  local second <close> = assert(vm:snapshot())
  assert(vm:restore(snap))
  equal("\0", vm.memory:read(0x3000, 1))
  halts(vm)
  equal(0x21, vm.memory:u8(0x1000))
  assert(vm:restore(second))
  equal("changed", vm.memory:read(0x3000, 7))
end

local function close_all(vms)
  for _, vm in ipairs(vms) do vm:close() end
end

function M.fork()
  local vm <close> = small{ mode = "protected" }
  halts(vm)
  vm.memory:write(0x3000, "mine")
  local list = assert(vm:fork(2))
  local _ <close> = setmetatable({}, { __close = function() close_all(list) end })
  equal("mine", list[2].memory:read(0x3000, 4))
  list[1].memory:write(0x3000, "ours")
  equal("mine", vm.memory:read(0x3000, 4))
end

---A whole file under the name, or the one that was there.
function M.save(dir)
  local path = dir .. "/snapshot"
  local vm <close> = small{ mode = "protected" }
  vm.memory:write(0x3000, ("saved"):rep(2000))
  local snap <close> = assert(vm:snapshot())
  assert(snap:save(path))
end

function M.check_save(dir)
  if not support.read_file(dir .. "/snapshot") then return end
  local snap <close> = assert(kvm.load_snapshot(dir .. "/snapshot"))
  local vm <close> = assert(snap:vm{ echo = false })
  equal(("saved"):rep(2000), vm.memory:read(0x3000, 10000))
end

function M.prepare_load_snapshot(dir)
  local vm <close> = program({ "\xf4", into(0x1000, 0x61) }, { irqchip = "pic" })
  halts(vm)
  local snap <close> = assert(vm:snapshot())
  assert(snap:save(dir .. "/kept"))
end

function M.load_snapshot(dir)
  local snap <close> = assert(kvm.load_snapshot(dir .. "/kept"))
  local vm <close> = assert(snap:vm{ echo = false })
  halts(vm)
end

function M.prepare_files(dir)
  assert(os.execute(("mkdir -p '%s/root' '%s/private'"):format(dir, dir)))
  files.put(dir .. "/root/data", ("data"):rep(5000))
end

function M.files(dir)
  local policy = assert(kvm.files{ root = dir .. "/root", rules = { { "**", "cow" } },
                                   audit = true })
  local g = files.guest("block", policy)
  local _ <close> = g.vm
  local fd = g:open("data", files.READ | files.WRITE)
  if fd < 0 then error("the guest gets error " .. fd, 0) end
  local written = g:write(fd, "DATA")
  if written ~= 4 then error("the guest wrote " .. written, 0) end
  equal(4, g:seek(fd, 4, 0))
  local n, data = g:read(fd, 4)
  if n < 0 then error("the guest reads " .. n, 0) end
  equal("data", data)
  local new = g:open("deep/new", files.WRITE)
  if new < 0 then error("the guest gets error " .. new, 0) end
  equal(0, g:close(fd))
  equal("data", contents(dir .. "/root/data"):sub(1, 4))
end

function M.private_files(dir)
  local policy = assert(kvm.files{ private = dir .. "/private" })
  local vm <close> = support.vm{ files = policy, name = "kept" }
  local fd, why = vm.files:open("a/name", "w")
  if not fd then error(why, 0) end
  assert(vm.files:write(fd, "kept"))
  assert(vm.files:close(fd))
  local snap <close> = assert(vm:snapshot())
  local child = assert(snap:vm{ echo = false })
  child:close()
  assert(vm:restore(snap))
  equal(1, vm.files:usage().files)
end

-- What the one before left below a real name is whole or empty, and goes.
function M.check_private_files(dir)
  assert(os.execute(("rm -rf '%s/private' && mkdir '%s/private'"):format(dir, dir)))
end

function M.prepare_disks(dir)
  files.put(dir .. "/image", ("image..."):rep(2048))
end

function M.disks(dir)
  local disk <close> = assert(kvm.disk{ path = dir .. "/image" })
  assert(disk:write(100, "over"))
  equal("over", assert(disk:read(100, 4)))
  local own <close> = assert(kvm.disk{ path = dir .. "/image", write = true })
  assert(own:write(8192, "image..."))
  assert(own:flush())
  local vm <close> = support.vm{ mode = "protected", memory = "4M", irqchip = "pic",
                                 pci = { { blk.new{ path = dir .. "/image" }, slot = 2 } } }
  local snap <close> = assert(vm:snapshot())
  assert(vm:restore(snap))
end

function M.disk_requests()
  local drive = require "support.blk"
  local vm <close> = drive.machine({ size = 1 << 16 }, { limits = { seconds = 5 } })
  for _, r in ipairs{ { drive.OUT, 3, 512, ("a"):rep(512) }, { drive.IN, 3, 512 } } do
    local status = drive.request(vm, table.unpack(r))
    if status ~= 0 then error("the guest's request ends with status " .. status, 0) end
  end
  equal("a", vm.memory:read(drive.DATA, 1))
end

function M.network()
  local hub = net.hub()
  local options = { mode = "protected", memory = "4M", irqchip = "pic" }
  options.pci = { net.new{ hub = hub } }
  local one <close> = support.vm(options)
  options.pci = { net.new{ hub = hub } }
  local two <close> = support.vm(options)
  equal(1, #one.pci:devices())
  equal(1, #two.pci:devices())
end

function M.devices()
  local device = kvm.device{
    name = "adc", irq = true, registers = { [0] = "CTRL", "DATA" },
    reset = function(d) d.state = { samples = 0 } end,
    read = { DATA = function(d)
      d.state.samples = d.state.samples + 1
      return 37
    end },
  }
  local vm <close> = program({ out(0x300, 1), into(0x1000, 0x301) }, { irqchip = "pic",
                                                                       stats = true })
  local d = vm:attach(device, { ports = 0x300, irq = 5 })
  halts(vm)
  equal(37, vm.memory:u8(0x1000))
  local snap <close> = assert(vm:snapshot())
  assert(vm:restore(snap))
  equal(1, d.state.samples)
  assert(#tostring(vm:stats()) > 0)
  d:detach()
end

function M.debug()
  local hits = 0
  local vm <close> = support.code("90 90 a3 00 20 00 00 f4", { mode = "protected" })
  assert(vm:break_at(0x1001, function() hits = hits + 1 end))
  local watch = assert(vm:watch(0x2000, 4, "w", function() hits = hits + 10 end))
  local reason, info = vm.cpu[0]:step(1)
  if reason ~= "break" then error(info and info.text or reason, 0) end
  halts(vm)
  watch:remove()
  equal(11, hits)
end

function M.coverage(dir)
  local vm <close> = assert(kvm.vm{ mode = "long", echo = false })
  assert(vm:load "guests/build/long/coverage.elf")
  local cover = assert(vm:coverage{ branches = true })
  vm.console:send "two words\n"
  vm.console:eof()
  local reason, info = vm:run{ deadline = 20 }
  if reason ~= "exit" then error(info.text, 0) end
  assert(#cover:reached() > 10)
  assert(cover:save(dir .. "/info"))
  assert(vm:symbol_at(vm.cpu[0].rip))
  assert(vm.cpu[0]:backtrace())
end

function M.trace(dir)
  local vm <close> = small()
  local trace = assert(vm:trace{ exits = true, file = dir .. "/trace" })
  halts(vm)
  trace:remove()
  if trace.error then error(trace.error, 0) end
end

function M.view()
  local vm <close> = small()
  local view = assert(vm:view())
  halts(vm)
  view:remove()
end

function M.worker()
  local worker <close> = assert(kvm.worker(function(me, a)
    local kvm = require "minikvm" -- luacheck: ignore
    local vm <close> = assert(kvm.vm{ echo = false })
    assert(vm:load{ bytes = "\xb0\x07\xf4" })
    local reason, info = vm:run{ deadline = 20 }
    if reason ~= "halt" then error(info.text, 0) end
    me:send("result", vm.cpu[0].al, a)
    return { a }
  end, "argument"))
  local ok, value = worker:wait(20)
  if not ok then error(value, 0) end
  local word, al, a = worker:receive(20)
  if not word then error(al, 0) end
  equal(7, al)
  equal("argument", a)
  equal("argument", value[1])
end

function M.gdb()
  local vm <close> = support.code("eb fe", { mode = "protected" })
  local server = assert(vm:gdb{ stop = false })
  vm:start{ deadline = 20 }
  local reason, info = vm:stop()
  if reason ~= "stopped" then error(info.text, 0) end
  server:remove()
end

function M.linux()
  local initrd = assert(kvm.initrd{ init = "#!/bin/sh\n", directories = { "proc" },
                                    files = { data = { bytes = ("x"):rep(5000) } }, gzip = true })
  local vm <close> = assert(kvm.vm{ mode = "linux", echo = false, memory = "128M" })
  local snap = assert(vm:snapshot())
  snap:close()
  local pvh <close> = assert(kvm.vm{ echo = false })
  assert(pvh:load("guests/boot/pvh.elf", { initrd = { bytes = initrd }, cmdline = "quiet" }))
end

function M.input(dir)
  local vm <close> = support.vm()
  assert(vm:load "guests/real/echo.bin")
  files.put(dir .. "/typed", "ab\n")
  assert(vm.console:input(dir .. "/typed"))
  local reason, info = vm:run{ deadline = 20 }
  if reason ~= "halt" and reason ~= "exit" then error(info.text, 0) end
end

return M
