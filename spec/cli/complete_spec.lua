-- What Tab offers at the prompt, and what help there is, without a terminal.

require "minikvm" -- first: it brings the parts
local core = require "minikvm.core"
local complete = require "minikvm.cli.complete"
local commands = require "minikvm.cli.commands"
local help = require "minikvm.cli.help"
local support = require "support.guest"

---What replaces the last word of a line, as libedit cuts it off.
local function words(line)
  return complete.words(line, line:match "[^ \t\n\"\\\\'`@$><=;|&{(]*$", commands)
end

describe("Tab", function()
  local before = _G.vm
  after_each(function() _G.vm, _G.probe_table = before, nil end)

  it("offers commands, keywords and globals at the beginning", function()
    assert.same({ "collectgarbage", "continue", "coroutine" }, words "co")
    assert.same({ "repeat" }, words "rep")
    assert.same({ "disassemble" }, words "disa")
    assert.same({ "while" }, words "x = whi")
    assert.same({}, words "nosuchthing")
  end)

  it("offers what tables have, also by their metatables, and runs nothing of them", function()
    local ran = false
    local function run() ran = true end
    _G.probe_table = setmetatable({ one = 1, only = { deep = {} }, ["no name"] = 1, _hidden = 1 },
                                  { __index = setmetatable({ once = print }, { __index = run }),
                                    __pairs = run, __len = run })
    assert.same({ "probe_table.once", "probe_table.one", "probe_table.only" },
                words "probe_table.on")
    assert.same({ "probe_table:once" }, words "print(probe_table:o")
    assert.same({ "probe_table.only.deep" }, words "probe_table.only.")
    assert.same({ "probe_table._hidden" }, words "probe_table._")
    assert.same({}, words "probe_table.nothing.")
    assert.same({}, words "probe_table().on")
    assert.is_false(ran)
    assert.same({ "string.format" }, words "string.fo")
  end)

  it("offers files in strings, and behind commands that take one", function()
    assert.same({ "guests/real/hello.S", "guests/real/hello.bin", "guests/real/hello.expect" },
                words 'vm:load "guests/real/hello.')
    assert.same({ "guests/real/" }, words "vm:load 'guests/rea")
    assert.same({ "README.md" }, words "trace READM")
    assert.same({}, words 'vm:load "nowhere/')
  end)

  it("offers no more than can be looked through", function()
    _G.probe_table = {}
    for i = 1, 10000 do _G.probe_table["field" .. i] = i end
    assert.equal(200, #words "probe_table.f")
  end)

  describe("on a VM", function()
    if support.without_kvm(pending) then return end

    it("offers methods, fields, registers and symbols", function()
      local vm <close> = support.vm()
      assert(vm:load "guests/boot/multiboot2.elf")
      _G.vm = vm
      assert.same({ "vm:symbol_at" }, words "print(vm:symb")
      assert.same({ "vm.memory", "vm.mmio", "vm.mode", "vm.msrs" }, words "vm.m")
      assert.same({ "vm.cpu[0].rflags" }, words "vm.cpu[0].rf")
      assert.same({ "vm.cpu[0]:disassemble" }, words "vm.cpu[0]:dis")
      local some
      for name in pairs(vm.symbols) do
        if name:find "^[%a_]+$" then some = name end
      end
      local offered = table.concat(words("x " .. some:sub(1, -2)), " ")
      assert.matches(some, offered, 1, true)
      assert.matches(some, table.concat(words(('vm.symbols["%s'):format(some:sub(1, -2))), " "), 1,
                     true)
      vm:close()
      assert.same({}, words "x a_symbol")
    end)
  end)
end)

describe("help", function()
  it("is there for every method and function of the module", function()
    local missing = {}
    local kinds = { vm = "vm", cpu = "cpu", memory = "memory", ports = "ports", clock = "clock",
                    hypercalls = "hypercalls", console = "console", keyboard = "keyboard",
                    snapshot = "snapshot", cpuid = "cpuid", worker = "worker", mmio = "mmio",
                    msrs = "msrs", handle = "handle" }
    for kind in pairs(kinds) do
      for name, fn in pairs(core.methods("minikvm." .. kind)) do
        if not help.of(fn) then missing[#missing + 1] = kind .. ":" .. name end
      end
    end
    for name, fn in pairs(require "minikvm") do
      if type(fn) == "function" and not help.of(fn) then missing[#missing + 1] = "kvm." .. name end
    end
    assert.same({}, missing)
  end)

  it("is what docs/lua-api.md says, without its marks", function()
    local text = help.of "vm:add_cpu"
    assert.matches("^vm:add_cpu%(%)\n\nAdds a vCPU, at most the 64th, and returns it;", text)
    assert.not_matches("[`|]", text)
    for line in text:gmatch "[^\n]+" do assert.is_true(#line <= 92) end
    assert.matches("with a value, writes it", help.of "memory:u32", 1, true)
  end)

  it("is not there for what nobody knows", function()
    assert.same({ nil, "there is no help on snapshto (did you mean 'snapshot'?)" },
                { help.of "snapshto" })
    assert.same({ nil, "there is help on what is minikvm's, not on this table" }, { help.of{} })
    assert.is_nil(help.of(nil))
  end)
end)
