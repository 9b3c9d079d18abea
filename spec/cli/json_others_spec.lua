-- The JSON writer, and --json of what runs no guest of its own: minikvm doctor, minikvm test,
-- benches. What a reader of JSON (RFC 8259; dkjson, which Busted has) finds there, and nothing else
-- on stdout.

local dkjson = require "dkjson"
local json = require "minikvm.json"
local kvm = require "minikvm"
local object_of = require "support.json"
local program = require "support.program"

local run = program.run

describe("the JSON writer", function()
  it("writes what a reader reads", function()
    local value = { text = 'a "b" \\ \n\t\0\127é', list = { 1, -2, 2.5, true, "x", { {} } },
                    [""] = false, big = 1 << 53, small = 1e-300, third = 1 / 3 }
    assert.same(value, (dkjson.decode(json.encode(value))))
    assert.equal('{"a":[],"b":{},"c":null,"d":null}',
                 json.encode{ d = json.null, c = 0 / 0, b = {}, a = json.list{} })
    assert.equal("[null,null]", json.encode{ 1 / 0, -1 / 0 })
    assert.equal('"\\u00ffA"', json.encode "\xffA")
    assert.equal("0x8000000000000000", json.hex(math.mininteger))
  end)
end)

describe("minikvm doctor --json", function()
  it("has the checks, the probe and the status of the text", function()
    local r = run "P doctor --json"
    local o = object_of(r)
    assert.equal(r.status, o.status)
    assert.equal(kvm._VERSION, o.minikvm)
    assert.equal(kvm.probe().ok, o.probe.ok)
    assert.equal("processor", o.checks[1].name)
    for _, check in ipairs(o.checks) do
      assert.is_true(check.verdict == "ok" or check.verdict == "warn" or check.verdict == "fail")
    end
  end)
end)

describe("minikvm test --json", function()
  local folder
  setup(function()
    folder = os.tmpname()
    os.remove(folder)
    os.execute(([[mkdir %s && cat >%s/a_spec.lua <<'END'
it("passes", function() print "noise" end)
it("fails \1 <b>", function() assert.equal(1, 2) end)
it("is skipped", function() pending "later" end)
END]]):format(folder, folder))
  end)
  teardown(function() os.execute("rm -r " .. folder) end)

  it("has each test of each file", function()
    local r = run(("P test --json --artefacts %s/kept %s"):format(folder, folder))
    local o = object_of(r)
    assert.same({ 1, 1, 1, 1, 1 }, { r.status, o.status, o.passed, o.failed, o.skipped })
    local file = o.files[1]
    assert.equal(folder .. "/a_spec.lua", file.path)
    assert.same({ "pass", "fail", "skip" },
                { file.tests[1].status, file.tests[2].status, file.tests[3].status })
    assert.equal("fails \1 <b>", file.tests[2].name)
    assert.equal(folder .. "/a_spec.lua:2", file.tests[2].where)
    assert.matches("Expected objects to be equal", file.tests[2].message)
    assert.matches("later$", file.tests[3].message)
  end)

  it("lists files, tells what passed sometimes, and is not TAP", function()
    local o = object_of(run("P test --json --list " .. folder))
    assert.same({ { path = folder .. "/a_spec.lua" } }, o.files)
    assert.same({}, object_of(run(("P test --json --repeat 2 --artefacts %s/kept %s")
      :format(folder, folder))).flaky)
    local r = run("P test --json --tap " .. folder)
    assert.same({ 2, "" }, { r.status, r.out })
    assert.matches("%-%-tap and %-%-json exclude each other", r.err)
  end)
end)

describe("minikvm run --json", function()
  it("goes with no option that takes stdout", function()
    for option, why in pairs{ ["--prompt"] = "%-%-json is for images that run",
                              ["--screen"] = "without %-%-json" } do
      local r = run(("P run --json %s x"):format(option))
      assert.same({ 2, "" }, { r.status, r.out })
      assert.matches(why, r.err)
    end
  end)
end)

describe("tools/bench --json", function()
  it("has medians, quartiles, targets", function()
    local script = program.file [[
local report = require "report"
report.title "t"
report.note "  n:"
report.line("l", { 3, 1, 2, 5, 4 }, "ms", 10, 29)
report.line("m", { 1 }, "x", 1, -1)
report.finish()]]
    local r = run(("BENCH_JSON=1 BENCH_BARE=x BENCH_MINIKVM=x LUA_PATH='bench/?.lua;;' P %s")
      :format(script))
    os.remove(script)
    local o = object_of(r)
    assert.same({ 1, 1 }, { r.status, o.missed })
    assert.same({ { title = "t", note = "n:", name = "l", unit = "ms", median = 30, low = 20,
                    high = 40, most = 29, reached = false },
                  { title = "t", note = "n:", name = "m", unit = "x", median = 1, low = 1, high = 1,
                    least = 1, reached = true } }, o.figures)
    assert.equal(2, run("tools/bench --json nothing").status)
  end)
end)
