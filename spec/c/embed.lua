-- embed.lua - the script of test_embed.c, which gives it arm(), disarm() and ok().

local kvm = require "minikvm"

if not kvm.probe().ok then
  ok(true, "needs KVM # SKIP " .. kvm.probe().why)
  return
end

-- 32-bit code: mov edx, port; mov al, value; out dx, al; and so on.
local function out(port, value)
  return ("<BI4BBB"):pack(0xba, port, 0xb0, value, 0xee)
end
local function into(port)
  return ("<BI4B"):pack(0xba, port, 0xec)
end
local function out32(port, value)
  return ("<BI4BI4B"):pack(0xba, port, 0xb8, value, 0xef)
end
local MSR <const>, MMIO <const>, BLOCK <const> = 0x4b564d80, 0x1000000, 0x20000

local GUEST <const> = table.concat{
  out(0x80, 1), into(0x80),           -- on
  out(0x81, 1), into(0x81),           -- tap
  out(0x82, 1), into(0x82),           -- override and next
  out(0x83, 1), into(0x83),           -- on_unhandled
  out(0x84, 1),                       -- fifo
  out(0x85, 1),                       -- match
  out(0x86, 1),                       -- doorbell
  out(0x90, 1), into(0x90),           -- a device
  -- mov ebx; mov [ebx], al; mov al, [ebx]
  "\xbb" .. ("<I4"):pack(MMIO) .. "\x88\x03\x8a\x03",
  "\xb9" .. ("<I4"):pack(MSR) .. "\x0f\x32\x0f\x30",           -- mov ecx; rdmsr; wrmsr
  out(0x500, 0x42), out(0x500, 0x43), -- define, override and tap of hypercalls
  out(0xe9, ("l"):byte()), out(0xe9, 10), -- a line
  out32(0x27c, BLOCK),                -- opens a file, which the policy decides on
  "\xf4",                             -- hlt
}

local calls = {}
local function called(kind)
  calls[kind] = true
end

---Every kind of handler there is; each allocates.
local function make()
  local policy = kvm.files{ decide = function(name)
    called("decide " .. name)
    return true
  end }
  local vm = assert(kvm.vm{ mode = "protected", memory = "4M", echo = false, coalesce = false,
                            files = policy })
  local ports = vm.ports
  local function read(kind)
    return function() called(kind .. " read") return #tostring {} > 0 and 1 end
  end
  local function write(kind) return function(_, value) called(kind .. " write " .. value) end end
  ports:on(0x80, { read = read "on", write = write "on" })
  ports:on(0x81, 0x82, { read = read "beneath", write = write "beneath" })
  ports:tap(0x81, function(what) called("tap " .. what) end)
  ports:override(0x82, {
    read = function(_, _, next) called "override read" return next() end,
    write = function(_, value, _, next) called "override write" next(value) end,
  })
  ports:fifo(0x84, { size = 1 }, function(record) called("fifo " .. record) end)
  ports:match(0x85, 1, function(port) called("match " .. port) end)
  ports:doorbell(0x86, 1, function(count) called("doorbell " .. count) end)
  vm:on_unhandled(function(what, port)
    if port == 0x83 then called("unhandled " .. what) end
    return what == "in" and 1 or what == "out"
  end)
  vm:attach(kvm.device{ name = "dev", registers = { [0] = { name = "REG", width = 1 } },
    read = function() called "device read" return 1 end,
    write = function(_, _, value) called("device write " .. tostring(value)) end },
              { ports = 0x90 })
  vm.mmio:on(MMIO, 0x100, { read = read "mmio", write = write "mmio" })
  vm.msrs:on(MSR, { read = read "msr", write = write "msr" })
  vm.hypercalls:define(0x42, "one", function() called "hypercall" end)
  vm.hypercalls:define(0x43, "two", function() called "hypercall beneath" end)
  vm.hypercalls:override(0x43, function(_, _, next) called "hypercall override" return next() end)
  vm.hypercalls:tap(0x43, function() called "hypercall tap" end)
  vm.console:on_line(function(line) called("line " .. line) end)
  vm:trace(function(line) called("trace " .. #line) end)
  return vm
end

local function prepare(vm)
  vm:reset()
  vm:load{ bytes = GUEST }
  vm.memory:write(BLOCK + 0x100, "log")
  vm.memory:write(BLOCK, ("<I4I4i4I4i8i8i8"):pack(1, 1, 0, 3, BLOCK + 0x100, 0, 0))
  vm.clock:after(0, function() called "timer" end)
end

---Runs `go` with the nth allocation failing, until none does.
local function sweep(name, go)
  local vm <close> = make()
  local threads, states, reasons, runs = true, true, true, 0
  local untouched, last
  repeat
    prepare(vm)
    arm(runs)
    local fine, reason, info = pcall(go, vm)
    local failed, here = disarm()
    threads = threads and here
    if fine then
      states = states and vm.state == "ended"
      reasons = reasons and (reason == "halt" or reason == "error")
      last = reason .. ": " .. tostring(info and info.text)
    else
      vm:stop()
    end
    collectgarbage "step"
    untouched = not failed
    runs = runs + 1
  until untouched or not here
  ok(threads, name .. ": the script goes on on its own thread, whichever allocation fails")
  ok(states and reasons, name .. ": the run comes to its end")
  ok(last and last:find "^halt" ~= nil and runs > 50,
     ("%s: nothing is left behind after %d runs: %s"):format(name, runs, last))
end

sweep("vm:run", function(vm) return vm:run{ deadline = 60 } end)
sweep("vm:start", function(vm)
  vm:start{ deadline = 60 }
  return vm:wait()
end)

local EXPECTED <const> = [[
trace|beneath read|beneath write 1|decide log|device read|device write 1|doorbell 1|fifo |hypercall|
hypercall beneath|hypercall override|hypercall tap|line l|match 133|mmio read|mmio write 1|msr read|
msr write 1|on read|on write 1|override read|override write|tap read|tap write|timer|unhandled in|
unhandled out]]
local missing = {}
for kind in EXPECTED:gsub("\n", ""):gmatch "[^|]+" do
  local found = false
  for name in pairs(calls) do found = found or name:sub(1, #kind) == kind end
  if not found then missing[#missing + 1] = kind end
end
ok(#missing == 0, "handlers of every kind were called, but " .. table.concat(missing, ", "))
