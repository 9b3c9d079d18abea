-- virtio's block device (src/dev/blk.h, lua/minikvm/devices/blk.lua), driven by hand
-- (spec/support/blk.lua) and by guests/long/blk.c: Virtual I/O Device 1.2, 2.7, 4.1 and 5.2.
-- spec/guests/linux_pci_spec.lua has Linux's driver.

local blk = require "minikvm.devices.blk"
local compile = require "support.compile"
local drive = require "support.blk"
local kvm = require "minikvm"
local lfs = require "lfs"
local pci = require "support.pci"
local process = require "support.process"
local support = require "support.guest"

local machine, request = drive.machine, drive.request
local IN <const>, OUT <const>, FLUSH <const> = drive.IN, drive.OUT, drive.FLUSH
local ID <const>, DISCARD <const>, ZERO <const> = drive.ID, drive.DISCARD, drive.ZERO
local DATA <const>, DESC <const>, USED <const> = drive.DATA, drive.DESC, drive.USED
local NEXT <const>, WRITE <const>, INDIRECT <const> = 1, 2, 4

local function contents(path)
  local file <close> = assert(io.open(path, "rb"))
  return file:read "a"
end

local function range(sector, count, flags) return ("<I8I4I4"):pack(sector, count, flags or 0) end

describe("virtio's block device", function()
  if support.without_kvm(pending) then return end

  it("reads and writes what snapshots, restores and forks keep", function()
    local vm <close>, d = machine{ size = 1 << 20 }
    assert.equal(0, request(vm, OUT, 3, 1024, ("a"):rep(512) .. ("b"):rep(512)))
    assert.equal(0, request(vm, IN, 4, 512))
    assert.equal(("b"):rep(512), vm.memory:read(DATA, 512))
    assert.equal(0, request(vm, FLUSH, 0, 0))
    assert.equal(0, request(vm, ID, 0, 20))
    assert.equal("minikvm\0", vm.memory:read(DATA, 8))
    local snap = assert(vm:snapshot())
    assert.equal(0, request(vm, OUT, 4, 512, ("c"):rep(512)))
    assert(vm:restore(snap))
    assert.equal(0, request(vm, IN, 4, 512))
    assert.equal(("b"):rep(512), vm.memory:read(DATA, 512))
    local child <close> = assert(vm:fork())
    assert.equal(0, request(child, IN, 3, 512))
    assert.equal(("a"):rep(512), child.memory:read(DATA, 512))
    assert.equal(0, request(child, ZERO, 0, 16, range(3, 1)))
    assert.equal(0, request(child, IN, 3, 512))
    assert.equal(("\0"):rep(512), child.memory:read(DATA, 512))
    assert.equal(0, request(vm, IN, 3, 512))
    assert.equal(("a"):rep(512), vm.memory:read(DATA, 512))
    assert.equal(0, d.state.failed)
  end)

  it("answers what cannot be done as an I/O error, and goes on", function()
    local vm <close>, d = machine{ bytes = ("x"):rep(4096) }
    for _, r in ipairs{ { IN, 8, 512 }, { IN, 7, 1024 }, { IN, 0, 100 }, { OUT, 1 << 60, 512 },
                        { IN, -1, 512 }, { ZERO, 0, 16, range(0, 0xffffffff) },
                        { ZERO, 0, 15, ("\0"):rep(15) }, { DISCARD, 0, 16, range(8, 1) } } do
      assert.equal(1, request(vm, table.unpack(r)))
    end
    assert.equal(2, request(vm, 99, 0, 512))
    assert.same({ 9, 9, "a disk in memory: a request of kind 99" },
                { d.state.requests, d.state.failed, d.state.failure })
    assert.equal(0, request(vm, IN, 7, 512))
    assert.equal(("x"):rep(512), vm.memory:read(DATA, 512))
    d.disks[1]:close()
    assert.equal(1, request(vm, IN, 7, 512))
  end)

  it("has what the host refuses reach the guest: a full layer, a disk that is only read", function()
    local full <close> = machine{ size = 1 << 20, limit = 4096 }
    local last
    for sector = 0, 1000, 100 do last = request(full, OUT, sector, 512, ("f"):rep(512)) end
    assert.equal(1, last)
    local vm <close> = machine{ size = 1 << 20, read_only = true }
    assert.equal(1, request(vm, OUT, 0, 512, ("f"):rep(512)))
    assert.equal(0, request(vm, IN, 0, 512))
  end)

  it("writes to a file when it is told to, and leaves it alone otherwise", function()
    local path = process.temporary(("o"):rep(1024))
    do
      local vm <close> = machine{ path = path }
      assert.equal(0, request(vm, OUT, 1, 512, ("n"):rep(512)))
      assert.equal(("o"):rep(1024), contents(path))
    end
    do
      local vm <close> = machine{ path = path, write = true }
      assert.equal(0, request(vm, OUT, 1, 512, ("n"):rep(512)))
      assert.equal(0, request(vm, FLUSH, 0, 0))
    end
    assert.equal(("o"):rep(512) .. ("n"):rep(512), contents(path))
    os.remove(path)
    assert.error_matches(function() machine{ path = path } end,
      path .. ": No such file or directory")
  end)

  it("gives a discard back to the file, and zeros", function()
    local path = process.temporary(("d"):rep(64 << 10))
    do
      local vm <close> = machine{ path = path, write = true }
      assert.equal(0, request(vm, DISCARD, 0, 16, range(64, 32)))
      assert.equal(0, request(vm, ZERO, 0, 32, range(8, 1) .. range(10, 2, 1)))
      assert.equal(2, request(vm, DISCARD, 0, 16, range(64, 32, 1))) -- 5.2.6.2: reserved flags
      assert.equal(2, request(vm, ZERO, 0, 16, range(64, 32, 2)))
    end
    local text, blocks = contents(path), lfs.attributes(path, "blocks")
    os.remove(path)
    assert.equal(64 << 10, #text)
    assert.equal(("d"):rep(4096) .. ("\0"):rep(512) .. ("d"):rep(512) .. ("\0"):rep(1024),
                 text:sub(1, 6144))
    assert.equal(("d"):rep(16 << 10), text:sub((48 << 10) + 1))
    local holes = text:sub((32 << 10) + 1, 48 << 10) == ("\0"):rep(16 << 10)
    assert.is_true(holes or blocks == 128) -- a host that has no holes keeps what was there
  end)

  it("frees what a discard lets go of a disk in memory", function()
    local vm <close> = machine{ size = "1M" }
    assert.equal(0, request(vm, OUT, 0, 32 << 10, ("d"):rep(32 << 10)))
    assert.equal(32 << 10, vm:disk(1):written())
    assert.equal(0, request(vm, DISCARD, 0, 16, range(7, 50)))
    assert.equal(8 << 10, vm:disk(1):written())
    assert.equal(("d"):rep(3584) .. ("\0"):rep(512), vm:disk(1):read(0, 4096))
  end)

  it("answers an I/O error for a file that shrinks", function()
    local path = process.temporary(("s"):rep(64 << 10))
    local vm <close>, d = machine{ path = path }
    assert.equal(0, request(vm, IN, 64, 4096))
    assert(io.open(path, "wb")):close()
    assert.equal(1, request(vm, IN, 64, 4096))
    assert.equal(path .. ": the file ends at 32768, it had 65536 bytes when it was opened",
                 d.state.failure)
    os.remove(path)
  end)

  it("answers an I/O error for a file that the host lets not grow", function()
    local file = process.temporary(("g"):rep(64 << 10))
    local output = process.run(([[
      local drive, path = require "support.blk", %q
      local vm <close>, d = drive.machine{ path = path, write = true }
      print(drive.request(vm, 1, 0, 512, "w"), drive.request(vm, 1, 64, 512, "w"),
            (d.state.failure:gsub("^.-: ", "")))
    ]]):format(file), process.SMALL_FILES .. "sh -c 'ulimit -f 16; exec \"$0\" \"$@\"'")
    os.remove(file)
    assert.equal("\n0\t1\twriting at 32768 (ulimit -f): File too large\n", output)
  end)

  it("ends the VM when the host has no thread for it, and serves it after a reset", function()
    if process.sanitized() then return pending "a sanitizer makes threads its own way" end
    local folder <close> = compile.folder()
    compile.write(folder, "once.c", [[
      #define _GNU_SOURCE
      #include <dlfcn.h>
      #include <errno.h>
      #include <pthread.h>
      int pthread_create(pthread_t *t, const pthread_attr_t *attr, void *(*f)(void *), void *arg)
      {
          static int others; /* the I/O thread */
          size_t size = 0;
          if (attr)
              pthread_attr_getstacksize(attr, &size);
          if (size == 256 << 10 && others++ == 1)
              return EAGAIN;
          return ((__typeof__(&pthread_create))dlsym(RTLD_NEXT, "pthread_create"))(t, attr, f, arg);
      }]])
    assert(os.execute(("cd %s && gcc -shared -fPIC -o once.so once.c -ldl"):format(folder)))
    local output = process.run([[
      local drive, pci = require "support.blk", require "support.pci"
      local run = pci.run
      function pci.run(...)
        local reason, info = run(...)
        print(reason, (info.text:gsub("^HLT.*", "")))
        return reason, info
      end
      local vm <close>, d = drive.machine{ size = 1 << 20 }
      print(d.state.virtio.errors, d.state.requests)
      assert(vm:reset())
      pci.run(vm, { pci.place(pci.slot(2), 0, drive.BASE), drive.START })
      print(drive.request(vm, drive.OUT, 0, 512, "w"), d.state.requests)
    ]], ("env LD_PRELOAD=%s/once.so"):format(folder))
    assert.equal("\nerror\tblk: a thread for its requests: Resource temporarily unavailable\n"
      .. "0\t0\nhalt\t\nhalt\t\n0\t1\n", output)
  end)

  it("stands still for what is no request", function()
    local vm <close>, d = machine{ size = 1 << 20 }
    local head = drive.header(vm, IN, 0)
    local cases = {
      { "a request has a header of 16 bytes and a status", drive.descriptor(head, 16, 0) },
      { "a request has a header of 16 bytes and a status", drive.descriptor(head, 15, NEXT, 1)
        .. drive.descriptor(drive.STATUS, 1, WRITE) },
      { "a buffer has more descriptors than its queue (8)", drive.descriptor(head, 16, NEXT, 0) },
      { "an indirect table has no whole descriptors (15)", drive.descriptor(DESC, 15, INDIRECT) },
      { "4294967295 bytes at 0x110000 are not all in RAM", drive.descriptor(head, 16, NEXT, 1)
        .. drive.descriptor(DATA, 0xffffffff, NEXT | WRITE, 2) },
    }
    for i, case in ipairs(cases) do
      vm.memory:write(DESC, case[2])
      drive.offer(vm, 0)
      pci.run(vm, { drive.NOTIFY, drive.WAIT_BROKEN })
      assert.equal(case[1], d.state.virtio.last_error)
      assert.equal(i, d.state.virtio.errors)
      vm.memory:fill(drive.AVAIL, 4)
      vm.memory:fill(USED, 4)
      pci.run(vm, { drive.RESET, drive.WAIT_RESET, drive.START })
    end
    assert.equal(0, request(vm, IN, 7, 512))
  end)

  ---A request for 5 GiB, in six parts that are the same memory.
  local function endless(vm)
    local table_at, parts = 0x180000, { drive.descriptor(drive.header(vm, IN, 0), 16, NEXT, 1) }
    for i = 1, 6 do parts[i + 1] = drive.descriptor(0x200000, 0x38000000, NEXT | WRITE, i + 1) end
    parts[8] = drive.descriptor(drive.STATUS, 1, WRITE)
    vm.memory:write(table_at, table.concat(parts))
    vm.memory:write(DESC, drive.descriptor(table_at, 8 * 16, INDIRECT))
    drive.offer(vm, 0)
  end

  it("gives up a request for gigabytes when the run ends, and begins it anew then", function()
    local vm <close>, d = machine({ size = "8G" }, { memory = "1G" })
    endless(vm)
    for _ = 1, 2 do
      -- An OUT after the notification, and the run is over. The request is taken by then or not.
      assert.equal("limit", (pci.load(vm, { drive.NOTIFY, pci.outp(0x80, 0), "\xeb\xfe" })
        :run{ exits = 1, deadline = 20 }))
      assert.is_true(d.state.requests == 0)
      local snap <close> = assert(vm:snapshot())
      assert(vm:restore(snap))
      assert.is_true(#d.state.virtio.open[0] <= 1)
      assert.equal(0, vm.memory:u16(USED + 2))
    end
  end)

  it("answers nothing of what a reset finds in flight, and says when it is over", function()
    local vm <close>, d = machine({ size = "8G" }, { memory = "1G" })
    endless(vm)
    pci.run(vm, { drive.NOTIFY, drive.RESET, drive.WAIT_RESET })
    assert.equal(0, vm.memory:u16(USED + 2))
    assert.equal(0, d.state.virtio.errors)
    vm.memory:fill(drive.AVAIL, 4)
    pci.run(vm, { drive.START })
    assert.equal(0, request(vm, IN, 7, 512))
  end)

  it("serves a driver that changes its rings meanwhile, or stands still", function()
    local vm <close> = machine{ size = 1 << 20 }
    local garbage = {}
    for i = 0, 7 do
      garbage[i + 1] = drive.descriptor(DATA + i * 512, 512, i % 3 | NEXT, i + 1 & 7)
    end
    vm.memory:write(DESC, table.concat(garbage))
    -- mov ecx, 20000; again: rol dword [desc + 8], 1; inc word [avail + 2];
    -- add word [desc + 14], 3; mov word [notify], ax; loop again
    local race = ("<BI4 BBI4 BBBI4 BBBI4B BBI4 BB"):pack(0xb9, 20000, 0xd1, 0x05, DESC + 8,
      0x66, 0xff, 0x05, drive.AVAIL + 2, 0x66, 0x83, 0x05, DESC + 14, 3,
      0x66, 0xa3, drive.BASE + 0x3000, 0xe2, 0xe2)
    assert.equal("halt", (pci.run(vm, { race })))
    vm.memory:fill(drive.AVAIL, 4)
    vm.memory:fill(USED, 4)
    pci.run(vm, { drive.RESET, drive.WAIT_RESET, drive.START })
    assert.equal(0, request(vm, IN, 7, 512))
  end)
end)

describe("a guest with four requests at a time", function()
  if support.without_kvm(pending) then return end

  local function boot(rounds, options)
    options.mode, options.memory, options.page_size, options.irqchip = "long", "16M", "2M", "pic"
    options.map_io, options.echo, options.cmdline = 0xfeb00000, false, tostring(rounds)
    local vm = assert(kvm.vm(options))
    assert(vm:load "guests/long/blk.bin")
    return vm
  end

  local ROUNDS <const> = process.emulated and 10 or 150

  it("has each answered once, with the right bytes", function()
    local path = process.temporary()
    for _, opts in ipairs{ { size = "16M" }, { path = path, write = true } } do
      os.execute("truncate -s 16M " .. path)
      local vm <close> = boot(ROUNDS, { pci = { blk.new(opts) } })
      local _, info = vm:run{ deadline = 60 }
      local answers = ROUNDS * 8 + 1
      assert.same({ 0, ("%d rounds, %d answers\n"):format(ROUNDS, answers) },
                  { info.code, (vm.console:text()) })
      local state = vm.pci:devices()[1].state
      assert.same({ answers, 0 }, { state.requests, state.failed })
    end
    os.remove(path)
  end)

  ---Something that a snapshot is for, in the middle of its requests: the VM that goes on.
  local function interrupt(vm, n, options, path)
    local snap <close> = assert(vm:snapshot())
    local new
    if n % 4 == 0 then
      vm:run{ exits = 1 + n % 7 }
      return assert(vm:restore(snap))
    elseif n % 12 == 1 then
      new = assert(vm:fork())
      vm:run{ exits = 3 }
    elseif n % 12 == 2 then
      assert(snap:save(path))
      local read <close> = assert(kvm.load_snapshot(path))
      new = assert(read:vm{ pci = options.pci, echo = false })
    else
      return vm
    end
    vm:close()
    return new
  end

  it("goes on after snapshots, restores, forks and files as if nothing had been", function()
    local path, options = process.temporary(), { pci = { blk.new{ size = "16M" } } }
    local vm, n = boot(ROUNDS, options), 0
    local reason, info
    repeat
      reason, info = vm:run{ exits = 1 + n % 3, deadline = 60 }
      if reason == "limit" then
        n = n + 1
        vm = interrupt(vm, n, options, path)
      end
    until reason ~= "limit"
    assert.equal("exit", reason, info.text)
    assert.same({ 0, ("%d rounds, %d answers\n"):format(ROUNDS, ROUNDS * 8 + 1) },
                { info.code, (vm.console:text()) })
    assert.is_true(n > ROUNDS / 3, n)
    vm:close()
    os.remove(path)
  end)

  it("goes on after snapshots of it while it is paused", function()
    local vm <close> = boot(ROUNDS * 2, { pci = { blk.new{ size = "16M" } } })
    vm:start{ deadline = 60 }
    while vm.state ~= "ended" do
      vm:pause()
      if vm.state == "paused" then
        local snap <close> = assert(vm:snapshot())
        vm:resume():pause()
        if vm.state == "paused" then assert(vm:restore(snap)) end
      end
      if vm.state == "paused" then vm:resume() end
      vm:wait(0.01)
    end
    local reason, info = vm:wait()
    assert.same({ "exit", 0 }, { reason, info.code }, info.text .. vm.console:text())
    assert.equal(("%d rounds, %d answers\n"):format(ROUNDS * 2, ROUNDS * 16 + 1),
                 (vm.console:text()))
  end)
end)
