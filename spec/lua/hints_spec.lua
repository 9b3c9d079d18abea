-- What newcomers guess: each remedy that an error names exists, for fields and methods, read and
-- written, and for options; objects and results say what they are.

local support = require "support.guest"
local guesses = require "minikvm.guesses"
local kvm = require "minikvm"
local options = require "minikvm.options"
local strict = require "minikvm.strict"

---What a remedy like "vm.memory:read(address)" begins with, followed from the objects that are
---there; raises where one has no such field. Records and modules answer nil for what they may have.
local function follow(path, objects)
  local root, rest = path:match "^#?([%a_][%w_]*)(.*)"
  local value, self = objects[root], nil
  assert(value ~= nil, path .. ": there is no " .. root)
  while true do
    local name, more = rest:match "^[.:]([%a_][%w_]*)(.*)"
    if name then
      self, value = value, assert(value[name], path .. ": there is no " .. name)
    elseif rest:find "^%[0%]" then
      value, more = value[0], rest:sub(4)
    elseif rest:find "^%(%)[.:]" then
      value, more = value(self), rest:sub(3)
    else
      return value
    end
    rest = more
  end
end

---The names of options in a remedy: "limits = { seconds = 10 }" as { "limits", "limits.seconds" }.
local function option_names(remedy)
  local chunk = assert(load("return {" .. remedy .. "}", remedy, "t", { print = 1, fn = 1 }))
  local names = {}
  for key, value in pairs(chunk()) do
    names[#names + 1] = key
    for inner in pairs(type(value) == "table" and value or {}) do
      names[#names + 1] = key .. "." .. inner
    end
  end
  return names
end

local function has_option(where, name)
  local schema = assert(options.schemas[where], where .. " has declared no options")
  for part in name:gmatch "[^.]+" do
    schema = assert(schema[part], ("%s has no option %s"):format(where, name))
  end
end

describe("what newcomers guess", function()
  if support.without_kvm(pending) then return end
  local vm, objects

  setup(function()
    vm = assert(kvm.vm{ echo = false, irqchip = "pic" })
    vm:load{ bytes = "\xf4" }
    local d = vm:attach(kvm.device{ name = "thing", registers = { [0] = "STATUS" } },
                        { ports = 0x300 })
    local _, info = vm:run()
    objects = {
      kvm = kvm, vm = vm, cpu = vm.cpu[0], d = d, info = info, snapshot = vm:snapshot(),
      handle = vm.ports:on(0x200, { read = function() return 1 end }), screen = vm:screen(),
      disk = kvm.disk{ size = 512 }, worker = kvm.worker(function() end),
    }
  end)

  teardown(function()
    objects.worker:close()
    vm:close()
  end)

  -- Of a method whose result is followed: vm:linux() needs mode "linux", vm:screen() a screen.
  local NO_CALL <const> = { ["vm:linux()"] = "vm:linux", ["vm:screen()"] = "vm:screen" }

  local function check_remedy(remedy)
    local module = remedy:match '^require "(.-)"$'
    if module then return module:find "NAME" or assert(package.preload[module], module) end
    local path = remedy
    for call, plain in pairs(NO_CALL) do
      if path:sub(1, #call) == call then path = plain end
    end
    if path:find "traceback" or path:find "info%.code" then
      assert.is_nil(objects.info[path:match "%.(.*)"])
    else
      follow(path, objects)
    end
    local function_name, table = remedy:match "^([%w_.:]+).-({.*})"
    if remedy:find "vm:load{" then function_name = "vm:load.source" end
    if table and options.schemas[function_name] then
      for name in table:gmatch "([%a_]+) =" do has_option(function_name, name) end
    end
  end

  it("is answered with what exists", function()
    local checked = 0
    for kind, list in pairs(guesses.fields) do
      for guess, remedy in pairs(list) do
        assert.equal(guess:lower(), guess)
        check_remedy(remedy)
        checked = checked + 1
        local object = ({ cpus = vm.cpu, result = objects.info, device = objects.d,
                          handle = objects.handle, kvm = kvm })[kind] or objects[kind]
        if object and kind ~= "timer" then
          local _, why = pcall(function() return object[guess] end)
          assert.matches(("'%s' (use %s)"):format(guess, remedy), why, 1, true)
        end
      end
    end
    assert.is_true(checked > 200)
  end)

  it("of options is answered with what exists", function()
    require "minikvm.vm.memory"
    require "minikvm.vm.files"
    for _, part in ipairs{ "image", "device", "device.disk", "console.expect", "debug",
                           "debug.trace", "gdb" } do
      require("minikvm." .. part)
    end
    for where, list in pairs(guesses.options) do
      local schema = assert(options.schemas[where], where)
      for guess, remedy in pairs(list) do
        assert.is_nil(schema[guess], ("%s: %s is an option"):format(where, guess))
        if remedy:find "^[%a_]+ = " then
          for _, name in ipairs(option_names(remedy)) do has_option(where, name) end
        else
          check_remedy(remedy)
        end
        local _, why = pcall(options.check, where, { [guess] = 1 }, schema)
        assert.matches(("%s: unknown option '%s' (use %s)"):format(where, guess, remedy), why, 1,
                       true)
      end
    end
  end)

  it("written is answered, too", function()
    for wrong, text in pairs{
      ["vm.rip"] = "did you mean vm.cpu[0].rip?", ["vm.ram"] = "use vm.memory",
      ["vm.timeout"] = "use vm:run{ deadline = seconds }", ["cpu.pc"] = "use cpu.rip",
      ["info.exit_code"] = "use info.code",
      ["kvm.timeout"] = "kvm has no 'timeout' that can be set",
      ["d.regs"] = "use d.reg", ["snapshot.nam"] = "a snapshot has no 'nam'",
    } do
      local name, key = wrong:match "(.*)%.(.*)"
      local ok, why = pcall(function() objects[name][key] = 1 end)
      assert.is_false(ok)
      assert.matches("^spec/lua/hints_spec.lua:%d+: ", why)
      assert.matches(text, why, 1, true)
    end
  end)

  it("is looked for in the VM's other objects, and may be misspelt", function()
    for wrong, text in pairs{
      ["vm.hexdump"] = "did you mean vm.memory:hexdump?",
      ["cpu.symbols"] = "did you mean vm.symbols?",
      ["vm.sendline"] = "did you mean vm.console:sendline?",
      ["vm.rax"] = "did you mean vm.cpu[0].rax?",
      ["vm.reed_mem"] = "use vm.memory:read(address, length)",
      ["info.resaon"] = "did you mean 'reason'?",
    } do
      local name, key = wrong:match "(.*)%.(.*)"
      local _, why = pcall(function() return objects[name][key] end)
      assert.matches(text, why, 1, true)
    end
  end)

  it("of a device's module, and of numbers, is answered, too", function()
    local rtc, abi = require "minikvm.devices.rtc", require "minikvm.abi"
    assert.error_matches(function() return rtc.neww end,
                         "devices.rtc has no 'neww' %(did you mean 'new'%?%)")
    assert.error_matches(function() return abi.PORT_HYPERCAL end,
                         "did you mean 'PORT_HYPERCALL'")
    assert.error_matches(function() rtc.mine = 1 end, "devices.rtc has no 'mine'")
  end)

  it("of the table of vCPUs is answered", function()
    assert.equal(1, #vm.cpu)
    assert.is_nil(vm.cpu[1]) -- so that loops end there
    assert.error_matches(function() return vm.cpu[2] end,
      "^vm.cpu has no vCPU 2: there is one, from 0 to 0$")
    assert.error_matches(function() return vm.cpu.rip end,
      "vm.cpu has no 'rip' %(did you mean vm.cpu%[0%].rip%?%)")
    assert.error_matches(function() vm.cpu[1] = 5 end, "a vCPU is added by vm:add_cpu%(%)")
    local other <close> = kvm.vm{ cpus = 3, echo = false, name = "three" }
    local seen = {}
    for i, cpu in pairs(other.cpu) do seen[#seen + 1] = i .. cpu.index end
    assert.same({ 3, "00 11 22" }, { #other.cpu, table.concat(seen, " ") })
  end)
end)

describe("what objects are", function()
  if support.without_kvm(pending) then return end

  it("print() says", function()
    local vm = assert(kvm.vm{ echo = false, name = "a", memory = "2M", irqchip = "pic" })
    vm:load{ bytes = "\xb0\x41\xe6\xe9\xf4" } -- mov al, 'A'; out 0xe9, al; hlt
    local handle = vm.ports:on(0x200, { read = function() return 1 end })
    local snapshot = vm:snapshot()
    local _, info = vm:run()
    for text, object in pairs{
      ['minikvm.vm "a" (real mode, 2M, 1 vCPU, ended)'] = vm,
      ['minikvm.cpu 0 of "a" (rip 0x5)'] = vm.cpu,
      ['minikvm.memory of "a" (2M of RAM)'] = vm.memory,
      ['minikvm.console of "a" (1 bytes printed)'] = vm.console,
      ["minikvm.handle (0 hits)"] = handle,
      ['minikvm.snapshot of "a" (real mode, 2M, 1 vCPU)'] = snapshot,
      ['minikvm.pci of "a" (0 functions)'] = vm.pci, ['minikvm.keyboard of "a"'] = vm.keyboard,
    } do
      assert.equal(text, tostring(object))
    end
    assert.matches("^halt: HLT with .* %(rip 0x5, %d exits?, 0.%d+ s%)$", tostring(info))
    assert.equal(1, #info.cpu)
    assert.matches("^halt: HLT with", tostring(info.cpu[0]))
    assert.matches("rax 0000000000000041.*rip 0000000000000005", tostring(vm.cpu[0]:regs()))
    assert.matches("16%-bit real mode", tostring(vm.cpu[0]:registers()))
    assert.matches("cs   0000 base 0 limit ffff", tostring(vm.cpu[0]:sregs()))
    assert.equal("0x5, page of 4096 bytes, writable, user", tostring(vm.cpu[0]:walk(5)))
    assert.matches("^KVM of host ", tostring(kvm.probe()))
    local thing = kvm.device{ name = "thing", size = 4, read = function() return 0 end }
    assert.equal('minikvm.definition "thing"', tostring(thing))
    assert.equal('minikvm.device "thing" (ports 0x300)',
                 tostring(vm:attach(thing, { ports = 0x300 })))
    assert.equal("minikvm.handle (0 hits)", tostring(vm.console:on_line(print)))
    local all = { vm = vm, cpu = vm.cpu[0], memory = vm.memory }
    vm:close()
    for name, object in pairs(all) do
      assert.matches("^minikvm." .. name .. '.*"a".*%(closed%)$', tostring(object))
    end
    snapshot:close()
    assert.equal("minikvm.snapshot (closed)", tostring(snapshot))
  end)

  it("results go to workers", function()
    local vm <close> = assert(kvm.vm{ echo = false })
    vm:load{ bytes = "\xf4" }
    local _, info = vm:run()
    local worker <close> = kvm.worker(function(me) me:send(me:receive().reason) end)
    worker:send(info)
    assert.equal("halt", (worker:receive()))
  end)

  it("fields of results that may be missing are nil, others errors", function()
    for kind, fields in pairs(strict.records) do
      assert.is_true(#fields > 0, kind)
    end
    local probe = kvm.probe()
    assert.is_nil(probe.why)
    assert.error_matches(function() return probe.okay end, "kvm.probe%(%) has no 'okay'")
  end)
end)
