-- --json of minikvm run, and vm:stats():json(): what a reader of JSON (RFC 8259; dkjson, which
-- Busted has) finds there, and nothing else on stdout.

local dkjson = require "dkjson"
local object_of = require "support.json"
local program = require "support.program"
local support = require "support.guest"

local run, image = program.run, program.image

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
