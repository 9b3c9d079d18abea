-- types/, the definitions for editors: every function, method, field and option that the module has
-- is there, described and with a type, and nothing more.

local support = require "support.guest"
local api = dofile "tools/api.lua"
local class = require "minikvm.class"
local core = require "minikvm.core"
local kvm = require "minikvm"
local options = require "minikvm.options"
local strict = require "minikvm.strict"

local types = api.read() -- raises for what LuaCATS would not understand

---Kinds of the core's with methods that no script gets hold of; those without are skipped.
local INTERNAL <const> = { ["minikvm.core.blocks"] = true, ["minikvm.stream"] = true,
                           ["minikvm.socket"] = true }
---Classes in Lua: those that are internal, and those with another name.
local UNSEEN <const> = { ["minikvm.children"] = true, ["minikvm.font"] = true,
                         ["minikvm.places"] = true, ["minikvm.spool"] = true }
local CALLED <const> = {
  listener = "minikvm.listener", ["handle of vm.hypercalls"] = "minikvm.hypercalls.handle",
  ["handle of console:forbid"] = "minikvm.forbid.handle",
  ["handle of vm.cpuid"] = "minikvm.cpuid.handle",
  ["linux fixture"] = "minikvm.test.linux", ["device definition"] = "minikvm.definition",
}
---What is a handle in another way.
local HANDLES <const> = { remove = true }

---The names of the module's parts that are in lua/.
local function part_names()
  local list = { "minikvm.abi" } -- which the build makes
  for path in assert(io.popen "cd lua && find minikvm -name '*.lua'"):lines() do
    list[#list + 1] = path:gsub("%.lua$", ""):gsub("(/.*)/init$", "%1"):gsub("/", ".")
  end
  return list
end

---Every part of the module that is for scripts is loaded, so that all has been said.
for _, name in ipairs(part_names()) do
  if name:find "^minikvm%." and not name:find "%.cli%." and not name:find "^minikvm%.test%.child"
     and not name:find "worker%.main" and not name:find "test%.runner"
     and name ~= "minikvm.init" then
    require(name)
  end
end

local function set(list)
  local names = {}
  for _, name in ipairs(list) do names[name] = true end
  return names
end

local function keys(t)
  local list = {}
  for key in pairs(t or {}) do
    if type(key) == "string" and key:sub(1, 2) ~= "__" then list[#list + 1] = key end
  end
  return list
end

local function names_of(entries)
  local list = {}
  for _, entry in ipairs(entries) do
    if not entry.index then list[#list + 1] = entry.name end
  end
  return list
end

---Two lists of names are the same, whatever their order.
local function assert_same_names(want, got, what)
  local missing, extra, known, listed = {}, {}, set(want), set(got)
  for name in pairs(known) do
    if not listed[name] then missing[#missing + 1] = name end
  end
  for name in pairs(listed) do
    if not known[name] then extra[#extra + 1] = name end
  end
  table.sort(missing)
  table.sort(extra)
  assert.same({ {}, {} }, { missing, extra }, what .. ": not in types/, and only there")
end

local function class_of(name)
  return types.classes[name] or error("types/ has no class " .. name)
end

local function all(name, what) return names_of(api.all(types, class_of(name), what)) end

---What a schema's rule takes, as a type begins.
local RULES <const> = { boolean = "boolean", integer = "integer", seconds = "number",
                        size = "minikvm.size", text = "string", string = "string" }

local function assert_type(rule, kind, what)
  if rule == "function" then
    assert.is_true(kind:find "^fun%(" ~= nil or kind == "function", what .. ": " .. kind)
  elseif type(rule) == "string" and RULES[rule] then
    assert.equal(RULES[rule], kind, what)
  elseif type(rule) == "table" and rule[1] then
    local words = {}
    for i, word in ipairs(rule) do words[i] = ("%q"):format(word) end
    assert.equal(table.concat(words, "|"), kind, what)
  end
end

local counts = { functions = 0, fields = 0, options = 0 }
for _, one in ipairs(types.list) do
  local kind = #one.options_of > 0 and "options" or "fields"
  counts.functions = counts.functions + #one.methods
  for _, field in ipairs(one.fields) do
    if not field.private then counts[kind] = counts[kind] + 1 end
  end
end

---Names of all fields and methods of a class.
local function members(name)
  local list = all(name, "fields")
  return table.move(all(name, "methods"), 1, #all(name, "methods"), #list + 1, list)
end

local function joined(a, b) return table.move(b, 1, #b, #a + 1, table.move(a, 1, #a, 1, {})) end

describe(("types: %d functions, %d options and %d fields"):format(counts.functions, counts.options,
                                                                counts.fields), function()
  it("are those of the module and of its parts", function()
    assert_same_names(keys(kvm), members "minikvm", "kvm")
    local parts = 0
    for _, one in ipairs(types.list) do
      if one.module and one.module ~= "minikvm" then
        assert_same_names(keys(require(one.module)), members(one.name), one.module)
        parts = parts + 1
      end
    end
    for _, name in ipairs(part_names()) do
      if name:find "^minikvm%.devices%." then class_of(name) end
    end
    assert.is_true(parts >= 15)
  end)

  it("are those of the core's kinds of objects", function()
    local seen = 0
    for name in assert(io.popen [=[grep -hoE '"minikvm\.[a-z.]+"' src/lua/*.[ch]]=]):lines() do
      pcall(core.methods, name:match '"(.*)"') -- one is made when it is first asked for
    end
    for kind, meta in pairs(debug.getregistry()) do
      if type(kind) == "string" and kind:find "^minikvm%." and type(meta) == "table"
         and meta.methods and not INTERNAL[kind] then
        local has = joined(keys(meta.methods), strict.fields(kind))
        if has[1] or types.classes[kind] then assert_same_names(has, members(kind), kind) end
        seen = seen + (has[1] and 1 or 0)
      end
    end
    assert.is_true(seen >= 18)
  end)

  it("are those of the kinds of objects that are made in Lua", function()
    local by_methods = {}
    for what, sealed in pairs(strict.sealed) do
      local name = CALLED[what] or "minikvm." .. what
      by_methods[sealed.methods] = true
      assert_same_names(joined(keys(sealed.methods), sealed.fields), members(name), name)
    end
    for _, made in ipairs(class.made) do
      if not by_methods[made.methods] and not UNSEEN[made.name] then
        assert_same_names(keys(made.methods), all(made.name, "methods"), made.name)
      end
    end
    for _, made in ipairs(class.made) do -- several handles behind one
      if made.name == "minikvm.places" then
        for _, name in ipairs(keys(made.methods)) do assert.is_true(HANDLES[name], name) end
      end
    end
  end)

  it("are those of the tables of results", function()
    for kind, fields in pairs(strict.records) do
      assert_same_names(fields, all("minikvm." .. kind, "fields"), kind)
    end
  end)

  it("are those that option tables are checked against", function()
    local claimed = {}
    for _, one in ipairs(types.list) do
      for _, where in ipairs(one.options_of) do
        local schema = assert(options.schemas[where], where .. ": nothing declares such options")
        local own = where:find "^t%." -- those of kvm.vm are checked as such
        local entries = own and one.fields or api.all(types, one, "fields")
        assert_same_names(keys(schema), names_of(entries), where)
        for _, field in ipairs(entries) do
          if not field.index then
            assert_type(schema[field.name], field.type, where .. ": " .. field.name)
          end
        end
        claimed[where] = true
      end
    end
    for where in pairs(options.schemas) do
      assert.is_true(claimed[where], where .. ": no class of types/ says \"Options of\" it")
    end
  end)

  it("are all in docs/lua-api.md, whose tables are those of tools/api.lua", function()
    local document = support.read_file "docs/lua-api.md"
    local documented, missing = api.documented(document), {}
    for _, one in ipairs(types.list) do
      if not documented[one.name] and one.name ~= "minikvm.abi" then -- docs/abi.md has that
        missing[#missing + 1] = one.name
      end
    end
    assert.same({}, missing)
    assert.equal(api.render(types, document), document, "run lua5.4 tools/api.lua")
  end)

  it("are described", function()
    local silent = {}
    for _, one in ipairs(types.list) do
      if one.text == "" then silent[#silent + 1] = one.name end
      for _, field in ipairs(one.fields) do
        if not field.private and not field.index and field.text == "" then
          silent[#silent + 1] = one.name .. "." .. field.name
        end
      end
      for _, method in ipairs(one.methods) do
        if method.text == "" then silent[#silent + 1] = one.name .. ":" .. method.name end
      end
    end
    assert.same({}, silent)
  end)
end)

-- ---- results ----

---What is wrong with a value of a type of types/, as its text; nil: nothing. Functions are not
---looked into.
local wrong_with

local function wrong_with_class(value, one, path)
  local known = {}
  for _, field in ipairs(api.all(types, one, "fields")) do
    known[field.name] = true
    if not field.index then
      local wrong = wrong_with(value[field.name], field.type, path .. "." .. field.name,
                               field.optional)
      if wrong then return wrong end
    end
  end
  for key in pairs(value) do
    if type(key) == "string" and not known[key] and not known["[integer|string]"] then
      return ("%s.%s is not in types/"):format(path, key)
    end
  end
end

local function alternatives(kind)
  local list, depth, from = {}, 0, 1
  for at, c in kind:gmatch "()([%[%](){}<>|])" do
    if c:find "[%[({<]" then
      depth = depth + 1
    elseif c == "|" and depth == 0 then
      list[#list + 1] = kind:sub(from, at - 1)
      from = at + 1
    elseif c ~= "|" then
      depth = depth - 1
    end
  end
  list[#list + 1] = kind:sub(from)
  return list
end

local function fits(value, kind, path)
  if kind == "any" or kind == "nil" and value == nil then return true end
  if kind:find '^"' then return value == kind:match '^"(.*)"$' end
  if kind == "true" or kind == "false" then return tostring(value) == kind end
  if kind:find "^%d+$" then return value == tonumber(kind) end
  if kind:find "^fun%(" then return type(value) == "function" end
  if kind == "integer" then return math.type(value) == "integer" end
  if kind:find "^table<" then return type(value) == "table" end
  local element = kind:match "^(.*)%[%]$"
  if element then
    for i, one in ipairs(type(value) == "table" and value or {}) do
      if wrong_with(one, element, ("%s[%d]"):format(path, i)) then return false end
    end
    return type(value) == "table"
  end
  local alias, one = types.aliases[kind], types.classes[kind]
  if alias then return alias.type == "" or not wrong_with(value, alias.type, path) end
  if not one then return type(value) == kind end
  if type(value) == "table" and core.kind(value) == nil then
    return wrong_with_class(value, one, path) == nil, wrong_with_class(value, one, path)
  end
  return core.kind(value) == kind
end

function wrong_with(value, kind, path, optional)
  if value == nil and optional then return end
  local why
  for _, one in ipairs(alternatives(kind)) do
    local ok, reason = fits(value, one, path)
    if ok then return end
    why = reason or why
  end
  return why or ("%s is no %s but %s"):format(path, kind, tostring(value))
end

describe("types: what a function returns", function()
  if support.without_kvm(pending) then return end

  it("is what types/ says", function()
    local vm <close> = assert(kvm.vm{ echo = false, irqchip = "pic", stats = true,
                                      files = kvm.files{ root = ".", audit = true } })
    vm:load{ bytes = "\xe4\x80\xe6\x80\xf4" } -- in al, 0x80; out 0x80, al; hlt
    vm.ports:on(0x80, { read = function() return 1 end })
    local breakpoint = vm:break_at(2)
    local _, stopped = vm:run()
    breakpoint:remove()
    local _, halted = vm:run()
    vm.files:open "README.md"
    local _, crashed
    do
      local other <close> = assert(kvm.vm{ echo = false, mode = "protected" })
      other:load{ bytes = "\x0f\x0b" } -- ud2, without an IDT
      _, crashed = other:run()
    end
    local values = {
      ["minikvm.result"] = { stopped, halted, crashed }, ["minikvm.stop"] = { stopped.stop },
      ["minikvm.probe"] = { kvm.probe() },
      ["minikvm.instruction"] = kvm.disassemble("\x90\xf4", 64),
      ["minikvm.regs"] = { vm.cpu[0]:regs() }, ["minikvm.sregs"] = { vm.cpu[0]:sregs() },
      ["minikvm.registers"] = { vm.cpu[0]:registers() }, ["minikvm.walk"] = { vm.cpu[0]:walk(0) },
      ["minikvm.listing"] = { vm.cpu[0]:disassemble(2, 0) },
      ["minikvm.backtrace"] = { vm.cpu[0]:backtrace() }, ["minikvm.region"] = vm.memory:regions(),
      ["minikvm.place"] = { vm:place_of(0) }, ["minikvm.stats.row"] = vm:stats(),
      ["minikvm.audit"] = (vm.files:audit()), ["minikvm.usage"] = { vm.files:usage() },
      ["minikvm.screen.cell"] = { vm:screen():cell(0, 0) },
      ["minikvm.cpuid.registers"] = { vm.cpuid:get(0) },
    }
    assert.equal("x.bogus is not in types/", wrong_with({ open = 1, bytes = 0, files = 0,
                 bogus = 1 }, "minikvm.usage", "x"))
    assert.equal("x.open is no integer but nil", wrong_with({}, "minikvm.usage", "x"))
    for kind, list in pairs(values) do
      assert.is_true(#list > 0, kind)
      for _, value in ipairs(list) do assert.is_nil(wrong_with(value, kind, kind)) end
    end
  end)
end)
