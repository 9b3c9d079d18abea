-- What C answers for a script: const, latch, sink, fifo, source, match, doorbells; and vm:stats().

local support = require "support.guest"

local out, into, program, run = support.out, support.into, support.program, support.run

---A row of vm:stats() by its first address.
local function row(vm, kind, first)
  for _, r in ipairs(vm:stats{ all = true }) do
    if r.kind == kind and r.first == first then return r end
  end
end

describe("const", function()
  if support.without_kvm(pending) then return end

  it("answers reads of every size without Lua", function()
    local vm <close> = program{ into(0x1000, 0x80), into(0x1004, 0x80, 2), into(0x1008, 0x80, 4),
                                out(0x80, 1), into(0x100c, 0x80, 4) }
    local handle = vm.ports:const(0x80, 0x12345678)
    local _, info = run(vm)
    assert.same({ 0x78, 0x5678, 0x12345678, 0x12345678 },
                { vm.memory:u32(0x1000), vm.memory:u32(0x1004), vm.memory:u32(0x1008),
                  vm.memory:u32(0x100c) })
    assert.same({ 5, 0, 5 }, { info.served.c, info.served.lua, handle.hits })
    assert.equal(0x12345678, handle:get())
    handle:set(7)
    vm:reset()
    run(vm)
    assert.equal(7, vm.memory:u32(0x1008))
    handle:remove()
    vm:reset()
    run(vm)
    assert.equal(0xffffffff, vm.memory:u32(0x1008))
  end)

  it("takes a range and wants an integer", function()
    local vm <close> = program{ into(0x1000, 0x87) }
    vm.ports:const({ 0x80, 0x8f }, 3)
    run(vm)
    assert.equal(3, vm.memory:u8(0x1000))
    for _, value in ipairs{ "x", 1.5, {} } do
      assert.has_error(function() vm.ports:const(0x90, value) end)
    end
    assert.has_error(function() vm.ports:const({ 0x80 }, 1) end)
    assert.has_error(function() vm.ports:const({ 0x80, 0x70 }, 1) end)
    assert.has_error(function() vm.ports:const(0x10000, 1) end)
    assert.has_error(function() vm.ports:const({ 0xfff0, 0x10000 }, 1) end)
  end)
end)

describe("latch", function()
  if support.without_kvm(pending) then return end

  it("reads as what was written last, and begins anew with a reset", function()
    local vm <close> = program{ into(0x1000, 0x80), out(0x80, 0x5a), into(0x1004, 0x80),
                                out(0x90, 0x44332211, 4), into(0x1008, 0x91),
                                into(0x100c, 0x90, 4) }
    local handle = vm.ports:latch(0x80, 3)
    vm.ports:latch{ 0x90, 0x93 }
    for _ = 1, 2 do
      local _, info = run(vm)
      assert.same({ 3, 0x5a, 0x22, 0x44332211 }, { vm.memory:u32(0x1000), vm.memory:u32(0x1004),
                                                   vm.memory:u32(0x1008), vm.memory:u32(0x100c) })
      assert.equal(0, info.served.lua)
      assert.equal(0x5a, handle:get())
      vm:reset()
      assert.equal(3, handle:get())
    end
    handle:set(0x77)
    run(vm)
    assert.equal(0x77, vm.memory:u32(0x1000))
  end)

  it("is memory in C outside RAM", function()
    local vm <close> = support.vm{ mode = "protected", memory = "1M" }
    local text = "text at 0xb8000"
    vm:load{ bytes = support.bytes [[
      be 00 20 00 00   ; mov esi, 0x2000
      bf 00 00 10 00   ; mov edi, 0x100000
      b9 0f 00 00 00   ; mov ecx, 15
      f3 a4            ; rep movsb
      be 00 00 10 00   ; mov esi, 0x100000
      bf 00 30 00 00   ; mov edi, 0x3000
      b9 0f 00 00 00
      f3 a4 f4 ]] }
    vm.memory:write(0x2000, text)
    local handle = vm.mmio:latch(0x100000, 0x1000)
    assert.equal("halt", (run(vm)))
    assert.equal(text, vm.memory:read(0x3000, #text))
    assert.equal(("<I4"):unpack(text), handle:get(0x100000, 4))
    assert.has_error(function() handle:get(0x101009, 4) end)
    assert.has_error(function() handle:get(0xfffff) end)
    assert.has_error(function() handle:set(256, 0x100000, 1) end)
    assert.has_error(function() vm.mmio:latch(0x200000, 1 << 30) end)
  end)
end)

describe("sink", function()
  if support.without_kvm(pending) then return end

  it("swallows writes, most of them without an exit, and leaves reads alone", function()
    -- 1000 times out dx, al
    local vm <close> = support.code("b9 e8 03 ba 80 00 ee e2 fd ec a2 00 10 f4")
    vm.ports:const(0x80, 9)
    local handle = vm.ports:sink(0x80)
    local _, info = run(vm)
    assert.equal(1000, handle.hits)
    assert.equal(9, vm.memory:u8(0x1000))
    assert.equal(0, info.served.none)
    if support.host.caps.coalesced_pio then
      assert.is_true(info.exits < 200, info.exits)
      local r = row(vm, "port", 0x80)
      assert.equal(1000, r.no_exit + r.c)
      assert.is_true(r.no_exit > 900)
    end
  end)
end)

describe("source", function()
  if support.without_kvm(pending) then return end

  it("yields what was put there, at any width, and tells when it is taken", function()
    -- mov di, 2000h; mov cx, 4; mov dx, 90h; cld; rep insw; in al, dx
    local vm <close> = program{ support.bytes "bf 00 20 b9 04 00 ba 90 00 fc f3 6d",
                                into(0x1000, 0x90, 4), into(0x1004, 0x90), into(0x1008, 0x90) }
    local empty = 0
    vm.ports:on(0x90, { read = function(_, size) return size end })
    local source
    source = vm.ports:source(0x90, function()
      empty = empty + 1
      if empty == 1 then source:put "MNOPQ" end
    end)
    source:put "abc"
    source:put "defgh"
    run(vm)
    assert.equal("abcdefgh", vm.memory:read(0x2000, 8))
    assert.equal("MNOP", vm.memory:read(0x1000, 4))
    assert.equal("Q", vm.memory:read(0x1004, 1))
    assert.equal(1, vm.memory:u8(0x1008)) -- what lies beneath
    assert.equal(2, empty)
  end)

  it("fills a wide read up with ones, and leaves writes to what lies beneath", function()
    local vm <close> = program{ into(0x1000, 0x90, 4), out(0x90, 7) }
    local written
    vm.ports:on(0x90, { write = function(_, value) written = value end })
    local source = vm.ports:source(0x90)
    source:put "ab"
    run(vm)
    assert.equal(0xffff6261, vm.memory:u32(0x1000))
    assert.equal(7, written)
    source:put "xyz"
    assert.equal("xyz", source:take())
    source:put(("x"):rep(65536))
    local ok, why = pcall(source.put, source, "x")
    assert.is_false(ok)
    assert.matches("a source holds 65536 bytes at most", why)
    ok, why = pcall(vm.ports.source, vm.ports, 0x91, 7)
    assert.is_false(ok)
    assert.matches("source", why)
    vm:reset()
    assert.equal("", source:take())
  end)
end)

describe("fifo", function()
  if support.without_kvm(pending) then return end

  local SAY <const> = "ba 80 00 be 00 10 b9 %02x 00 f3 6e f4" -- mov cx, n; rep outsb

  local function says(text, opts)
    local vm = support.code(SAY:format(#text), opts)
    vm.memory:write(0x1000, text)
    return vm
  end

  it("hands whole records over, in order, without their end mark", function()
    for _, coalesce in ipairs{ true, false } do
      local vm <close> = says("one\n\ntwo\nrest", { coalesce = coalesce })
      local records = {}
      local handle = vm.ports:fifo(0x80, { on = "\n" }, function(r) records[#records + 1] = r end)
      local reason, info = run(vm)
      assert.equal("halt", reason)
      assert.same({ "one", "", "two" }, records)
      assert.equal("rest", handle:take())
      assert.equal("", handle:take())
      assert.equal(13, handle.hits)
      assert.equal(0, info.served.lua)
    end
  end)

  it("cuts records of a size, whatever the width of the writes", function()
    local vm <close> = program{ out(0x80, 0x44434241, 4), out(0x80, 0x4645, 2), out(0x80, 0x47) }
    local records = {}
    vm.ports:fifo(0x80, { size = 3 }, function(r) records[#records + 1] = r end)
    run(vm)
    assert.same({ "ABC", "DEF" }, records)
  end)

  it("is empty after a reset, and may be removed by its own function", function()
    local vm <close> = says "ab\ncd\nef"
    local records = {}
    local handle
    handle = vm.ports:fifo(0x80, { on = "\n" }, function(r)
      records[#records + 1] = r
      if r == "cd" then handle:remove() end
    end)
    run(vm)
    assert.same({ "ab", "cd" }, records)
    assert.has_error(function() handle:take() end)
    vm:reset()
    handle = vm.ports:fifo(0x80, { size = 100 }, print)
    vm.memory:write(0x1000, "ab\ncd\nef")
    run(vm)
    vm:reset()
    assert.equal("", handle:take())
  end)

  it("hands over what gets too long, and ends the VM when its function fails", function()
    local vm <close> = support.code("66 b9 20 00 01 00 ba 80 00 ee 66 49 75 fb f4") -- 65568 times
    local sizes = {}
    vm.ports:fifo(0x80, { on = "\n" }, function(r) sizes[#sizes + 1] = #r end)
    assert.equal("halt", (run(vm)))
    assert.same({ 65536 }, sizes)
    local bad <close> = says "x\n"
    bad.ports:fifo(0x80, { on = "\n" }, function() error "cannot" end)
    local reason, info = run(bad)
    assert.equal("error", reason)
    assert.matches("prims_spec.lua:%d+: cannot", info.text)
  end)

  it("refuses options that make no sense", function()
    local vm <close> = support.vm()
    for text, opts in pairs{ ["'on' is one byte"] = { on = "ab" }, ["1 to 65536"] = { size = 0 },
                             ["unknown option 'no'"] = { no = 1 } } do
      local ok, why = pcall(vm.ports.fifo, vm.ports, 0x80, opts, print)
      assert.is_false(ok)
      assert.matches(text, why)
    end
    assert.has_error(function() vm.ports:fifo(0x80, {}, nil) end)
  end)
end)

describe("match", function()
  if support.without_kvm(pending) then return end

  it("calls Lua for one value and passes the others on", function()
    local vm <close> = program{ out(0x80, 1), out(0x80, 2), out(0x80, 2, 2), out(0x80, 3) }
    local beneath, calls = {}, {}
    vm.ports:on(0x80, { write = function(_, value) beneath[#beneath + 1] = value end })
    local handle = vm.ports:match(0x80, 2, function(...) calls[#calls + 1] = { ... } end)
    run(vm)
    assert.same({ { 0x80, 2, 1 }, { 0x80, 2, 2 } }, calls)
    assert.same({ 1, 3 }, beneath)
    assert.equal(4, handle.hits)
  end)

  it("drops the others when nobody is beneath", function()
    local vm <close> = program({ out(0x80, 1), out(0x80, 2) }, { unhandled = "fault" })
    local calls = 0
    vm.ports:match(0x80, 2, function() calls = calls + 1 end)
    assert.equal("halt", (run(vm)))
    assert.equal(1, calls)
  end)
end)

describe("a doorbell", function()
  if support.without_kvm(pending) then return end

  it("is rung without an exit, counted, and answered before the guest halts", function()
    local vm <close> = support.code("b9 e8 03 ba 80 00 b0 05 ee e2 fd f4") -- 1000 times
    local rings, calls = 0, 0
    local handle = vm.ports:doorbell(0x80, 1, function(count)
      rings, calls = rings + count, calls + 1
    end)
    local reason, info = run(vm)
    assert.equal("halt", reason)
    assert.same({ 1000, 1000 }, { rings, handle.hits })
    assert.is_true(calls < 500, calls)
    assert.equal(1, info.by.hlt)
    assert.is_nil(info.by.io)
    assert.equal(1000, row(vm, "port", 0x80).no_exit)
  end)

  it("rings for one value only, others pass on", function()
    local vm <close> = program{ out(0x80, 1), out(0x80, 2), out(0x80, 2), out(0x80, 0x102, 2) }
    local rings, beneath = 0, {}
    vm.ports:on(0x80, { write = function(_, value) beneath[#beneath + 1] = value end })
    vm.ports:doorbell(0x80, 1, 2, function(count) rings = rings + count end)
    run(vm)
    assert.equal(2, rings)
    assert.same({ 1, 0x102 }, beneath)
  end)

  it("lies in memory too, and survives a reset", function()
    local vm <close> = support.vm{ mode = "protected", memory = "1M" }
    -- mov ecx, 10; mov dword [0x100000], ecx; loop; hlt
    vm:load{ bytes = support.bytes "b9 0a 00 00 00 89 0d 00 00 10 00 e2 f8 f4" }
    local rings = 0
    vm.mmio:doorbell(0x100000, 4, function(count) rings = rings + count end)
    for i = 1, 2 do
      assert.equal("halt", (run(vm)))
      assert.equal(10 * i, rings)
      vm:reset()
    end
  end)

  it("is answered beside many others", function()
    local parts, rung = {}, {}
    for port = 0x80, 0x9f do parts[#parts + 1] = out(port, 1) end
    local vm <close> = program(parts)
    for port = 0x80, 0x9f do
      vm.ports:doorbell(port, 1, function(count) rung[port] = (rung[port] or 0) + count end)
    end
    assert.equal("halt", (run(vm)))
    for port = 0x80, 0x9f do assert.equal(1, rung[port]) end
  end)

  it("can be removed by its own function, which may fail", function()
    local vm <close> = program{ out(0x80, 1), "\xf4", out(0x80, 1) }
    local rings, handle = 0, nil
    handle = vm.ports:doorbell(0x80, 1, function(count)
      rings = rings + count
      handle:remove()
    end)
    run(vm)
    run(vm)
    assert.same({ 1, 1 }, { rings, handle.hits })
    local bad <close> = program{ out(0x80, 1) }
    bad.ports:doorbell(0x80, 1, function() error "broken bell" end)
    local reason, info = run(bad)
    assert.equal("error", reason)
    assert.matches("broken bell", info.text)
  end)

  it("refuses widths that are none", function()
    local vm <close> = support.vm()
    assert.has_error(function() vm.ports:doorbell(0x80, 3, print) end)
    assert.has_error(function() vm.ports:doorbell(0x80, 8, print) end)
    assert.has_error(function() vm.ports:doorbell(0x80, 1) end)
  end)
end)

describe("vm:stats", function()
  if support.without_kvm(pending) then return end

  it("tells for each range what was served without an exit, in C, in Lua, how long", function()
    local vm <close> = program({ out(0x80, 1), into(0x1000, 0x81), into(0x1000, 0x90), out(0xa0, 1),
                                 out(0xa0, 2) }, { stats = true })
    vm.ports:on(0x80, 0x8f, { name = "my device", read = function() return 0 end,
                              write = function() for _ = 1, 1000 do local _ = {} end end })
    vm.ports:const(0x90, 1)
    run(vm)
    local mine, const, none = row(vm, "port", 0x80), row(vm, "port", 0x90), row(vm, "port", 0xa0)
    assert.same({ "my device", 0x8f, 2, 0, 0, 2 },
                { mine.owner, mine.last, mine.accesses, mine.no_exit, mine.c, mine.lua })
    assert.is_true(mine.seconds > 0 and mine.seconds < 5)
    assert.same({ "const", 1, 1, 0 }, { const.owner, const.accesses, const.c, const.lua })
    assert.same({ "nobody", 2, 0, 0, 0 },
                { none.owner, none.accesses, none.c, none.lua, none.seconds })
    local lines = tostring(vm:stats())
    assert.matches("port 0x80%-0x8f +2 +0 +0 +2 +[%d.]+  my device", lines)
    assert.is_nil(lines:find("hypercall", 1, true)) -- nobody called one
  end)

  it("measures no time unless it is told to", function()
    local vm <close> = program{ out(0x80, 1), "\xf4", out(0x80, 1) }
    vm.ports:on(0x80, { write = function() end })
    run(vm)
    assert.equal(0, row(vm, "port", 0x80).seconds)
    vm:stats{ timing = true }
    run(vm)
    assert.is_true(row(vm, "port", 0x80).seconds > 0)
    assert.has_error(function() vm:stats{ time = true } end)
  end)
end)
