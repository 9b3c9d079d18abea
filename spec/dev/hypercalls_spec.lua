-- The hypercall port: calls the guest makes by number, built in or defined in Lua.

local support = require "support.guest"

local call, into, out, run = support.call, support.into, support.out, support.run

---A WRITE or READ with any address and length; the answer of the IN is kept at 0x1000.
local function block(number, address, length)
  return "\x66\xb9" .. string.pack("<I4", length) -- mov ecx, length
    .. call(number, address) .. into(0x1000, 0x500, 4)
end

describe("a built-in hypercall", function()
  if support.without_kvm(pending) then return end

  it("PUTCHAR prints BL, any byte of it", function()
    local vm <close> = support.program{ call(1, 0), call(1, 0x1ff), call(1, 0x41) }
    run(vm)
    assert.equal("\0\xffA", (vm.console:text()))
  end)

  it("takes its number from AL, however wide the OUT", function()
    local vm <close> = support.program{ "\xb3A", out(0x500, 0xff01, 2), out(0x500, 0xffffff01, 4) }
    run(vm)
    assert.equal("AA", (vm.console:text()))
  end)

  it("GETCHAR tells a byte, none yet and the end", function()
    local parts = {}
    for i = 0, 2 do parts[#parts + 1] = call(2) .. into(0x1000 + 4 * i, 0x500, 2) end
    local vm <close> = support.program(parts)
    vm.console:send "\0\xff"
    vm.console:eof()
    run(vm)
    assert.same({ 0x0000, 0x00ff, 0x02ff },
                { vm.memory:u32(0x1000), vm.memory:u32(0x1004), vm.memory:u32(0x1008) })
    local waiting <close> = support.program{ call(2) .. into(0x1000, 0x500, 2) }
    run(waiting)
    assert.equal(0x01ff, waiting.memory:u32(0x1000))
  end)

  it("GETCHAR answers one IN, and a call that follows takes its answer away", function()
    local vm <close> = support.program{ call(2), into(0x1000, 0x500, 2), into(0x1004, 0x500, 2),
                                        call(2), call(1, 0x41), into(0x1008, 0x500, 2) }
    vm.console:send "ab"
    run(vm)
    assert.same({ 0x61, 0, 0 },
                { vm.memory:u32(0x1000), vm.memory:u32(0x1004), vm.memory:u32(0x1008) })
  end)

  it("WRITE prints memory and answers the count", function()
    local vm <close> = support.program{ block(0x10, 0x2000, 12) }
    vm.memory:write(0x2000, "Hello, \0\xff\nyz.")
    run(vm)
    assert.same({ "Hello, \0\xff\nyz", 12 }, { (vm.console:text()), vm.memory:u32(0x1000) })
  end)

  it("READ stores what there is, then tells none yet and the end", function()
    local vm <close> = support.program{ block(0x11, 0x2000, 3), "\x66\xa3\x04\x10", -- eax to 0x1004
      block(0x11, 0x2003, 10), "\x66\xa3\x08\x10", block(0x11, 0x2000, 0), "\x66\xa3\x0c\x10",
      block(0x11, 0x2000, 1) }
    vm.console:send "abcde"
    run(vm)
    assert.same({ 3, 2, 0, 0xfffffffe, "abcde\0" },
                { vm.memory:u32(0x1004), vm.memory:u32(0x1008), vm.memory:u32(0x100c),
                  vm.memory:u32(0x1000), vm.memory:read(0x2000, 6) })
    vm:reset()
    vm.console:eof()
    run(vm)
    assert.equal(0xffffffff, vm.memory:u32(0x1004))
  end)

  it("WRITE and READ end the cpu when the block is not all in RAM", function()
    for _, range in ipairs{ { 0xfffff, 2 }, { 0x100000, 1 }, { 0xffffffff, 1 },
                            { 0xffffffff, 0xffffffff }, { 1, 0xffffffff }, { 0x80000000, 0 } } do
      for number, name in pairs{ [0x10] = "WRITE", [0x11] = "READ" } do
        local vm <close> = support.program{ block(number, range[1], range[2]) }
        vm.console:send "x"
        local reason, info = run(vm)
        assert.equal("fault", reason)
        assert.matches(("hypercall %s: 0x%x bytes at 0x%x are not all in RAM")
          :format(name, range[2], range[1]), info.text)
        assert.equal("", (vm.console:text()))
      end
    end
  end)

  it("WRITE reaches the last byte of RAM", function()
    local vm <close> = support.program{ block(0x10, 0xfffff, 1), block(0x10, 0x100000, 0) }
    vm.memory:write(0xfffff, "Z")
    assert.same({ "halt", "Z" }, { (run(vm)), (vm.console:text()) })
  end)
end)

describe("hypercalls:define", function()
  if support.without_kvm(pending) then return end

  it("gets RBX and the cpu, and answers the IN that follows", function()
    local vm <close> = support.program{ call(0x42, 0x12345678), into(0x1000, 0x500, 4),
                                        into(0x1004, 0x500, 4) }
    local got
    vm.hypercalls:define(0x42, "double", function(...)
      got = { ... }
      return ... * 2
    end)
    run(vm)
    assert.same({ 0x12345678, 0 }, got)
    assert.same({ 0x2468acf0, 0 }, { vm.memory:u32(0x1000), vm.memory:u32(0x1004) })
  end)

  it("tells which cpu calls", function()
    local vm <close> = support.program({ call(0x42) }, { cpus = 4 })
    local callers = {}
    vm.hypercalls:define(0x42, "who", function(_, cpu) callers[cpu] = (callers[cpu] or 0) + 1 end)
    assert.equal("halt", (run(vm)))
    assert.same({ [0] = 1, 1, 1, 1 }, callers)
  end)

  it("reads 0 when the function returns nothing", function()
    local vm <close> = support.program{ call(0x42), into(0x1000, 0x500, 4) }
    vm.hypercalls:define(0x42, "quiet", function() end)
    assert.same({ "halt", 0 }, { (run(vm)), vm.memory:u32(0x1000) })
  end)

  it("goes before a built-in of the same number, until it is removed", function()
    local vm <close> = support.program{ call(1, 0x41), call(0, 3) }
    local printed = {}
    local define <close> = vm.hypercalls:define(1, "putchar", function(bl)
      printed[#printed + 1] = bl
    end)
    local exit <close> = vm.hypercalls:define(0, "exit", function() end)
    assert.equal("halt", (run(vm)))
    assert.same({ { 0x41 }, "", 1, 1 }, { printed, (vm.console:text()), define.hits, exit.hits })
    define:remove()
    exit:remove()
    define:remove()
    vm:reset()
    local reason, info = run(vm)
    assert.same({ "exit", 3, "A", 1 }, { reason, info.code, (vm.console:text()), define.hits })
  end)

  it("may be defined anew after its removal, also by itself", function()
    local vm <close> = support.program{ call(0x42), call(0x42) }
    local handle, again
    handle = vm.hypercalls:define(0x42, "first", function()
      handle:remove()
      again = vm.hypercalls:define(0x42, "second", function() end)
    end)
    assert.equal("halt", (run(vm)))
    assert.same({ 1, 1 }, { handle.hits, again.hits })
  end)

  it("refuses numbers that are taken or are none, and other types", function()
    local vm <close> = support.vm()
    local calls = vm.hypercalls
    calls:define(255, "last", print)
    assert.error_matches(function() calls:define(255, "x", print) end, "255 is defined already")
    for _, number in ipairs{ -1, 256, math.maxinteger } do
      assert.error_matches(function() calls:define(number, "x", print) end, "0 to 255")
    end
    assert.error(function() calls:define("a", "x", print) end)
    assert.error_matches(function() calls:define(1, print) end, "string expected")
    assert.error_matches(function() calls:define(1, "x") end, "function expected")
  end)

  it("that raises or answers nonsense ends the run", function()
    for text, fn in pairs{ ["spec/dev/hyper.*: no"] = function() error "no" end,
                           ["answered a string"] = function() return "1" end,
                           ["answered a number"] = function() return 1.5 end,
                           ["answered .*number"] = function() return -1 end,
                           ["answered .*"] = function() return 1 << 32 end,
                           ["answered a table"] = function() return {} end,
                           ["answered a boolean"] = function() return false end } do
      local vm <close> = support.program{ call(0x42), call(1, 0x41) }
      vm.hypercalls:define(0x42, "bad", fn)
      local reason, info = run(vm)
      assert.equal("error", reason)
      assert.matches(text, info.text)
      assert.equal("", (vm.console:text()))
    end
  end)

  it("may end the run, or close the VM", function()
    local vm = support.program{ call(0x42), call(1, 0x41) }
    vm.hypercalls:define(0x42, "end", function() vm:close() end)
    assert.equal("stopped", (run(vm)))
    assert.equal("closed", vm.state)
  end)

  it("may run calls inside: a port hook over the hypercall port", function()
    local vm <close> = support.program{ call(0x42, 5), into(0x1000, 0x500, 4) }
    local order = {}
    vm.hypercalls:define(0x42, "inner", function(value)
      order[#order + 1] = "inner"
      return value
    end)
    vm.ports:override(0x500, {
      write = function(_, value, _, next)
        order[#order + 1] = "before"
        next(value)
        order[#order + 1] = "after"
      end,
      read = function(_, _, next) return next() + 1 end,
    })
    assert.equal("halt", (run(vm)))
    assert.same({ "before", "inner", "after" }, order)
    assert.equal(6, vm.memory:u32(0x1000))
  end)
end)
