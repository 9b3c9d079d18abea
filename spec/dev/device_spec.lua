-- kvm.device and vm:attach: devices as Lua objects.

local kvm = require "minikvm"
local process = require "support.process"
local support = require "support.guest"

local out, into, program, run = support.out, support.into, support.program, support.run

---The example of the documentation: counts, and answers with what was written last.
local function counter(more)
  local def = {
    name = "counter", registers = { [0] = "CTRL", "STATUS", "DATA" },
    reset = function(d) d.state.reads = 0 end,
    read = { DATA = function(d)
      d.state.reads = d.state.reads + 1
      return d.state.reads * 16 + d.reg.CTRL
    end },
  }
  for key, value in pairs(more or {}) do def[key] = value end
  return kvm.device(def)
end

describe("a device in Lua", function()
  if support.without_kvm(pending) then return end

  it("speaks register names and keeps its state until a reset", function()
    local vm <close> = program{ out(0x300, 5), into(0x1000, 0x302), into(0x1004, 0x302),
                                into(0x1008, 0x300), into(0x100c, 0x301) }
    local d = vm:attach(counter(), { ports = 0x300 })
    for _ = 1, 2 do
      assert.same({ 0, 0 }, { d.state.reads, d.reg.CTRL })
      run(vm)
      assert.same({ 0x15, 0x25, 5, 0 }, { vm.memory:u32(0x1000), vm.memory:u32(0x1004),
                                          vm.memory:u32(0x1008), vm.memory:u32(0x100c) })
      assert.same({ 2, 5 }, { d.state.reads, d.reg.CTRL })
      vm:reset()
    end
    assert.equal(10, d:hits())
  end)

  it("keeps handles, and nothing else that can be closed", function()
    local vm <close> = support.vm()
    local d = vm:attach(counter(), { ports = 0x300 })
    for _, handle in ipairs{ vm.ports:const(0x310, 1), vm.clock:after(1, print),
                             vm.console:on_line(print) } do
      assert.equal(handle, d:keep(handle))
    end
    assert.equal(0, d:hits())
    assert.error_matches(function() d:keep(io.stdout) end, "expected a handle, got a userdata")
  end)

  it("has instances with states of their own, on ports and in memory", function()
    local def = counter{ registers = { [0] = "CTRL", [4] = "STATUS", [8] = "DATA" } }
    local vm <close> = support.vm{ mode = "protected", memory = "1M" }
    -- mov eax, [0x100008] twice; mov [0x2000], eax; mov eax, [0x200008]; mov [0x2004], eax; hlt
    vm:load{ bytes = support.bytes [[ a1 08 00 10 00 a1 08 00 10 00 a3 00 20 00 00
                                      a1 08 00 20 00 a3 04 20 00 00 f4 ]] }
    local a = vm:attach(def, { mmio = 0x100000, name = "first" })
    local b = vm:attach(def, { mmio = 0x200000 })
    local c = vm:attach(def, { ports = 0x300 })
    assert.equal("halt", (run(vm)))
    assert.same({ 0x20, 0x10 }, { vm.memory:u32(0x2000), vm.memory:u32(0x2004) })
    assert.same({ 2, 1, 0 }, { a.state.reads, b.state.reads, c.state.reads })
    assert.same({ "first", "counter" }, { a.name, b.name })
    local ok, why = pcall(vm.attach, vm, def, { mmio = 0x100008 })
    assert.is_false(ok)
    assert.matches("address 0x100008 belongs to device first.*wanted: .* for device counter", why)
  end)

  it("takes narrow, wide and crooked accesses by rules", function()
    local written = {}
    local def = kvm.device{ name = "wide", width = 4,
      registers = { [0] = { name = "A", reset = 0x44332211 },
                    [4] = { name = "B", reset = 0x88776655 },
                    [12] = { name = "C", reset = 0xccbbaa99, access = "ro" },
                    [16] = { name = "W", access = "wo" } },
      write = function(_, reg, value, size)
        written[#written + 1] = ("%s=%x/%d"):format(reg, value, size)
      end }
    local vm <close> = program{
      into(0x1000, 0x301, 1), into(0x1004, 0x302, 4), into(0x1008, 0x306, 4),
      into(0x100c, 0x30c, 2),
      out(0x301, 0xee), out(0x302, 0x04030201, 4), out(0x30c, 0, 4), out(0x308, 1, 4),
      into(0x1010, 0x300, 4), into(0x1014, 0x304, 4), into(0x1018, 0x30c, 4), out(0x310, 7, 4),
      into(0x101c, 0x310, 4) }
    local d = vm:attach(def, { ports = 0x300 })
    run(vm)
    local function at(address) return ("%x"):format(vm.memory:u32(address)) end
    assert.same({ "22", "66554433", "ffff8877", "aa99" },
                { at(0x1000), at(0x1004), at(0x1008), at(0x100c) })
    assert.same({ "A=4433ee11/1", "A=201ee11/2", "B=88770403/2", "W=7/4" }, written)
    assert.same({ "201ee11", "88770403", "ccbbaa99", "0" },
                { at(0x1010), at(0x1014), at(0x1018), at(0x101c) })
    assert.equal(7, d.reg.W)
  end)

  it("comes and goes while the guest runs", function()
    local vm <close> = support.code [[
      ba 00 03     ; mov dx, 0x300
      ec 3c 41     ; in al, dx; cmp al, 'A'
      75 fb        ; jne to the in
      b0 01 e6 80  ; out 0x80, 1
      ec 3c ff     ; in al, dx; cmp al, 0xff
      75 fb f4 ]]
    local def = kvm.device{ registers = { [0] = { name = "LETTER", reset = 0x41 } } }
    local instance
    vm.ports:on(0x80, { write = function() instance:detach() end })
    local polls = 0
    local tap <close> = vm.ports:tap(0x300, function() polls = polls + 1 end)
    vm:start()
    process.await(function() return polls > 2 end)
    tap:remove()
    instance = vm:attach(def, { ports = 0x300 })
    assert.equal("halt", (vm:wait(10)))
    instance:detach() -- once is enough
    vm:reset()
    assert.equal("deadline", (vm:run{ deadline = 0.05 }))
  end)

  it("raises its interrupt line, and shares it", function()
    local vm <close> = support.vm{ irqchip = "pic" }
    local def = kvm.device{ name = "bell", irq = true, registers = { [0] = "RING" },
      write = function(d, _, value) if value == 1 then d:raise() else d:lower() end end }
    local a = vm:attach(def, { ports = 0x300, irq = 5 })
    local b = vm:attach(def, { ports = 0x301, irq = 5 })
    -- PIC: vectors 0x20.., only line 5; ring both; sti; hlt: the handler lowers one, then the other
    vm:load({ bytes = support.bytes [[
      b0 11 e6 20 b0 20 e6 21 b0 04 e6 21 b0 01 e6 21 b0 df e6 21
      ba d0 04 b0 20 ee          ; ELCR: line 5 is level-triggered
      c7 06 94 00 00 20 c7 06 96 00 00 00   ; vector 0x25 is 0:0x2000
      ba 00 03 b0 01 ee 42 ee
      fb f4 f4 fa f4 ]] })
    vm.memory:write(0x2000, support.bytes [[
      fe 06 00 30                ; inc byte [0x3000]
      ba 00 03 80 3e 00 30 01 74 01 42   ; first time device 0x300, then 0x301
      b0 00 ee b0 20 e6 20 cf ]])
    local reason, info = vm:run{ deadline = 10 }
    assert.equal("halt", reason, info.text)
    assert.equal(2, vm.memory:u8(0x3000)) -- the line stayed up for the second one
    assert.same({ 0, 0 }, { a.reg.RING, b.reg.RING })
  end)

  it("cannot raise a line that it does not have, or that is none", function()
    local vm <close> = program{ out(0x300, 1) }
    local def = kvm.device{ name = "mute", registers = { [0] = "X" },
                            write = function(d) d:raise() end }
    vm:attach(def, { ports = 0x300 })
    local reason, info = run(vm)
    assert.equal("error", reason)
    assert.matches("device mute has no interrupt line: attach it with irq = LINE", info.text)
    local ok, why = pcall(vm.attach, vm, def, { ports = 0x310, irq = 5 })
    assert.is_false(ok)
    assert.matches("has no interrupt lines: create it with irqchip", why)
    local pc <close> = support.vm{ irqchip = "pic" }
    assert.has_error(function() pc:attach(def, { ports = 0x310, irq = 16 }) end)
    local needy = kvm.device{ irq = true, registers = { [0] = "X" } }
    ok, why = pcall(pc.attach, pc, needy, { ports = 0x310 })
    assert.is_false(ok)
    assert.matches("needs an interrupt line", why)
  end)

  it("reads and writes guest memory, and only that", function()
    local answers = {}
    local def = kvm.device{ name = "dma", registers = { [0] = "GO" }, write = function(d)
      d:dma_write(0x2000, d:dma_read(0x1000, 4) .. "!")
      for _, range in ipairs{ { 1 << 20, 1 }, { (1 << 20) - 1, 2 }, { -1, 1 }, { -1, 2 },
                              { math.mininteger, 8 },
                              { math.maxinteger, math.maxinteger }, { 0, math.maxinteger },
                              { 0xb0000000, 4 }, { 0, -1 } } do
        local bytes, why = d:dma_read(table.unpack(range))
        answers[#answers + 1] = bytes == nil and why:find("is not all in RAM", 1, true) ~= nil
      end
      local done, why = d:dma_write((1 << 20) - 3, "four")
      answers[#answers + 1] = done == nil and why:find("DMA of 4 bytes to 0xffffd", 1, true) ~= nil
      answers[#answers + 1] = d:dma_read(1 << 20, 0) == "" and d:dma_write((1 << 20) - 4, "four")
    end }
    local vm <close> = program{ out(0x300, 1) }
    vm.memory:write(0x1000, "data")
    vm:attach(def, { ports = 0x300 })
    local reason, info = run(vm)
    assert.equal("halt", reason, info.traceback)
    assert.equal("data!", vm.memory:read(0x2000, 5))
    assert.equal("four", vm.memory:read((1 << 20) - 4, 4))
    assert.equal(11, #answers)
    for i, answer in ipairs(answers) do assert.is_true(answer, i) end
  end)

  it("has timers that go with it and with a reset", function()
    local fired = {}
    local def = kvm.device{ name = "t", registers = { [0] = "GO" }, write = function(d)
      d:after(0.001, function() fired[#fired + 1] = "after" end)
      d:after(30, function() fired[#fired + 1] = "late" end)
      d.state.ticks = d:every(0.001, function(self)
        if #fired < 5 then fired[#fired + 1] = "tick" else self.vm:stop() end
      end)
    end }
    local vm <close> = support.code "ba 00 03 ee fb f4 eb fd"
    local d = vm:attach(def, { ports = 0x300 })
    assert.equal("stopped", (run(vm)))
    assert.equal(5, #fired)
    d:detach()
    assert.equal("halt", (run(vm))) -- nothing is left to wake it
  end)

  it("ends the VM with its name when it answers nonsense", function()
    for text, answer in pairs{ ["answered number 1.5"] = 1.5, ["answered string 7"] = "7",
                               ["answered 256: it does not fit in 1 byte"] = 256,
                               ["answered %-1: it does not fit"] = -1 } do
      local vm <close> = program{ into(0x1000, 0x302) }
      vm:attach(counter{ read = function() return answer end }, { ports = 0x300 })
      local reason, info = run(vm)
      assert.equal("error", reason)
      assert.matches("device counter: .*" .. text, info.text)
    end
    local vm <close> = program{ into(0x1000, 0x302) }
    vm:attach(counter{ read = function() end }, { ports = 0x300 })
    local reason, info = run(vm)
    assert.equal("error", reason)
    assert.matches("device counter: reading DATA answered nil", info.text)
  end)

  it("without registers sees offsets", function()
    local log = {}
    local def = kvm.device{ name = "raw", size = 8,
      read = function(_, offset, size)
        log[#log + 1] = ("r%d/%d"):format(offset, size)
        return 0
      end,
      write = function(_, offset, value, size)
        log[#log + 1] = ("w%d=%d/%d"):format(offset, value, size)
      end }
    local vm <close> = program{ out(0x302, 9, 2), into(0x1000, 0x307) }
    vm:attach(def, { ports = 0x300 })
    run(vm)
    assert.same({ "w2=9/2", "r7/1" }, log)
  end)
end)

describe("kvm.device", function()
  it("refuses descriptions that make no sense", function()
    for text, def in pairs{
      ["unknown option 'regs'"] = { regs = {} },
      ["registers A and B overlap"] = {
        registers = { [0] = { name = "A", width = 4 }, [2] = "B" } },
      ["register A is there twice"] = { registers = { [0] = "A", "A" } },
      ["an offset is an integer"] = { registers = { [-1] = "A" } },
      ["register at x"] = { registers = { x = "A" } },
      ["a width is 1, 2, 4 or 8"] = { registers = { [0] = { name = "A", width = 3 } } },
      ["it has no name"] = { registers = { [0] = {} } },
      ["its reset value does not fit"] = {
        registers = { [0] = { name = "A", width = 1, reset = 256 } } },
      ["lies behind its 2 bytes"] = { registers = { [0] = "A", "B", "C" }, size = 2 },
      ["there is no register D"] = { registers = { [0] = "A" }, read = { D = print } },
      ["expected a function, or functions"] = { read = 5 },
      ["access"] = { registers = { [0] = { name = "A", access = "x" } } },
    } do
      local ok, why = pcall(kvm.device, def)
      assert.is_false(ok, text)
      assert.matches(text, why)
    end
  end)

  it("wants to know where, and a device", function()
    if support.without_kvm(pending) then return end
    local vm <close> = support.vm()
    assert.has_error(function() vm:attach({}, { ports = 1 }) end)
    assert.has_error(function() vm:attach(counter(), {}) end)
    assert.has_error(function() vm:attach(counter(), { ports = 0xffff }) end)
    assert.has_error(function() vm:attach(counter(), { mmio = 0x1000 }) end)
    assert.has_error(function() vm:attach(counter(), { ports = 1, mmio = 1 << 32 }) end)
    assert.same({}, require("minikvm.device").of(vm))
  end)
end)
