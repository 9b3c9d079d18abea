-- The agent in a real Linux guest: commands, files, the kernel's log, clock and random numbers;
-- forks and snapshots of a booted machine; kernels that do not come up. On a stock KVM: tools/stock
-- runs it.

local core = require "minikvm.core"
local host = require "support.linux"
local kvm = require "minikvm"
local program = require "support.program"
local support = require "support.guest"

local message <const> = support.message

---A VM with a kernel and an initramfs with the agent, before its first instruction.
local function linux_of(initrd)
  local parts = { agent = true }
  for key, value in pairs(initrd or {}) do parts[key] = value end
  local vm = support.vm{ mode = "linux" }
  assert(vm:load(host.KERNEL, { cmdline = "quiet loglevel=1",
                                initrd = { bytes = assert(kvm.initrd(parts)) } }))
  return vm:linux()
end

describe("the agent of a Linux guest", function()
  if host.without_linux(pending) then return end

  local booted, ready, linux, vm

  setup(function()
    local before = core.now()
    linux = linux_of():wait{ timeout = 100 }
    booted = core.now() - before -- and what the initramfs takes
    vm = linux.vm
    ready = assert(vm:snapshot())
  end)
  before_each(function() assert(vm:restore(ready)) end)
  teardown(function() vm:close() end)

  it("runs commands: output, status, input, what is left in the background", function()
    assert.same({ "out\nerr\n/root\n", 7 }, { linux:sh "echo out; echo err >&2; pwd; exit 7" })
    local bytes = {}
    for i = 0, 255 do bytes[i + 1] = string.char(i) end
    local all = table.concat(bytes):rep(1000) -- more than a pipe and a question hold
    assert.same({ all, 0 }, { linux:sh("cat", { input = all }) })
    assert.same({ "", 0 }, { linux:sh "cat" }) -- nothing to read
    assert.same({ "", 128 + 9 }, { linux:sh "kill -9 $$" }) -- SIGKILL
    assert.same({ "", 127 }, { linux:sh "nosuch 2>/dev/null" })
    assert.same({ "here\n", 0 }, { linux:sh "sleep 1000 & echo here" })
    assert.match("\n%s*%d+ [^\n]*sleep 1000\n", (linux:sh "ps"))
    local LATE <const> = "(read -r _ </tmp/go; yes | head -c 200000; touch /tmp/done) & echo now"
    assert.same({ "now\n", 0 }, { linux:sh("mkfifo /tmp/go; " .. LATE) })
    local output = linux:sh "echo >/tmp/go; until [ -e /tmp/done ]; do sleep 0.01; done; echo then"
    assert.equal("then\n", output) -- what it printed meanwhile went nowhere, and did not end it
  end)

  it("moves files of any bytes and size", function()
    for _, size in ipairs{ 0, 1, 65511, 65512, 65513, 3000001 } do -- a question holds 65512
      local bytes = ("\0\1\xff\n\r\x1a"):rep(size // 6 + 1):sub(1, size)
      assert(linux:write("/tmp/file", bytes, { mode = 484 })) -- 0744
      assert.is_true(linux:read "/tmp/file" == bytes, size)
      local sum = linux:sh "gzip -c /tmp/file | tail -c 8 | od -An -tu4" -- RFC 1952: CRC-32, size
      local crc, length = sum:match "(%d+)%s+(%d+)"
      assert.same({ core.crc32(bytes), size }, { math.tointeger(crc), math.tointeger(length) })
    end
    assert.equal("744\n", (linux:sh "stat -c %a /tmp/file"))
    assert.match("^Linux version ", (linux:read "/proc/version"))
    for path, code in pairs{ ["/nosuch"] = "ENOENT", ["/tmp"] = "EISDIR" } do
      local bytes, why, name = linux:read(path)
      assert.same({ nil, code }, { bytes, name })
      assert.equal(path .. ": ", why:sub(1, #path + 2))
    end
    local done, why, code = linux:write("/nosuch/file", "x")
    assert.same({ nil, "/nosuch/file: No such file or directory", "ENOENT" }, { done, why, code })
    assert.match("sent more than 1000 bytes",
                 message(linux.read, linux, "/tmp/file", { limit = 1000 }))
  end)

  it("reads the kernel's log, by level", function()
    local all = linux:dmesg()
    assert.match("^%[ +%d+%.%d+%] Linux version ", all)
    linux:sh "echo '<3>an error of the spec' >/dev/kmsg; echo '<6>nothing' >/dev/kmsg"
    local errors = linux:dmesg{ level = "err" }
    assert.match("%] an error of the spec\n", errors)
    assert.is_nil(errors:find("nothing", 1, true))
    assert.is_nil(errors:find("Linux version", 1, true))
    assert.truthy(#linux:dmesg() > #all)
  end)

  it("renews clock and random numbers", function()
    linux:renew{ clock = 1000000000, random = false } -- 2001-09-09 01:46:40 UTC
    assert.match("^200109090146", (linux:sh "date -u +%Y%m%d%H%M"))
    linux:renew()
    local now = tonumber((linux:sh "date +%s"))
    assert.truthy(math.abs(now - os.time()) <= 100, now)
    assert.equal("0\n", (linux:sh "dmesg | grep -c 'random: .*reseed.*fail'"))
  end)

  it("comes along in forks, each with numbers of its own", function()
    local seen, names = {}, {}
    for i, one in ipairs(assert(linux:fork(4))) do
      local number = one:sh "head -c 16 /dev/urandom | od -An -tx1"
      assert.is_nil(seen[number])
      seen[number] = true
      assert(one:write("/tmp/name", "fork " .. i))
      names[i] = one
    end
    for i, one in ipairs(names) do
      assert.equal("fork " .. i, one:read "/tmp/name")
      one.vm:close()
    end
    assert.same({ nil, "ENOENT" }, { linux:read "/tmp/name", (select(3, linux:read "/tmp/name")) })
  end)

  it("is there in a snapshot that another process loads, with all that the machine has", function()
    linux:write("/tmp/kept", "by the snapshot")
    local path = os.tmpname()
    assert(assert(vm:snapshot()):save(path))
    local script = program.file(([[
      local kvm = require "minikvm"
      local vm = assert(assert(kvm.load_snapshot(%q)):vm{ echo = false })
      print(vm:linux():read "/tmp/kept")
      print(vm:linux():sh "cat /sys/class/rtc/rtc0/name; uname")
      os.exit(vm:linux():fork():sh "exit 3" == "" and 3)]]):format(path))
    local r = program.run("P " .. script)
    os.remove(path)
    os.remove(script)
    assert.same({ 3, "" }, { r.status, r.err })
    assert.match("^by the snapshot\nrtc_cmos[^\n]*\nLinux\n\t0\n$", r.out)
  end)

  -- Figures are for a machine that has nothing else to do, which this one is now and then.
  ---The shortest of some tries; no more of them than it takes. `after` gets what `fn` returned.
  local function shortest(tries, enough, fn, after)
    local best = math.huge
    for _ = 1, tries do
      local before = core.now()
      local result = fn()
      best = math.min(best, core.now() - before)
      if after then after(result) end
      if best <= enough then break end
    end
    return best
  end

  it("is many times as fast from a snapshot as from a boot; eight forks in no time", function()
    local one = shortest(50, booted / 30, function() -- a hundred times on a quiet machine
      assert(vm:restore(ready))
      assert.same({ "", 0 }, { linux:sh "true" })
    end)
    assert.truthy(one <= booted / 30, ("boot %.3f s, restore and true %.4f s"):format(booted, one))
    local enough = math.max(0.4, booted / 8) -- half of that on a quiet machine
    local forks = shortest(10, enough, function() return assert(linux:fork(8)) end, function(list)
      for _, machine in ipairs(list) do machine.vm:close() end
    end)
    assert.truthy(forks <= enough, ("boot %.3f s, 8 forks %.3f s"):format(booted, forks))
  end)

  it("takes for a fork only the memory that it writes", function()
    local function resident() -- KiB of this process that are nobody else's
      local sum = 0
      for kib in support.read_file "/proc/self/smaps_rollup":gmatch "Private_%a+:%s+(%d+)" do
        sum = sum + math.tointeger(kib)
      end
      return sum
    end
    local before, list = resident(), assert(linux:fork(8))
    for _, one in ipairs(list) do one:sh "true" end
    local each = (resident() - before) / 8
    for _, one in ipairs(list) do one.vm:close() end
    assert.truthy(each < 16 << 10, ("%.0f KiB of 256 MiB"):format(each))
  end)

  it("says what a command had printed when it takes too long, or kills the machine", function()
    assert.match("no answer within 1 s\n  its output so far:\n    | begun\n",
                 message(linux.sh, linux, "echo begun; sleep 1000", { timeout = 1 }))
    assert.match("restore the vm first", message(linux.sh, linux, "true"))
    assert(vm:restore(ready))
    assert.match("the guest ended: shutdown, Linux panicked: sysrq triggered crash",
                 message(linux.sh, linux, "echo c >/proc/sysrq-trigger"))
    assert(vm:restore(ready))
    assert.match("the agent was started anew", message(linux.sh, linux, "minikvm-agent"))
    assert(vm:restore(ready))
    assert.match("it sent more than 1000000 bytes",
                 message(linux.sh, linux, "yes", { limit = 1000000 }))
    assert(vm:restore(ready))
    assert.same({ "fine\n", 0 }, { linux:sh "echo fine" })
  end)
end)

describe("a Linux that does not come up", function()
  if host.without_linux(pending) then return end

  local BEGIN <const> = "#!/bin/sh\n"

  for what, case in pairs{
    ["panics at once"] = { "exit 3", "the guest ended: shutdown, Linux panicked: Attempted to kill "
                           .. "init! exitcode=0x00000300" },
    ["reboots"] = { "/bin/busybox reboot -f", "the guest ended: shutdown, Linux rebooted" },
    ["powers off"] = { "/bin/busybox poweroff -f", "the guest ended: halt, Linux powered off" },
    ["has no /dev/mem for the agent"] = {
      "/bin/busybox mkdir -p /dev/mem; exec /bin/minikvm-agent",
      "Linux panicked.*minikvm%-agent: there is no /dev/mem: it takes a kernel with CONFIG_DEVM" },
    ["never has an agent"] = { "echo waiting; exec /bin/busybox sleep 100000",
                               "no answer within 1 s\n  printed last:\n.*waiting", "waiting" },
    ["fills the console"] = { "/bin/busybox yes 'line of a flood'",
                              "no answer within 1 s\n  printed last:\n    | %.%.%.\n", "flood" },
  } do
    it(what .. " is an error that says so", function()
      local linux <close> = linux_of{ init = BEGIN .. case[1] .. "\n" }
      if case[3] then linux.vm.console:expect(case[3], { timeout = 100 }) end
      local why = message(linux.wait, linux, { timeout = case[3] and 1 or 100 })
      assert.match("linux:wait: .*" .. case[2], why)
      assert.truthy(#why < 4000)
    end)
  end
end)

describe("scripts/test_linux.lua", function()
  it("passes, or says why it cannot be run here", function()
    local folder = os.tmpname()
    os.remove(folder)
    local r = program.run("P test scripts/test_linux.lua --artefacts " .. folder)
    os.execute("rm -rf " .. folder)
    local here = kvm.probe().ok and kvm.probe().host ~= "pvm"
    if here and not host.KERNEL then pending "there is no kernel" return end
    assert.equal(0, r.status, r.out .. r.err)
    assert.match(("\n%d passed, 0 failed, %d skipped\n$"):format(here and 6 or 0, here and 0 or 6),
                 r.out)
    if not here then assert.match("\n  skipped: this [^\n]*KVM", r.out) end
  end)
end)
