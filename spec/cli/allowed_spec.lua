-- What a script can reach under --safe, against lua/minikvm/cli/allowed.lua: all that is reached is
-- listed, all that is listed exists.

local lfs = require "lfs"
local allowed = require "minikvm.cli.allowed"
local class = require "minikvm.class"
local process = require "support.process"
local program = require "support.program"
local support = require "support.guest"

---What a script prints under --safe, which must end well.
local function prints(code)
  local path = program.file(code)
  local r = program.run("P --safe " .. path)
  os.remove(path)
  assert.equal("", program.without_missing(r.err))
  assert.equal(0, r.status)
  return r.out
end

-- Prints each path that leads from a value to something, by fields and metatables.
local WALK <const> = [[
  local seen = {}
  local function walk(path, value)
    print(path, type(value))
    if type(value) == "table" and not seen[value] then
      seen[value] = true
      for key, field in next, value do walk(path .. "." .. tostring(key), field) end
    end
    local meta = getmetatable(value)
    if type(meta) == "table" then walk(path .. ".metatable", meta) end
  end
]]

---The paths that WALK printed, with types; what `known` knows.
local function check_paths(out, known)
  for path, kind in out:gmatch "([^\t\n]*)\t(%a+)\n" do
    assert(known(path, kind), path .. ": a script reaches it, and it is in no list")
  end
end

describe("the list of what a script can reach under --safe", function()
  if process.without_jail(pending) then return end
  it("has all that its globals lead to", function()
    check_paths(prints(WALK .. "for key, value in pairs(_G) do walk(key, value) end"),
      function(path)
        path = path:gsub("^_G%.", "")
        local library, name = path:match "^(%a%w*)%.(.+)$"
        if library == "arg" then return name == "0" end
        if library then return (allowed.LIBRARIES[library] or {})[name] end
        return allowed.GLOBALS[path] or allowed.LIBRARIES[path]
      end)
  end)

  it("has all that minikvm's module and devices lead to, refused or allowed", function()
    local kvm = require "minikvm"
    local code = WALK .. "local kvm = require 'minikvm' walk('kvm', kvm)\n"
      .. "walk('abi', require 'minikvm.abi')\n"
    for name in pairs(allowed.DEVICES) do
      code = code .. ("walk('%s', require 'minikvm.devices.%s')\n"):format(name, name)
    end
    local reached = {}
    check_paths(prints(code), function(path, kind)
      reached[path] = true
      local part, name = path:match "^([^.]*)%.?(.*)$"
      if name == "" then return true end
      if part == "kvm" then return rawget(kvm, name) ~= nil end
      if part == "abi" then return kind == "number" end
      return allowed.DEVICES[part][name]
    end)
    for name in pairs(allowed.MODULE) do assert(reached["kvm." .. name], name) end
    for device, names in pairs(allowed.DEVICES) do
      for name in pairs(names) do assert(reached[device .. "." .. name], device .. "." .. name) end
    end
  end)

  it("refuses of the module what it has not", function()
    for name, value in pairs(require "minikvm") do
      if type(value) == "function" and not allowed.MODULE[name] then
        local out = prints(("print(pcall(require('minikvm').%s))"):format(name))
        assert.equal(("false\tkvm.%s is not there with --safe\n"):format(name),
                     (out:gsub("false\t[^\n]-: kvm", "false\tkvm")))
      end
    end
  end)

  it("has nothing that is not there", function()
    for name in pairs(allowed.GLOBALS) do
      assert(name == "arg" or _G[name] ~= nil, name .. ": Lua has no such global")
    end
    for library, names in pairs(allowed.LIBRARIES) do
      for name in pairs(names) do
        local path = library .. "." .. name
        assert(_G[library][name] ~= nil or allowed.OPTIONAL[path], path .. ": Lua has none")
      end
    end
    for file in lfs.dir "lua/minikvm/devices" do
      local name = file:match "^(.*)%.lua$"
      assert(not name or allowed.DEVICES[name], file .. ": a device of which nothing is said")
    end
  end)

  local methods_of_all -- by kind, of all parts

  it("has a word on every kind of object, and its methods exist", function()
    local folders <const> = { "debug", "vm", "device", "devices", "console", "net", "gdb", "linux" }
    for _, folder in ipairs(folders) do
      for file in lfs.dir("lua/minikvm/" .. folder) do
        local name = file:match "^(.*)%.lua$"
        if name == "init" then require("minikvm." .. folder)
        elseif name then require(("minikvm.%s.%s"):format(folder, name)) end
      end
    end
    local there = {}
    local function add(kind, methods)
      kind = kind:match "^minikvm%.(.+)$"
      assert(allowed.METHODS[kind] or allowed.INTERNAL[kind],
             kind .. ": a kind of objects of which nothing is said")
      there[kind] = there[kind] or {}
      for name in pairs(methods) do there[kind][name] = true end
    end
    for name in pairs(allowed.METHODS) do -- one is made when it is first asked for
      pcall(require("minikvm.core").methods, "minikvm." .. name)
    end
    for kind, meta in pairs(debug.getregistry()) do
      if type(kind) == "string" and kind:find "^minikvm%." and type(meta) == "table"
         and type(meta.methods) == "table" then
        add(kind, meta.methods)
      end
    end
    for _, made in ipairs(class.made) do
      if not made.name:find "^minikvm%.guest" then add(made.name, made.methods) end
    end
    for kind, names in pairs(allowed.METHODS) do
      assert(there[kind], kind .. ": there is no such kind")
      for name in pairs(names) do
        assert(there[kind][name], ("%s:%s: there is no such method"):format(kind, name))
      end
    end
    methods_of_all = there
  end)

  -- One object of each kind that a script is given, by kind.
  local OBJECTS <const> = [[
    local kvm = require "minikvm"
    local vm = kvm.vm{ name = "a", mode = "protected", echo = false, irqchip = "pic",
      files = kvm.files{} }
    local def = kvm.device{ name = "d", size = 1, read = print }
    local pci = vm.pci:attach(kvm.pci{ vendor = 0x1234, device = 1, class = 0xff0000,
      bars = { [0] = { size = 256 } } })
    local objects = { vm = vm, cpus = vm.cpu, cpu = vm.cpu[0], cpuid = vm.cpuid,
      ports = vm.ports, mmio = vm.mmio, msrs = vm.msrs, memory = vm.memory,
      console = vm.console, clock = vm.clock,
      keyboard = vm.keyboard, hypercalls = vm.hypercalls, vmfiles = vm.files, pci = vm.pci,
      files = kvm.files{}, snapshot = vm:snapshot(), screen = vm:screen(), stats = vm:stats(),
      definition = def, device = vm:attach(def, { ports = 0x300 }),
      handle = vm.ports:latch(0x80), timer = vm.clock:after(1, print),
      hub = require("minikvm.devices.net").hub(),
      capture = require("minikvm.devices.net").capture(),
      listing = vm.cpu[0]:disassemble() }
  ]]

  it("is all that objects have", function()
    if support.without_kvm(pending) then return end
    local names, code = {}, OBJECTS .. "local names, lists = {}, {}\n"
    for kind, methods in pairs(methods_of_all) do
      for name in pairs(methods) do names[name] = true end
      local list = {}
      for name in pairs(allowed.METHODS[kind] or {}) do list[#list + 1] = name .. " = true" end
      code = code .. ("lists[%q] = { %s }\n"):format(kind, table.concat(list, ", "))
    end
    for name in pairs(names) do code = code .. ("names[#names + 1] = %q\n"):format(name) end
    local out = prints(code .. [[
      local count = 0
      for kind, object in pairs(objects) do
        for _, name in ipairs(names) do
          local ok, method = pcall(function() return object[name] end)
          local is = ok and type(method) == "function"
          if lists[kind][name] and not is then print(kind .. ":" .. name .. " is missing") end
          if is and method ~= print and not lists[kind][name] then
            local _, why = pcall(method, object)
            if not tostring(why):find(name .. " is not there with --safe", 1, true) then
              print(kind .. ":" .. name .. " is there")
            end
          end
          count = count + 1
        end
      end
      print("done", count > 1000)
    ]])
    assert.equal("done\ttrue\n", out)
  end)
end)
