-- `minikvm test --html DIR`: the page about a suite, the runs before, and folders that are not as
-- they should be.

local chromium = require "support.chromium"
local json = require "minikvm.json"
local process = require "support.process"
local read = require "minikvm.json_read"
local program = require "support.program"
local suites = require "support.suite"
local support = require "support.guest"

local PASS <const> = 'it("passes", function() end)\n'

---The data of a page.
local function data_of(page)
  return assert(read.decode(page:match '<script type="application/json" id="data">(.-)</script>'))
end

---The fields of a test, by name of the test.
local function rows_of(data)
  local rows = {}
  for _, t in ipairs(data.tests) do
    rows[t[2]] = { status = t[1], message = t[7], kept = t[8], detail = t[9] }
  end
  return rows
end

describe("minikvm test --html", function()
  if process.emulated then return pending "it is the same on every host" end

  it("has every test in one page that asks nobody for anything", function()
    local s <close> = suites.new{ ["a_spec.lua"] = PASS .. [[
      it("</script><img src=x onerror=alert(1)>\27[2J\0 \xff é", function() error "<b>\1" end)
      it(("n"):rep(65536), function() pending "later" end)]] }
    local r = s:test "--html D/report D"
    assert.same({ 1, "", "1 passed, 1 failed, 1 skipped" }, { r.status, r.err, r.last })
    local page = s:read "report/index.html"
    assert.is_nil(page:find("<img", 1, true))
    assert.equal(3, select(2, page:gsub("<script", "")) + select(2, page:gsub("<style", "")))
    assert.is_nil(page:gsub("'http://www.w3.org/2000/svg'", ""):find "https?:")
    assert.matches("default-src 'none'; img-src data:;", page, 1, true)
    local rows = rows_of(data_of(page))
    assert.equal(0, rows.passes.status)
    -- Control characters and what is not UTF-8 as \xHH: XML 1.0, 2.2
    local nasty = rows["</script><img src=x onerror=alert(1)>\\x1b[2J\\x00 \\xff é"]
    assert.matches("<b>\\x01", nasty.message, 1, true)
    for name in pairs(rows) do assert.is_true(#name < 400) end -- and the long one is cut
  end)

  it("tells how earlier runs went", function()
    local s <close> = suites.new{ ["a_spec.lua"] = 'it("x", function() error "no" end)' }
    s:test "--html D/r D"
    s:write("a_spec.lua", 'it("x", function() end)')
    assert.equal(0, s:test("--html D/r D").status)
    local runs = data_of(s:read "r/index.html").runs
    assert.same({ 2, 1, 0, 0, 1 }, { #runs, runs[1].bad, runs[1].pass, runs[2].bad, runs[2].pass })
    assert.equal(s.folder .. "/a_spec.lua: x", runs[1].failed[1])
    assert.equal(2, #read.decode(s:read "r/history.json").runs)
  end)

  it("keeps no more than 60 runs, and puts a damaged history aside", function()
    local s <close> = suites.new{ ["a_spec.lua"] = PASS }
    local run = { time = 1, seconds = 1, pass = 1, bad = 0, skip = 0, failed = json.list{} }
    local runs = {}
    for i = 1, 60 do runs[i] = run end
    s:write("r/history.json", json.encode{ runs = runs })
    s:test "--html D/r D"
    assert.equal(60, #data_of(s:read "r/index.html").runs)
    for _, text in ipairs{ '{"runs":[{"ti', "", '{"runs":[{"time":"x"}]}' } do
      s:write("r/history.json", text)
      local r = s:test "--html D/r D"
      assert.equal(0, r.status)
      assert.matches("%-%-html: .*history.json: .*is kept as .*the trend begins anew\n", r.err)
      assert.equal(text, s:read "r/history.json.damaged")
      assert.equal(1, #data_of(s:read "r/index.html").runs)
    end
  end)

  it("goes over a page that was left half written, and over no other", function()
    local s <close> = suites.new{ ["a_spec.lua"] = PASS, ["half/index.html"] = "",
                                  ["own/index.html"] = "<h1>my site</h1>", ["file"] = "x" }
    s:test "--html D/half D"
    local page = s:read "half/index.html"
    s:write("half/index.html", page:sub(1, 1000))
    assert.equal(0, s:test("--html D/half D").status)
    assert.equal(2, #data_of(s:read "half/index.html").runs)
    for folder, why in pairs{ own = "this is another page, not a report of minikvm test",
                              file = "it is no folder", ["no/such"] = "No such file" } do
      local r = s:test(("--html D/%s D"):format(folder))
      assert.same({ 2, "" }, { r.status, r.out }) -- before a test has run
      assert.matches("minikvm test: %-%-html: .*" .. why, r.err)
    end
    assert.equal("<h1>my site</h1>", s:read "own/index.html")
  end)

  it("says before the run that a folder is read-only", function()
    local s <close> = suites.new{ ["a_spec.lua"] = PASS, ["r/x"] = "" }
    local mount = "unshare -m sh -c 'mount -t tmpfs -o ro none " .. s.folder
      .. "/r && exec \"$0\" \"$@\"'"
    if not os.execute(mount .. " true 2>/dev/null") then return pending "cannot mount here" end
    local r = program.run(("%s P test --html %s/r %s"):format(mount, s.folder, s.folder))
    assert.same({ 2, "" }, { r.status, r.out })
    assert.matches("minikvm test: %-%-html: .*/r: Read%-only file system\n", r.err)
  end)

  ---A run of 1000 tests that failed, each with a VM whose texts are all its own.
  local function a_thousand(folder)
    local task = { path = "a_spec.lua", run = 1, results = {} }
    for i = 1, 1000 do
      task.results[i] = { name = "test " .. i .. ("<"):rep(300), where = "a_spec.lua:1",
                          status = "fail", seconds = 1, message = ("<%d>"):format(i):rep(2000),
                          file = task.path, run = 1, folder = folder, kept = "kept in " .. folder }
    end
    return { o = { ["repeat"] = 1 }, ended = { task }, time = 0, seconds = 1 }
  end

  it("has a page of 1000 failures in less than 5 MB, which a browser shows in less than a second",
     function()
    local s <close> = suites.new{ ["kept/vm/console.log"] = ("<\n"):rep(100000),
                                  ["kept/vm/exits.log"] = ("   1.0 cpu0 1 rip=0 hlt\n"):rep(200),
                                  ["kept/vm/screen.png"] = ("x"):rep(9000),
                                  ["kept/reproduce.sh"] = "exec minikvm test\n" }
    require("lfs").mkdir(s.folder .. "/r")
    assert(require("minikvm.test.html").write(s.folder .. "/r", a_thousand(s.folder .. "/kept")))
    local page = s:read "r/index.html"
    assert.is_true(#page < 5000000, #page)
    assert.equal(1000, #data_of(page).tests)
    if not chromium.program then return pending "its size is right; Chromium is not installed" end
    local dom = chromium.dom(("file://%s/r/index.html"):format(s.folder))
    assert.equal(1000, select(2, dom:gsub('<details class="test"', "")))
    assert.is_true(tonumber(dom:match 'data%-ready="(%d+)"') < 1000)
  end)
end)

describe("minikvm test --html, of a guest:", function()
  if support.without_kvm(pending) then return end

  local GUEST <const> = [[
    local t = require "minikvm.test"
    local hello = t.guest{ name = "hello", image = { bytes =
      "\xb0\x48\xe6\xe9\xb0\x69\xe6\xe9\xb0\x21\xe6\xe9\xf4" } } -- prints Hi!; hlt
    t.it("fails", function()
      local vm = hello()
      vm.console:expect "H"
      vm.console:expect("nosuch<", { timeout = 5 })
    end)
    t.it("prints 100 MB", function()
      local vm = require "minikvm".vm{ echo = false }
      vm:load{ bytes = "\xe6\x80\xeb\xfc" } -- next: out 0x80, al; jmp next
      local mega, n = ("x"):rep(2^20), 0
      vm.ports:on(0x80, { write = function()
        n = n + 1
        vm.console:write(n <= 100 and mega or "the end")
        if n > 100 then vm:stop() end
      end })
      vm:run()
      error "here"
    end)]]

  it("shows what it printed and what was waited for, its screen, why it ended, its last exits",
     function()
    local s <close> = suites.new{ ["a_spec.lua"] = GUEST }
    local r = s:test "--html D/r D"
    assert.same({ 1, "0 passed, 2 failed, 0 skipped" }, { r.status, r.last })
    local data = data_of(s:read "r/index.html")
    local rows = rows_of(data)
    local function shared(place) return place and data.shared[place + 1] end
    local vm = rows.fails.detail.vms[1]
    assert.equal("hello", vm.name)
    assert.same({ { "H", 'expect "H"' }, { "i!" } }, vm.console)
    assert.matches('^expect "nosuch<": the vm ended: halt', vm.missed[1])
    assert.matches("^cpu 0: halt at rip 0x", shared(vm.cause))
    assert.matches("#0 0x", shared(vm.stack), 1, true)
    assert.equal("Hi!", shared(vm.screen))
    assert.matches("^iVBORw0KGgo", shared(vm.picture)) -- RFC 4648 of PNG's signature
    assert.matches("eax 00000021", shared(vm.registers))
    assert.matches("out  port=0x0e9 size=1 value=0x48  ; debug console 'H'\n", shared(vm.exits))
    assert.matches("%-%-filter ", shared(rows.fails.detail.command))
    vm = rows["prints 100 MB"].detail.vms[1]
    assert.equal("104857607 bytes were printed; the last 1048576 are kept", shared(vm.total))
    assert.matches("^\n%[... %d+ bytes left out ...%]\n$", vm.console[2][1])
    assert.matches("xthe end$", vm.console[3][1])
  end)
end)
