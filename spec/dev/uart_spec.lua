-- The 16550A at 0x3f8, by its data sheet: what guests/real/hctest leaves out.

local support = require "support.guest"

local RBR <const>, IER <const>, IIR <const>, LCR <const> = 0x3f8, 0x3f9, 0x3fa, 0x3fb
local MCR <const>, LSR <const>, MSR <const> = 0x3fc, 0x3fd, 0x3fe
local THR <const>, FCR <const> = RBR, IIR
local LOOP <const> = 0x10

---Runs a guest that does OUTs { port, value } and INs { port }; returns what the INs read.
local function session(steps, input)
  local parts, reads = {}, 0
  for _, step in ipairs(steps) do
    if step[2] then
      parts[#parts + 1] = support.out(step[1], step[2])
    else
      parts[#parts + 1] = support.into(0x4000 + 4 * reads, step[1])
      reads = reads + 1
    end
  end
  local vm <close> = support.program(parts)
  if input then vm.console:send(input) end
  assert.equal("halt", (support.run(vm)))
  local values = {}
  for i = 1, reads do values[i] = vm.memory:u8(0x4000 + 4 * (i - 1)) end
  return values, (vm.console:text())
end

describe("the UART", function()
  if support.without_kvm(pending) then return end

  it("is as a reset leaves it", function()
    assert.same({ 0, 0, 1, 0, 0, 0x60, 0xb0 },
                (session{ { RBR }, { IER }, { IIR }, { LCR }, { MCR }, { LSR }, { MSR } }))
  end)

  it("shows input in LSR, hands it out in order, and then has none", function()
    assert.same({ 0x61, 0x61, 0x61, 0x61, 0x62, 0x60, 0 },
                (session({ { LSR }, { LSR }, { RBR }, { LSR }, { RBR }, { LSR }, { RBR } }, "ab")))
  end)

  it("keeps input out of sight while it loops back", function()
    assert.same({ 0x60, 0x61, 0x58, 0x61, 0x61 },
                (session({ { MCR, LOOP }, { LSR }, { THR, 0x58 }, { LSR }, { RBR }, { MCR, 0 },
                           { LSR }, { RBR } }, "a")))
  end)

  -- PC16550D data sheet, LSR bit 1: the character that was not read in time is destroyed
  it("tells an overrun of its one-byte buffer once, and has the newer byte", function()
    assert.same({ 0x63, 0x61, 2, 0x60 },
                (session{ { MCR, LOOP }, { THR, 1 }, { THR, 2 }, { LSR }, { LSR }, { RBR },
                          { LSR } }))
  end)

  -- LSR bit 1: with FIFOs the character in the shift register is lost; bit 7 is for parity, framing
  -- and break alone
  it("holds 16 bytes in its FIFO, and no more", function()
    local steps, want = { { MCR, LOOP }, { FCR, 1 } }, {}
    for i = 1, 17 do steps[#steps + 1] = { THR, i } end
    steps[#steps + 1] = { LSR }
    want[1] = 0x60 | 2 | 1
    for i = 1, 16 do
      steps[#steps + 1] = { RBR }
      want[#want + 1] = i
    end
    steps[#steps + 1] = { LSR }
    want[#want + 1] = 0x60
    assert.same(want, (session(steps)))
  end)

  it("empties its FIFO on command, and when it is switched", function()
    for _, command in ipairs{ 3, 0 } do
      assert.same({ 0x60 }, (session{ { MCR, LOOP }, { FCR, 1 }, { THR, 1 }, { FCR, command },
                                      { LSR } }))
    end
    assert.same({ 0x61 }, (session{ { MCR, LOOP }, { FCR, 1 }, { THR, 1 }, { FCR, 0xc1 },
                                    { LSR } }))
  end)

  it("identifies interrupts by priority: line, data, timeout, transmitter, modem", function()
    local values = session{ { MCR, LOOP }, { IER, 0x0f }, { THR, 1 }, { THR, 2 }, { MCR, LOOP | 2 },
                            { IIR }, { LSR }, { IIR }, { RBR }, { IIR }, { IIR }, { MSR }, { IIR } }
    assert.same({ 0x06, 0x63, 0x04, 2, 0x02, 0x00, 0x1b, 0x01 }, values)
  end)

  it("raises the data interrupt at the FIFO's trigger, a timeout before it", function()
    -- the trigger is 4 bytes
    local values = session{ { MCR, LOOP }, { FCR, 0x41 }, { IER, 1 }, { THR, 1 }, { IIR },
                            { THR, 2 }, { THR, 3 }, { THR, 4 }, { IIR }, { RBR }, { IIR } }
    assert.same({ 0xcc, 0xc4, 1, 0xcc }, values)
  end)

  it("has the transmitter's interrupt pending when it is allowed, until IIR is read", function()
    local values = session{ { IER, 2 }, { IIR }, { IIR }, { THR, 0x41 }, { IIR }, { IER, 0 },
                            { IER, 2 }, { IIR } }
    assert.same({ 2, 1, 2, 2 }, values)
  end)

  it("tells a change of the modem lines once", function()
    local values = session{ { MCR, LOOP }, { MSR }, { MCR, LOOP | 2 }, { MSR }, { MSR },
                            { MCR, LOOP | 3 }, { MSR } }
    assert.same({ 0x0b, 0x11, 0x10, 0x32 }, values)
  end)

  it("keeps the divisor apart from data and interrupts", function()
    local values, text = session{ { LCR, 0x80 }, { RBR }, { THR, 0x41 }, { IER, 0x0f }, { RBR },
                                  { IER }, { LCR, 3 }, { IER }, { THR, 0x42 }, { LSR } }
    assert.same({ 12, 0x41, 0x0f, 0, 0x60 }, values)
    assert.equal("B", text)
  end)

  it("has registers of few bits", function()
    assert.same({ 0x0f, 0x1f, 0xff },
                (session{ { IER, 0xff }, { IER }, { MCR, 0xff }, { MCR }, { LCR, 0xff }, { LCR } }))
  end)

  -- data sheet, "Interrupt Control Functions": the THRE interrupt is reset by reading IIR or by
  -- writing THR. The handler sends the next byte and does not look at IIR.
  it("interrupts again after every byte written to THR", function()
    local pic = support.out(0x20, 0x11) .. support.out(0x21, 0x20) .. support.out(0x21, 4)
      .. support.out(0x21, 1) .. support.out(0x21, 0xef)
    local vm <close> = support.vm{ irqchip = "pic" }
    vm:load{ bytes = pic .. support.out(MCR, 0x08) .. support.bytes "b3 41" .. support.out(IER, 2)
      .. support.bytes [[
        fb 80 fb 46 72 fb fa f4 ]] } -- sti; cmp bl, 'F'; jb to the cmp; cli; hlt
    vm.memory:write(0x24 * 4, ("<I2I2"):pack(0x2000, 0))
    vm.memory:write(0x2000, support.bytes [[
      80 fb 46 73 0a                ; cmp bl, 'F'; jae off
      ba f8 03 88 d8 ee fe c3 eb 06 ; mov dx, THR; mov al, bl; out dx, al; inc bl; jmp eoi
      ba f9 03 30 c0 ee             ; off: mov dx, IER; xor al, al; out dx, al
      b0 20 e6 20 cf ]])            -- eoi: mov al, 0x20; out 0x20, al; iret
    assert.equal("halt", (support.run(vm)))
    assert.equal("ABCDE", (vm.console:text()))
  end)
end)
