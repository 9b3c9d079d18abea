-- Command lines by table: parsing, refusals, and the texts made from the same table.

local args = require "minikvm.cli.args"

local SPEC = {
  program = "prog", summary = "Does things.", notes = "That is all.",
  options = {
    { "--memory", "-m", value = "SIZE", type = "size", help = "RAM" },
    { "--at", value = "ADDR", type = "integer", help = "address" },
    { "--wait", value = "SEC", type = "seconds", help = "time" },
    { "--mode", value = "MODE", type = { "real", "long" }, help = "CPU mode" },
    { "--limit", value = "WHAT=N", repeatable = true, help = "limits" },
    { "--guest", "-g", value = "IMAGE", many = true, help = "images" },
    { "--no-coalesce", help = "exact exits" },
    { "--odd", value = "N", help = "odd numbers",
      type = function(text)
        if tonumber(text) % 2 == 1 then return tonumber(text) end
        return nil, text .. " is even"
      end },
  },
  rest = { key = "files", value = "file", min = 1, max = 3, help = "what to do it to" },
}

local function words(line)
  local list = {}
  for word in line:gmatch "%S+" do list[#list + 1] = word end
  return list
end

local function parse(line, spec) return args.parse(spec or SPEC, words(line)) end

describe("args.parse", function()
  for line, want in pairs{
    ["a"] = { files = { "a" } },
    ["a b c"] = { files = { "a", "b", "c" } },
    ["-"] = { files = { "-" } },
    ["--memory 4M a"] = { memory = 4 << 20, files = { "a" } },
    ["--memory=4M a"] = { memory = 4 << 20, files = { "a" } },
    ["-m 4M a"] = { memory = 4 << 20, files = { "a" } },
    ["-m4M a"] = { memory = 4 << 20, files = { "a" } },
    ["a -m 4M b"] = { memory = 4 << 20, files = { "a", "b" } },
    ["--at 0x7c00 a"] = { at = 0x7c00, files = { "a" } },
    ["--at -1 a"] = { at = -1, files = { "a" } },
    ["--wait 0.5 a"] = { wait = 0.5, files = { "a" } },
    ["--mode long a"] = { mode = "long", files = { "a" } },
    ["--limit x=1 --limit=y=2 a"] = { limit = { "x=1", "y=2" }, files = { "a" } },
    ["a -g b c d"] = { guest = { "b", "c", "d" }, files = { "a" } },
    ["-g b c --no-coalesce a"] = { guest = { "b", "c" }, no_coalesce = true, files = { "a" } },
    ["-g b -g c -- a"] = { guest = { "b", "c" }, files = { "a" } },
    ["--no-coalesce --no-coalesce a"] = { no_coalesce = true, files = { "a" } },
    ["-- -m --at"] = { files = { "-m", "--at" } },
    ["--odd 3 a"] = { odd = 3, files = { "a" } },
    ["--memory 4Q --help"] = false,
    ["--help"] = { help = true },
    ["-h -m"] = { help = true },
  } do
    it("reads " .. line, function()
      if want then
        assert.same(want, parse(line))
      else
        assert.is_nil(parse(line))
      end
    end)
  end

  for line, message in pairs{
    [""] = "file is missing",
    ["a b c d"] = "at most 3 file can be given, got 4",
    ["--memroy 4M a"] = "unknown option '--memroy' (did you mean '--memory'?)",
    ["--memroy=4M a"] = "unknown option '--memroy' (did you mean '--memory'?)",
    ["--no-coalese a"] = "unknown option '--no-coalese' (did you mean '--no-coalesce'?)",
    ["--colour a"] = "unknown option '--colour'",
    ["-x a"] = "unknown option '-x'",
    ["-m 4M -m 5M a"] = "--memory is given twice",
    ["a -m"] = "-m needs a value: -m SIZE",
    ["--memory --no-coalesce a"] = "--memory needs a value: --memory SIZE",
    ["--memory -- a"] = "--memory needs a value: --memory SIZE",
    ["--no-coalesce=1 a"] = "--no-coalesce takes no value",
    ["--at 1.5 a"] = "--at: expected an integer, got \"1.5\"",
    ["--wait -1 a"] = "--wait: expected seconds (a number, 0 or more), got \"-1\"",
    ["--wait inf a"] = "--wait: expected seconds (a number, 0 or more), got \"inf\"",
    ["--mode rael a"] = "--mode: expected real or long, got \"rael\" (did you mean \"real\"?)",
    ["--odd 4 a"] = "--odd: 4 is even",
  } do
    it(("refuses %q"):format(line), function()
      local result, why = parse(line)
      assert.is_nil(result)
      assert.equal(message, why)
    end)
  end

  it("refuses sizes of nothing and of nonsense", function()
    for _, size in ipairs{ "0", "-1", "4Q", "99999999999G" } do
      local result, why = parse("-m " .. size .. " a")
      assert.is_nil(result)
      assert.match("^%-%-memory: .*size", why)
    end
  end)

  it("refuses arguments where there are none", function()
    local _, why = parse("a", { program = "prog", options = {} })
    assert.equal("unexpected argument \"a\"", why)
  end)
end)

describe("args texts", function()
  it("name every option once, within 80 columns", function()
    local help = args.help(SPEC)
    for _, option in ipairs(SPEC.options) do
      assert.match(option[1]:gsub("%-", "%%-") .. "[ \n]", help)
      assert.truthy(help:find(option.help, 1, true))
    end
    for line in help:gmatch "[^\n]+" do assert.is_true(#line <= 80, line) end
  end)

  it("begin with a usage line", function()
    assert.match("^usage: prog %[%-%-memory SIZE%] ", args.usage(SPEC))
    assert.match(" file %[file%] %[file%]", args.usage(SPEC))
  end)
end)
