-- --json of minikvm run, doctor and test, vm:stats():json(), and the writer: what a reader of JSON
-- (RFC 8259; dkjson, which Busted has) finds there, and nothing else on stdout.

local dkjson = require "dkjson"
local json = require "minikvm.json"
local kvm = require "minikvm"
local program = require "support.program"
local support = require "support.guest"

local run, image = program.run, program.image

---The one object that a command printed, which is all of stdout.
local function object_of(r)
  assert.matches("^{[^\n]*}\n$", r.out)
  local object, last, why = dkjson.decode(r.out)
  assert(object, why)
  assert.equal(#r.out, last)
  return object
end

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

describe("minikvm run --json", function()
  it("says why there is no VM", function()
    local r = run "P run --json /nowhere/a.bin"
    local o = object_of(r)
    assert.same({ 1, 1 }, { r.status, o.status })
    assert.matches('"reason":null', r.out, 1, true)
    assert.same({ 1, "a" }, { o.vms[1].status, o.vms[1].name })
    assert.equal(o.messages[1], o.vms[1].error)
    assert.equal("minikvm: " .. o.messages[1] .. "\n", r.err)
    assert.equal("", run("P run --json --nothing x").out)
  end)

  if support.without_kvm(pending) then return end

  it("has output, counters and registers of each VM, and what ports cost", function()
    local hi, bad = image "b0 48 e6 e9 b0 ff e6 e9 f4", image "66 b8 07 00 00 00 66 e7 f4"
    local r = run(("P run --json --stats --no-coalesce --name hi --name bad %s %s"):format(hi, bad))
    os.remove(hi)
    os.remove(bad)
    local o = object_of(r)
    local a, b = o.vms[1], o.vms[2]
    assert.same({ "hi", hi, "real", "halt", 0, "Hÿ", 2, 3 },
                { a.name, a.image, a.mode, a.reason, a.status, a.output, a.output_bytes, a.exits })
    assert.same({ io = 2, hlt = 1 }, a.by)
    assert.same({ "0x9", "0xff" }, { a.cpus[1].rip, a.cpus[1].registers.rax })
    assert.same({ "port", "0xe9", "0xe9", 2, 2 },
                { a.stats[1].kind, a.stats[1].first, a.stats[1].last, a.stats[1].accesses,
                  a.stats[1].c })
    assert.same({ "exit", 7, 7, 7 }, { b.reason, b.code, b.status, o.status })
    assert.same({ "bad: exit: the guest wrote 7 to the exit port" }, o.messages)
    assert.equal(7, r.status)
  end)

  it("tells of an end by Ctrl-C", function()
    local code = image "b0 52 e6 e9 eb fe"
    local r = program.start(("exec P run --json --trace %s 2>&1"):format(code)):wait "out"
      :kill "INT":finish()
    os.remove(code)
    assert.equal(130, r.status)
    local o = assert(dkjson.decode(r.out:match "{.*}"))
    assert.equal(130, o.status)
    assert.same({ "R", "interrupted" }, { o.vms[1].output, o.vms[1].error })
  end)
end)

describe("vm:stats():json()", function()
  it("is a list, also when there is nothing", function()
    if support.without_kvm(pending) then return end
    local vm <close> = support.vm{}
    assert.equal("[]", vm:stats():json())
    assert(vm:load{ bytes = "\xb0\x41\xe6\xe9\xf4" })
    vm:run()
    local list = dkjson.decode(vm:stats():json())
    assert.same({ "0xe9", 1 }, { list[1].first, list[1].accesses })
  end)
end)
