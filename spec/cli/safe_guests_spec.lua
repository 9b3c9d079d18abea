-- minikvm --safe: what a script gets of VMs, and how they end with it.

local lfs = require "lfs"
local support = require "support.guest"
local process = require "support.process"
local program = require "support.program"
local safes = require "support.safe"
local safe, prints = safes.run, safes.prints

describe("--safe with VMs", function()
  if process.without_jail(pending) then return end
  if support.without_kvm(pending) then return end

  local HELLO <const> = "--guest hello=guests/real/hello.bin"

  it("loads the guests it was given", function()
    assert.equal(program.run("P run guests/real/hello.bin").out .. "halt\n", prints([[
      local kvm = require "minikvm"
      local vm = kvm.vm()
      assert(vm:load "hello")
      local reason = vm:run()
      print(reason)
    ]], HELLO))
  end)

  local VM <const> = "local kvm = require 'minikvm' local vm = kvm.vm{ mode = 'protected' } "

  it("and no others", function()
    for _, call in ipairs{
      "vm:load '/etc/passwd'", "vm:load 'guests/real/hello.bin'", "vm:load{ path = 'hello' }",
      "vm:load({ bytes = 'x' }, { modules = { '/etc/passwd' } })",
      "vm:load({ bytes = 'x' }, { modules = { { path = '/etc/passwd' } } })",
      "vm:load({ bytes = 'x' }, { initrd = '/etc/passwd' })",
      "vm:load({ bytes = 'x' }, { initrd = { path = '/etc/passwd' } })",
      "vm:load(setmetatable({}, { __pairs = function() return next, { path = '/etc/passwd' } "
        .. "end }))",
      "vm.console:input '/etc/passwd'", "vm.console:output '/tmp/minikvm-safe-spec'",
      "kvm.files{ root = '/' }", "kvm.files{ root = 'data', rules = { { '*', 'rw' } } }",
      "kvm.files{ root = 'data', rules = { { '*', 'cow' } } }", "kvm.files{ private = '/tmp' }",
      "kvm.files(setmetatable({}, { __pairs = function() return next, { root = '/' } end }).x, 1)"
        .. " kvm.files{ root = 'x' }",
      "kvm.load_snapshot '/tmp/x'", "vm:snapshot():save '/tmp/minikvm-safe-spec'",
      "vm.console:log '/tmp/minikvm-safe-spec'",
      "assert(kvm.vm():screen():png '/tmp/minikvm-safe-spec')",
      "assert(kvm.vm():screen():png(nil, { font = '/etc/passwd' }))",
      "kvm.worker(function() end)", "kvm.limit{ memory = '1G' }", "kvm.vm{ nonsense = 1 }",
    } do
      local out = prints(VM .. ("print(pcall(function() %s end))"):format(call),
                         HELLO .. " --files data=/etc")
      assert.matches("^false\t", out, call)
    end
    assert.is_nil(lfs.attributes "/tmp/minikvm-safe-spec")
  end)

  it("and takes options for what they are, not for what they pretend to be", function()
    assert.equal("0\tnil\n", prints(VM .. [[
      local trick = setmetatable({}, {
        __pairs = function() return next, { modules = { "/etc/passwd" } } end,
        __index = { modules = { "/etc/passwd" } } })
      vm:load({ bytes = "x" }, trick)
      local files = setmetatable({}, { __pairs = function() return next, { root = "/" } end })
      print(kvm.vm{ files = kvm.files(files) }.files:usage().open, vm.memory:find "root:")
    ]], HELLO))
  end)

  it("gives the directories it was given, as far as they were", function()
    assert.equal("true\n", prints(VM .. [[
      local p = assert(kvm.files{ root = "data", rules = { { "x", "deny" }, { "*", "cow" } } })
      print(kvm.vm{ files = p }.files:usage().open == 0)
    ]], "--files data=spec:cow"))
  end)

  it("ends handlers that do not end", function()
    if process.without_signals(pending) then return end
    local r = safe([[
      local vm = require "minikvm".vm{ limits = { handler = false } }
      vm:load{ bytes = "\xe4\x80\xf4" }
      vm.ports:on(0x80, { read = function() while true do end end })
      local reason, info = vm:run()
      print(reason, info.text)
    ]], "--handler 0.05")
    assert.equal("", r.err)
    assert.matches("^error\tS:3: the handler of port 0x80 was ended after %d+%.%d s: "
      .. "its limit is 0%.05 s; the guest waits at rip 0x0: in al, 0x80\n$", r.out)
  end)

  it("tells of the handler that ran when the script's time was up", function()
    if process.without_signals(pending) then return end
    local bomb <const> = "return ('a'):rep(40):find(('a*'):rep(30) .. 'b')"
    for _, code in ipairs{ "while true do end", bomb } do
      local r = safe(([[
        local vm = require "minikvm".vm()
        vm:load{ bytes = "\xe4\x80\xf4" }
        vm.ports:on(0x80, { read = function() %s end })
        pcall(vm.run, vm)
        print "not reached"
      ]]):format(code), "--seconds 1 --handler 100")
      assert.same({ 1, "" }, { r.status, r.out })
      assert.equal("minikvm: S:4: in a handler: S:3: the script's time is up: 1 s (--seconds)\n",
                   r.err)
    end
  end)

  it("counts guests' RAM, snapshots and whatever C keeps for a script as its memory", function()
    if process.sanitized() then return pending "a sanitizer's shadow has no room in a limit" end
    local made = [[
      local kvm, kept = require "minikvm", {}
      local vm = assert(kvm.vm{ memory = "1M", echo = false })
      local ok, why = pcall(function() for i = 1, 100000 do %s end end)
      print(ok, why)
    ]]
    for _, code in ipairs{
      "kept[i] = assert(kvm.vm{ memory = '16M' })",
      "kept[i] = assert(vm:snapshot()) vm.memory:write(0, (i .. 'x'):rep(1 << 17))",
      "kept[i] = ('x'):rep(1 << 20) .. i",
      "vm.ports:on(0x80, { read = function() return 1 end }) kept[i] = ('x'):rep(1 << 16) .. i",
    } do
      local r = safe(made:format(code), "--memory 64M")
      assert.same({ 0, "" }, { r.status, r.err }, code)
      assert.matches("^false\t[^\n]*\n$", r.out, code)
    end
  end)

  it("stops VMs that are started when the script's time is up", function()
    local seconds = process.took(function()
      local r = safe([[
        local vm = require "minikvm".vm()
        vm:load{ bytes = "\xeb\xfe" }
        vm:start()
        vm:wait()
      ]], "--seconds 0.05")
      assert.matches("the script's time is up", r.err)
    end)
    assert.is_true(seconds < process.SOON)
  end)
end)
