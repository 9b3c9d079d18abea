-- Tracefiles of lcov: lua/minikvm/debug/lcov.lua. The format: geninfo(1), "FILES".

require "minikvm" -- first: it brings the parts
local lcov = require "minikvm.debug.lcov"

local ONE <const> = [[
TN:one
SF:/src/a.c
FN:1,main
FN:9,helper
FNDA:1,main
FNDA:0,helper
FNF:2
FNH:1
BRDA:3,0,0,1
BRDA:3,0,1,0
BRDA:10,0,0,-
BRDA:10,0,1,-
BRF:4
BRH:1
DA:2,1
DA:3,1
DA:10,0
LF:3
LH:2
end_of_record
]]

describe("an lcov tracefile", function()
  it("is read and written as it was", function()
    assert.equal(ONE, lcov.format(assert(lcov.parse({}, ONE, "one")), "one"))
  end)

  it("is summed up with others: counts add, '-' gives way to a number", function()
    local data = assert(lcov.parse({}, ONE, "one"))
    assert(lcov.parse(data, "TN:\nSF:/src/a.c\nFN:9,helper\nFNDA:2,helper\nBRDA:10,0,0,4\n"
      .. "BRDA:10,0,1,0\nDA:10,4\nend_of_record\nSF:/src/b.c\nDA:1,0\nend_of_record\n", "two"))
    local text = lcov.format(data)
    for _, line in ipairs{ "FNDA:2,helper", "FNDA:1,main", "BRDA:10,0,0,4", "BRDA:10,0,1,0",
                           "DA:10,4", "DA:3,1", "SF:/src/b.c" } do
      assert(text:find("\n" .. line .. "\n", 1, true), line .. " is not in\n" .. text)
    end
    assert.same({ lines = 4, lines_hit = 3, functions = 2, functions_hit = 2, branches = 4,
                  branches_hit = 2 }, lcov.summary(data))
    assert.equal("lines 75.0% (3 of 4), functions 100.0% (2 of 2), branches 50.0% (2 of 4)",
                 lcov.text(data))
  end)

  it("of lcov 2 has the last lines of functions, too", function()
    local data = assert(lcov.parse({}, "SF:a.c\nFN:1,7,main\nFNDA:3,main\nend_of_record\n", "x"))
    assert.same({ line = 1, count = 3 }, data["a.c"].functions.main)
  end)

  it("that is damaged is refused, with its line", function()
    for text, want in pairs{
      ["SF:a.c\nDA:x,1\nend_of_record\n"] = 'x:2: not a line of an lcov tracefile: "DA:x,1"',
      ["DA:1,1\n"] = 'x:1: not a line of an lcov tracefile: "DA:1,1"',
      ["hello\n"] = 'x:1: not a line of an lcov tracefile: "hello"',
      ["SF:a.c\nDA:1,1\n"] = "x: it ends within a record",
      ["SF:a.c\n" .. ("x"):rep(1 << 20)] =
        ('x:2: not a line of an lcov tracefile: "%s"'):format(("x"):rep(60)),
    } do
      local data, why = lcov.parse({}, text, "x")
      assert.is_nil(data)
      assert.equal(want, why)
    end
  end)

  it("that cannot be read or written is named", function()
    assert.same({ nil, "/none/x.info: No such file or directory" },
                { lcov.read({}, "/none/x.info") })
    assert.same({ nil, "/none/x.info: No such file or directory" },
                { lcov.write({}, "/none/x.info") })
  end)

  it("becomes pages by genhtml", function()
    if not lcov.has_genhtml() then return pending "needs genhtml (Debian: lcov)" end
    local folder = os.tmpname()
    os.remove(folder)
    os.execute("mkdir '" .. folder .. "'")
    local source = io.open(folder .. "/a.c", "w")
    source:write(("line\n"):rep(12))
    source:close()
    local data = lcov.parse({}, (ONE:gsub("/src", folder)), "one")
    assert(lcov.parse(data, "SF:/none/b.c\nDA:1,0\nend_of_record\n", "a source that is not there"))
    assert(lcov.write(data, folder .. "/it's.info"))
    local made, why = lcov.pages(folder .. "/it's.info", folder .. "/pages")
    local page = io.open(folder .. "/pages/index.html")
    local text = page and page:read "a" or ""
    if page then page:close() end
    local gone, message = lcov.pages(folder .. "/none.info", folder .. "/pages")
    os.execute("rm -rf '" .. folder .. "'")
    assert(made, why)
    assert(text:find("50.0&nbsp;%", 1, true), text) -- two lines of four
    assert(not gone and message:find "none.info", message)
  end)
end)
