-- steps_spec.lua - single steps over instructions that are more than a change of registers.
--
-- KVMs differ in what one step is: after a MOV to SS the next instruction may be part of it, as the
-- processor holds off its trap (Intel SDM volume 2, MOV), and a repeated string instruction may be
-- stepped item by item.

local guest = require "spec.support.guest"

-- Where the vCPU is after each step, from the beginning of the code; "+" marks those that may be
-- missing, "*" those that may come again.
local CASES <const> = {
  { "PUSHF stores no TF", "9c 58 90 f4", { 1, 2, 3 }, ax = 2 },
  { "STI", "fb 90 90 fa f4", { "+1", 2, 3, 4 } },
  { "MOV to SS", "8cd0 8ed0 90 90 f4", { 2, "+4", 5, 6 } },
  { "OUT", "b041 e6e9 e6e9 90 f4", { 2, 4, 6, 7 } },
  { "IN", "e4e8 e4e8 90 f4", { 2, 4, 5 } },
  { "a jump to itself", "ebfe", { 0, 0, 0 } },
  { "CALL and RET", "e80200 90f4 c3", { 5, 3, 4 }, wide = "e802000000 90f4 c3",
    wide_steps = { 7, 5, 6 } },
  { "REP MOVSB", "b90300 be0010 bf0020 f3a4 90 f4", { 3, 6, "*9", 11, 12 },
    wide = "b903000000 be00300000 bf00400000 f3a4 90 f4", wide_steps = { 5, 10, "*15", 17, 18 } },
}

local function walk(cpu, base, steps)
  for i, want in ipairs(steps) do
    local flag, at = tostring(want):match "^(%D?)(%d+)$"
    at = math.tointeger(at)
    local got
    if flag == "+" then
      local before = cpu.rip
      assert.are.equal("break", (cpu:step()))
      if cpu.rip - base ~= at then
        assert.is_true(cpu.rip > before)
        return walk(cpu, base, table.move(steps, i + 2, #steps, 1, {}))
      end
    else
      assert.are.equal("break", (cpu:step()))
      got = cpu.rip - base
      assert.are.equal(at, got)
      while flag == "*" and steps[i + 1] do
        local mark = cpu:regs()
        if (mark.rcx & 0xffff) == 0 then break end
        assert.are.equal("break", (cpu:step()))
        if cpu.rip - base ~= at then
          assert.are.equal(steps[i + 1], cpu.rip - base)
          return walk(cpu, base, table.move(steps, i + 2, #steps, 1, {}))
        end
      end
    end
  end
end

describe("single steps, without_kvm none:", function()
  if guest.without_kvm(pending) then return end

  for _, mode in ipairs{ "real", "protected", "long" } do
    for _, case in ipairs(CASES) do
      it(("%s mode: %s"):format(mode, case[1]), function()
        local wide = mode ~= "real" and case.wide
        local vm <close> = guest.code(wide or case[2], { mode = mode })
        local cpu = vm.cpu[0]
        walk(cpu, cpu.rip, wide and case.wide_steps or case[3])
        if case.ax then assert.are.equal(case.ax, cpu.rax & 0xffff) end
        assert.are.equal(0, cpu.rflags & 0x100)
      end)
    end
  end

  it("HLT waits for an interrupt", function()
    -- hlt; nop; cli; hlt; at 0x40: iret
    local vm <close> = guest.code("f4 90 fa f4", { mode = "real" })
    vm.memory:write(4 * 0x20, "\x40\0\0\0")
    vm.memory:write(0x40, "\xcf")
    local cpu = vm.cpu[0]
    cpu.rflags = 0x202
    cpu:interrupt(0x20)
    cpu:step()
    assert.are.equal(1, cpu.rip)
    assert.are.equal("halt", (guest.run(vm)))
    assert.are.equal(4, cpu.rip)
  end)

  it("INT in real mode, its handler and the way back", function()
    local vm <close> = guest.code("cd20 90 f4", { mode = "real" })
    vm.memory:write(4 * 0x20, "\0\3\0\0")
    vm.memory:write(0x300, "\x90\xcf") -- nop; iret
    local cpu, seen = vm.cpu[0], {}
    repeat
      assert.are.equal("break", (cpu:step()))
      seen[#seen + 1] = ("%x"):format(cpu.rip)
    until cpu.rip == 3
    -- where the handler is not stepped, it is over with the first step or two
    local text = table.concat(seen, " ")
    assert.is_truthy(text == "300 301 2 3" or text == "2 3" or text == "3", text)
    assert.are.equal(0, cpu.rflags & 0x100)
    assert.are.equal("halt", (guest.run(vm)))
  end)

  it("a guest that goes to protected mode", function()
    local vm <close> = guest.code("fa 0f20c0 0c01 0f22c0 90 f4", { mode = "real" })
    local cpu = vm.cpu[0]
    for _, at in ipairs{ 1, 4, 6, 9, 10 } do
      assert.are.equal("break", (cpu:step()))
      assert.are.equal(at, cpu.rip)
    end
    assert.are.equal(1, cpu.cr0 & 1)
  end)

  it("step_over: a call, with what it calls", function()
    local vm <close> = guest.code("e802000000 90f4 40 c3", { mode = "protected" })
    local cpu = vm.cpu[0]
    local base = cpu.rip
    local inside = vm:break_at(base + 7, function() end)
    local reason, info = cpu:step_over()
    assert.are.same({ "break", "until", base + 5, 1 },
                    { reason, info.stop.kind, cpu.rip - 0, cpu.rax & 0xff })
    assert.are.equal(1, inside.hits)
    assert.are.equal("step", select(2, cpu:step_over()).stop.kind)
    assert.are.equal("halt", (guest.run(vm)))
  end)

  it("wrong arguments are blamed on the script's line", function()
    local vm <close> = guest.code("90 f4", { mode = "real" })
    local cases = {
      { "cpu:step: expected a number of instructions, 1 or more, got 0",
        function() vm.cpu[0]:step(0) end },
      { "vm:break_at: expected an address, a symbol, \"symbol+offset\" or \"file.c:line\", got nil",
        function() vm:break_at() end },
      { "no symbol", function() vm:break_at "nowhere" end },
      { "vm:break_at: vm \"vm\" has no cpu 7", function() vm:break_at(0, { cpu = 7 }) end },
      { "unknown option 'conditon'", function() vm:break_at(0, { conditon = print }) end },
      { "after", function() vm:break_at(0, { after = -1 }) end },
    }
    for _, case in ipairs(cases) do
      local why = guest.message(case[2])
      assert.is_truthy(why:find(case[1], 1, true), why)
      assert.is_truthy(why:find("steps_spec.lua:", 1, true), why)
    end
  end)
end)
