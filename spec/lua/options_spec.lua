-- Option tables: what is accepted, and that a refusal names the key and what was meant.

local options = require "minikvm.options"

local SCHEMA = {
  name = "string", cpus = "integer", memory = "size", deadline = "seconds", coalesce = "boolean",
  trace = "function", tag = "any", mode = { "real", "protected", "long" },
  limits = { exits = "integer", seconds = "seconds" },
  even = function(value, key)
    if math.type(value) == "integer" and value % 2 == 0 then return value // 2 end
    return nil, key .. " is odd"
  end,
}

local function refusal(opts)
  local accepted, message = pcall(options.check, "kvm.vm", opts, SCHEMA)
  assert.is_false(accepted)
  return (message:gsub("^%S+:%d+: ", ""))
end

describe("options.check", function()
  it("returns a checked copy", function()
    local trace = function() end
    local opts = { name = "a", cpus = 2.0, memory = "4M", deadline = 0.5, coalesce = false,
                   trace = trace, tag = SCHEMA, mode = "long", limits = { exits = 3 }, even = 6 }
    assert.same({ name = "a", cpus = 2, memory = 4 << 20, deadline = 0.5, coalesce = false,
                  trace = trace, tag = SCHEMA, mode = "long", limits = { exits = 3 }, even = 3 },
                options.check("kvm.vm", opts, SCHEMA))
    assert.equal("4M", opts.memory)
  end)

  it("takes nil for no options", function()
    assert.same({}, options.check("kvm.vm", nil, SCHEMA))
  end)

  it("names the nearest key for an unknown one", function()
    assert.equal("kvm.vm: unknown option 'memroy' (did you mean 'memory'?)",
                 refusal{ memroy = "4M" })
    assert.equal("kvm.vm: unknown option 'mem' (did you mean 'memory'?)", refusal{ mem = "4M" })
    assert.equal("kvm.vm: unknown option 'limits.exit' (did you mean 'limits.exits'?)",
                 refusal{ limits = { exit = 1 } })
  end)

  it("names none when nothing is near", function()
    assert.equal("kvm.vm: unknown option 'colour'", refusal{ colour = 1 })
    assert.equal("kvm.vm: unknown option [1]", refusal{ "real" })
    assert.match("^kvm.vm: unknown option %[table: ", refusal{ [{}] = 1 })
    assert.equal("kvm.vm: unknown option '100%s'", refusal{ ["100%s"] = 1 })
  end)

  for key, case in pairs{
    name = { 3, "option 'name': expected a string, got the number 3" },
    cpus = { "2", "option 'cpus': expected an integer, got \"2\"" },
    coalesce = { "no", "option 'coalesce': expected true or false, got \"no\"" },
    trace = { true, "option 'trace': expected a function, got true" },
    limits = { 5, "option 'limits': expected a table, got the number 5" },
    even = { 5, "option 'even': even is odd" },
    mode = { "rael", "option 'mode': expected \"real\" or \"protected\" or \"long\", got \"rael\""
             .. " (did you mean \"real\"?)" },
  } do
    it("says what is wrong with " .. key, function()
      assert.equal("kvm.vm: " .. case[2], refusal{ [key] = case[1] })
    end)
  end

  it("refuses a NUL byte where C would stop reading", function() -- a file of a shorter name
    local kvm = require "minikvm"
    for _, wrong in ipairs{ { name = "a\0b" }, { cmdline = "a\0b" } } do
      assert.error_matches(function() kvm.vm(wrong) end, "expected a string without NUL bytes")
    end
    for _, path in ipairs{ kvm.load_snapshot, kvm.worker } do
      assert.error_matches(function() path "README.md\0x" end,
        '"README.md\\0%.%.%.": a path or name may not contain a NUL byte')
    end
  end)

  it("wants a table", function()
    assert.equal("kvm.vm: expected a table of options, got \"real\"", refusal "real")
  end)

  it("refuses seconds that are negative, infinite or no number", function()
    for _, seconds in ipairs{ -1, math.huge, 0 / 0, "1" } do
      assert.match("option 'deadline': expected seconds", refusal{ deadline = seconds })
    end
  end)

  it("blames the script's line", function()
    local vm = load([[local options, schema = ...
      return function(opts) return (options.check("kvm.vm", opts, schema)) end]],
      "@minikvm/one_of_its_parts.lua")(options, SCHEMA)
    local line = debug.getinfo(1, "l").currentline + 1
    local _, message = pcall(function() vm{ memroy = 1 } end)
    assert.match(("options_spec.lua:%d: kvm.vm: unknown"):format(line), message)
  end)
end)

describe("options.size", function()
  for text, bytes in pairs{ ["4096"] = 4096, ["1K"] = 1024, ["256k"] = 256 << 10, ["4M"] = 4 << 20,
                            ["1G"] = 1 << 30, ["0x1000"] = 4096 } do
    it("reads " .. text, function() assert.equal(bytes, options.size(text)) end)
  end

  it("takes positive integers", function()
    assert.equal(1, options.size(1))
    assert.equal(math.maxinteger, options.size(math.maxinteger))
  end)

  for _, bad in ipairs{ 0, -1, 4.5, 4096.0, "0", "0M", "-4M", "4Q", "4.5M", "4 M", "M", "", "4MM",
                        "9999999999G", "99999999999999999999", "0xffffffffffffffff",
                        "0x1ffffffffffffffff", true, {} } do
    it(("refuses %s"):format(tostring(bad)), function()
      local bytes, why = options.size(bad)
      assert.is_nil(bytes)
      assert.match("size", why)
    end)
  end
end)

describe("options.nearest", function()
  local words = { "memory", "mode", "exits", "--input" }
  for word, meant in pairs{ memroy = "memory", Memory = "memory", memery = "memory", mod = "mode",
                            exit = "exits", mem = "memory", ["--inptu"] = "--input" } do
    it(word .. " means " .. meant, function()
      assert.equal(meant, options.nearest(word, words))
    end)
  end
  for _, word in ipairs{ "", "x", "colour", "me", "exhaustive" } do
    it(("%q is near to none"):format(word), function()
      assert.is_nil(options.nearest(word, words))
    end)
  end
end)
