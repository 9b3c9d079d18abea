-- vm.mmio, vm.msrs, taps, unhandled accesses, hypercalls on top of one another, vm.cpuid.

local process = require "support.process"
local support = require "support.guest"

local out, into, program, run = support.out, support.into, support.program, support.run

local BASE <const> = 0xfeb00000

-- The same bytes do the same in 32-bit and 64-bit code: ebx = BASE + offset, accesses to [ebx].
local function at(offset) return "\xbb" .. ("<I4"):pack(BASE + offset) end
local READ <const> = { "\x8a\x03", "\x66\x8b\x03", [4] = "\x8b\x03", [8] = "\x48\x8b\x03" }
local WRITE <const> = { "\x88\x03", "\x66\x89\x03", [4] = "\x89\x03", [8] = "\x48\x89\x03" }

---xor eax, eax; mov al/ax/eax/rax, [BASE + offset]; mov [keep], eax or rax
local function read(keep, offset, size)
  local wide = size == 8 and "\x48" or ""
  return "\x31\xc0" .. at(offset) .. READ[size]
    .. "\xbb" .. ("<I4"):pack(keep) .. wide .. "\x89\x03"
end

---mov eax, value; mov [BASE + offset], al/ax/eax/rax
local function write(offset, size, value)
  local load = size == 8 and "\x48\xb8" .. ("<I8"):pack(value) or "\xb8" .. ("<I4"):pack(value)
  return load .. at(offset) .. WRITE[size]
end

local function guest(mode, parts, opts)
  local o = { mode = mode, memory = "4M" }
  if mode ~= "protected" then o.map_io = BASE end
  for key, value in pairs(opts or {}) do o[key] = value end
  local vm = support.vm(o)
  assert(vm:load{ bytes = table.concat(parts) .. "\xf4" })
  return vm
end

---Records calls as text.
local function recorder()
  local log = {}
  return {
    read = function(address, size)
      log[#log + 1] = ("r%x/%d"):format(address - BASE, size)
      return 0x8877665544332211 & (size == 8 and -1 or (1 << 8 * size) - 1)
    end,
    write = function(address, value, size)
      log[#log + 1] = ("w%x=%x/%d"):format(address - BASE, value, size)
    end,
  }, log
end

describe("vm.mmio", function()
  if support.without_kvm(pending) then return end

  for _, mode in ipairs{ "protected", "paged", "long" } do
    it("serves reads and writes of all sizes in mode " .. mode, function()
      local vm <close> = guest(mode, { read(0x20000, 0, 1), read(0x20008, 0x12, 2),
                                       read(0x20010, 0x24, 4), write(0x30, 1, 0xab),
                                       write(0x31, 2, 0xabcd), write(0x43, 4, 0x12345678) })
      local handlers, log = recorder()
      local handle = vm.mmio:on(BASE, 0x100, handlers)
      local reason, info = run(vm)
      assert.equal("halt", reason, info.text)
      assert.same({ "r0/1", "r12/2", "r24/4", "w30=ab/1", "w31=abcd/2", "w43=12345678/4" }, log)
      assert.same({ 0x11, 0x2211, 0x44332211 }, { vm.memory:u32(0x20000), vm.memory:u32(0x20008),
                                                  vm.memory:u32(0x20010) })
      assert.equal(6, handle.hits)
      assert.equal(6, info.served.lua)
    end)
  end

  it("serves eight bytes at once in long mode, all 64 bits of them", function()
    local vm <close> = guest("long", { read(0x20000, 0, 8), write(8, 8, 0x8899aabbccddeeff) })
    local handlers, log = recorder()
    vm.mmio:on(BASE, 0x100, handlers)
    assert.equal("halt", (run(vm)))
    assert.same({ "r0/8", "w8=8899aabbccddeeff/8" }, log)
    assert.equal(0x8877665544332211, vm.memory:u64(0x20000))
  end)

  for _, size in ipairs{ 1, 2, 4, 8 } do
    it(("takes %d bytes at every alignment as one access"):format(size), function()
      local parts, expected = {}, {}
      for offset = 0, 7 do
        parts[#parts + 1] = read(0x20000 + 8 * offset, offset, size)
        parts[#parts + 1] = write(0x10 + offset, size, offset)
        expected[#expected + 1] = ("r%x/%d"):format(offset, size)
        expected[#expected + 1] = ("w%x=%x/%d"):format(0x10 + offset, offset, size)
      end
      local vm <close> = guest("long", parts)
      local handlers, log = recorder()
      vm.mmio:on(BASE, 0x100, handlers)
      assert.equal("halt", (run(vm)))
      assert.same(expected, log)
      for offset = 0, 7 do
        assert.equal(("<I8"):pack(0x8877665544332211):sub(1, size),
                     vm.memory:read(0x20000 + 8 * offset, size))
      end
    end)
  end

  for size = 2, 8, 2 do
    if READ[size] then
      it(("gives an access of %d bytes across two devices to both, byte by byte"):format(size),
        function()
          for first = 1, size - 1 do -- bytes that the first device gets
            local vm <close> = guest("long", { read(0x20000, 0x10 - first, size),
                                               write(0x10 - first, size, 0x0807060504030201
                                                     & (size == 8 and -1 or (1 << 8 * size) - 1)) })
            local a, b = {}, {}
            local function device(list, base, answer)
              return { read = function(address, bytes)
                list[#list + 1] = ("r%d/%d"):format(address - base, bytes)
                return answer
              end, write = function(address, value, bytes)
                list[#list + 1] = ("w%d=%d/%d"):format(address - base, value, bytes)
              end }
            end
            vm.mmio:on(BASE, 0x10, device(a, BASE, 0xaa))
            vm.mmio:on(BASE + 0x10, 0x10, device(b, BASE + 0x10, 0xbb))
            assert.equal("halt", (run(vm)))
            assert.equal(("\xaa"):rep(first) .. ("\xbb"):rep(size - first),
                         vm.memory:read(0x20000, size))
            assert.equal(2 * first, #a)
            assert.equal(2 * (size - first), #b)
            assert.equal(("r%d/1"):format(0x10 - first), a[1])
            assert.equal(("w%d=%d/1"):format(0, first + 1), b[size - first + 1])
          end
        end)
    end
  end

  it("lets an access run over the end of a device into nothing", function()
    local vm <close> = guest("long", { read(0x20000, 0xe, 4), write(0xe, 4, 0x04030201) })
    local handlers, log = recorder()
    vm.mmio:on(BASE, 0x10, handlers)
    local _, info = run(vm)
    assert.equal(0xffff1111, vm.memory:u32(0x20000))
    assert.same({ "re/1", "rf/1", "we=1/1", "wf=2/1" }, log)
    assert.equal(4, info.served.none)
  end)

  it("splits an access where another device lies on top of a part of it", function()
    local vm <close> = guest("long", { read(0x20000, 0, 4), read(0x20008, 4, 4) })
    vm.mmio:on(BASE, 0x10, { read = function(_, size) return size == 1 and 0x11 or 0x22222222 end })
    vm.mmio:override(BASE + 2, 1, { read = function() return 0x33 end })
    assert.equal("halt", (run(vm)))
    assert.same({ 0x11331111, 0x22222222 }, { vm.memory:u32(0x20000), vm.memory:u32(0x20008) })
  end)

  it("chains override through next, and reads ones beneath everything", function()
    local vm <close> = guest("long", { read(0x20000, 0, 4), read(0x20008, 0x10, 4) })
    vm.mmio:const(BASE, 4, 0x1000)
    vm.mmio:override(BASE, 0x20, { read = function(_, _, next) return next() ~ 1 end })
    assert.equal("halt", (run(vm)))
    assert.same({ 0x1001, 0xfffffffe }, { vm.memory:u32(0x20000), vm.memory:u32(0x20008) })
  end)

  it("lets a range be hooked and unhooked from inside its own handler", function()
    local vm <close> = guest("protected", { read(0x20000, 0, 4), read(0x20004, 0, 4),
                                            read(0x20008, 0, 4) })
    local first
    first = vm.mmio:on(BASE, 4, { read = function()
      first:remove()
      vm.mmio:on(BASE, 4, { read = function() return 2 end })
      return 1
    end })
    assert.equal("halt", (run(vm)))
    assert.same({ 1, 2, 2 }, { vm.memory:u32(0x20000), vm.memory:u32(0x20004),
                               vm.memory:u32(0x20008) })
    assert.equal(1, first.hits)
  end)

  it("ends the VM when a handler fails or answers nonsense", function()
    for answer, text in pairs{ [{}] = "answered nil", [1.5] = "answered number 1.5",
                               ["7"] = "answered string 7", [256] = "answered 256: it does not fit",
                               [-1] = "answered %-1: it does not fit" } do
      local vm <close> = guest("protected", { read(0x20000, 0, 1) })
      if type(answer) == "table" then answer = nil end
      vm.mmio:on(BASE, 4, { read = function() return answer end })
      local reason, info = run(vm)
      assert.equal("error", reason)
      assert.matches("read handler of address 0xfeb00000 " .. text, info.text)
    end
    local vm <close> = guest("protected", { write(0, 4, 1) })
    vm.mmio:on(BASE, 4, { write = function() error "broken" end })
    local reason, info = run(vm)
    assert.equal("error", reason)
    assert.matches("hooks_spec.lua:%d+: broken", info.text)
    assert.matches("stack traceback", info.traceback)
  end)

  it("refuses ranges over RAM, past the end, empty, and owned by others, whom it names", function()
    local vm <close> = support.vm{ mode = "long", memory = "4M" }
    local handlers = { read = function() return 0 end, name = "first" }
    local function refused(text, ...)
      local ok, why = pcall(vm.mmio.on, vm.mmio, ...)
      assert.is_false(ok)
      assert.matches(text, why)
    end
    refused("0x3ff000%-0x400fff lie over RAM, which ends at 0x400000", 0x3ff000, 0x2000, handlers)
    refused("a size is 1 or more", BASE, 0, handlers)
    refused("0 or more", -8, 4, handlers)
    refused("behind the last address", math.maxinteger - 1, 4, handlers)
    refused("unknown handler 'reed'", BASE, 4, { reed = print })
    refused("neither read nor write", BASE, 4, {})
    vm.mmio:on(BASE, 0x10, handlers)
    refused("address 0xfeb00008 belongs to first.*wanted: "
            .. "addresses 0xfeb00008%-0xfeb00017 for second", BASE + 8, 0x10,
            { read = print, name = "second" })
    refused("belongs to first", BASE - 4, 0x100, handlers)
  end)

  it("reaches only what paging maps there", function()
    local vm <close> = support.vm{ mode = "long", memory = "4M" }
    vm:load{ bytes = read(0x20000, 0, 4) .. "\xf4" }
    local handle = vm.mmio:on(BASE, 4, { read = function() return 0 end })
    assert.equal("shutdown", (run(vm))) -- a page fault, and no IDT
    assert.equal(0, handle.hits)
  end)
end)

describe("a tap", function()
  if support.without_kvm(pending) then return end

  it("sees what the guest sees and changes nothing", function()
    local vm <close> = program({ out(0xe9, 0x41), into(0x1000, 0x80), out(0x80, 7),
                                 into(0x1004, 0x81) }, { coalesce = false })
    local log = {}
    vm.ports:on(0x80, { read = function() return 0x55 end, write = function() end })
    local function tap(...) log[#log + 1] = table.concat({ ... }, " ") return 99 end
    local handle = vm.ports:tap({ 0x80, 0x81 }, tap)
    vm.ports:tap(0xe9, tap)
    local reason = run(vm)
    assert.equal("halt", reason)
    assert.equal("A", (vm.console:text()))
    assert.same({ "write 233 65 1", "read 128 85 1", "write 128 7 1", "read 129 255 1" }, log)
    assert.same({ 0x55, 0xff }, { vm.memory:u32(0x1000), vm.memory:u32(0x1004) })
    assert.equal(3, handle.hits)
    handle:remove()
    assert.equal(3, handle.hits)
  end)

  it("that fails ends the VM", function()
    local vm <close> = program{ out(0x80, 1) }
    vm.ports:tap(0x80, function() error "no" end)
    assert.equal("error", (run(vm)))
  end)
end)

describe("vm.msrs", function()
  if support.without_kvm(pending) then return end

  ---mov ecx, index; rdmsr; mov [keep], eax; mov [keep + 4], edx (32-bit and 64-bit code)
  local function rdmsr(keep, index)
    return "\xb9" .. ("<I4"):pack(index) .. "\x0f\x32"
      .. "\xbb" .. ("<I4"):pack(keep) .. "\x89\x03\x89\x53\x04"
  end
  local function wrmsr(index, value)
    return "\xb9" .. ("<I4"):pack(index) .. "\xb8" .. ("<I4"):pack(value & 0xffffffff)
      .. "\xba" .. ("<I4"):pack(value >> 32) .. "\x0f\x30"
  end
  local OURS <const> = 0x4b564d80 -- one that no processor has

  for _, mode in ipairs{ "protected", "long" } do
    it("serves reads and writes in mode " .. mode, function()
      local vm <close> = guest(mode, { rdmsr(0x20000, OURS), wrmsr(OURS, 0x8877665544332211) })
      local wrote
      local handle = vm.msrs:on(OURS, { read = function(index, size)
        assert.same({ OURS, 8 }, { index, size })
        return 0x8000000000000001
      end, write = function(_, value) wrote = value end })
      local reason, info = run(vm)
      assert.equal("halt", reason, info.text)
      assert.equal(0x8000000000000001, vm.memory:u64(0x20000))
      assert.equal(0x8877665544332211, wrote)
      assert.same({ 2, 1, 1 }, { handle.hits, info.by.rdmsr, info.by.wrmsr })
    end)
  end

  it("overrides what KVM has, which next() asks", function()
    local SYSENTER_ESP <const> = 0x175
    local vm <close> = guest("long", { wrmsr(SYSENTER_ESP, 0x1000), rdmsr(0x20000, SYSENTER_ESP) })
    local log = {}
    vm.msrs:override(SYSENTER_ESP, {
      write = function(_, value, _, next)
        log[#log + 1] = value
        return next(value + 0x234)
      end,
      read = function(_, _, next) return next() + 1 end,
    })
    local reason, info = run(vm)
    assert.equal("halt", reason, info.text)
    assert.same({ 0x1000 }, log)
    assert.equal(0x1235, vm.memory:u64(0x20000))
  end)

  it("raises #GP in the guest for a handler that answers false", function()
    for _, parts in ipairs{ { rdmsr(0x20000, OURS) }, { wrmsr(OURS, 1) } } do
      local vm <close> = guest("long", parts)
      vm.msrs:on(OURS, { read = function() return false end, write = function() return false end })
      assert.equal("shutdown", (run(vm))) -- there is no IDT
    end
  end)

  -- KVM's filter lets 0x800 to 0x8ff, the x2APIC's, through (api.rst, KVM_X86_SET_MSR_FILTER).
  it("serves the numbers of the x2APIC too", function()
    -- mov ecx, 0x802; rdmsr; out 0x80, al; wrmsr; hlt
    local vm <close> = guest("protected", { support.bytes "b9 02 08 00 00 0f 32 e6 80 0f 30" },
                             { unhandled = "fault" })
    local got, wrote
    vm.msrs:on(0x802, { read = function() return 7 << 32 | 5 end,
                        write = function(_, value) wrote = value end })
    vm.ports:on(0x80, { write = function(_, value) got = value end })
    local reason, info = run(vm)
    assert.same({ "halt", 5, 7 << 32 | 5, 1, 1 },
                { reason, got, wrote, info.by.rdmsr, info.by.wrmsr }, info.text)
  end)

  it("leave #GP to the guest for what nobody has", function()
    for _, opts in ipairs{ {}, { unhandled = "fault" } } do
      local vm <close> = guest("long", { rdmsr(0x20000, OURS) }, opts)
      vm.msrs:on(0x800, { read = function() return 0 end })
      local reason, info = run(vm)
      assert.same({ "shutdown", 0 }, { reason, info.served.none }, info.text) -- there is no IDT
      vm:reset()
      vm.msrs:tap(OURS, function() end) -- changes nothing
      assert.equal("shutdown", (run(vm)))
    end
  end)

  it("lets a handler answer for what next() refuses", function()
    local vm <close> = guest("long", { rdmsr(0x20000, OURS), wrmsr(OURS, 1) })
    vm.msrs:override(OURS, { read = function(_, _, next) next() return 3 end,
                             write = function(_, value, _, next) next(value) return true end })
    local reason, info = run(vm)
    assert.same({ "halt", 3 }, { reason, vm.memory:u64(0x20000) }, info.text)
  end)

  it("forgets a hook that was removed", function()
    local vm <close> = guest("long", { rdmsr(0x20000, 0x175), "\xf4", rdmsr(0x20008, 0x175) })
    local handle = vm.msrs:override(0x175, { read = function() return 7 end })
    run(vm)
    handle:remove()
    local _, info = run(vm)
    assert.same({ 7, 0, 1 }, { vm.memory:u64(0x20000), vm.memory:u64(0x20008), info.by.rdmsr })
  end)

  it("come back with a reset, latches empty", function()
    local vm <close> = guest("long", { rdmsr(0x20000, OURS), wrmsr(OURS, 5) })
    vm.msrs:latch(OURS, 3)
    for _ = 1, 2 do
      assert.equal("halt", (run(vm)))
      assert.equal(3, vm.memory:u64(0x20000))
      vm:reset()
    end
  end)

  it("refuses numbers that are none, and more than KVM's filter holds", function()
    local vm <close> = support.vm{ mode = "long" }
    local handlers = { read = function() return 0 end }
    assert.has_error(function() vm.msrs:on(-1, handlers) end)
    assert.has_error(function() vm.msrs:on(1 << 32, handlers) end)
    for i = 1, 16 do vm.msrs:on(i << 20, handlers) end
    local ok, why = pcall(vm.msrs.on, vm.msrs, 17 << 20, handlers)
    assert.is_false(ok)
    assert.matches("too many MSRs far apart", why)
    vm.msrs:on((16 << 20) + 1, handlers) -- near one that is there
  end)
end)

describe("vm:on_unhandled", function()
  if support.without_kvm(pending) then return end

  it("is shown what nobody serves, and may serve it", function()
    local vm <close> = guest("long", { read(0x20000, 0, 4), write(4, 4, 9), read(0x20008, 8, 2),
      "\xb9" .. ("<I4"):pack(0x4b564d81) .. "\x0f\x32\xbb\x10\x00\x02\x00\x89\x03" })
    local log = {}
    local handle <close> = vm:on_unhandled(function(what, address, value, size)
      log[#log + 1] = ("%s %x %s %d"):format(what, address, value, size)
      if what == "rdmsr" then return 0x77 end
      if address == BASE then return 0x1234 end
      return what == "write" and true or nil
    end)
    local reason, info = run(vm)
    assert.equal("halt", reason, info.text)
    assert.same({ "read feb00000 nil 4", "write feb00004 9 4", "read feb00008 nil 2",
                  "rdmsr 4b564d81 nil 8" }, log)
    assert.same({ 0x1234, 0xffff, 0x77 }, { vm.memory:u32(0x20000), vm.memory:u16(0x20008),
                                            vm.memory:u32(0x20010) })
    assert.equal(4, handle.hits)
    assert.same({ 3, 1 }, { info.served.lua, info.served.none })
  end)

  it("is asked before unhandled=\"fault\" ends the VM", function()
    local vm <close> = program({ out(0x80, 1), out(0x81, 2) }, { unhandled = "fault" })
    vm:on_unhandled(function(_, port) return port == 0x80 end)
    local reason, info = run(vm)
    assert.equal("fault", reason)
    assert.matches("OUT to port 0x81: nobody serves it", info.text)
  end)

  it("ends the VM when its answer makes no sense, and is one at a time", function()
    local vm <close> = program{ into(0x1000, 0x80) }
    local handle = vm:on_unhandled(function() return 256 end)
    assert.has_error(function() vm:on_unhandled(print) end)
    local reason, info = run(vm)
    assert.equal("error", reason)
    assert.matches("on_unhandled handler answered a number", info.text)
    handle:remove()
    vm:reset()
    assert.equal("halt", (run(vm)))
  end)
end)

describe("vm.hypercalls", function()
  if support.without_kvm(pending) then return end

  it("overrides a built-in call by name or number, with next", function()
    local vm <close> = program{ support.call(1, 0x41), support.call(1, 0x42), support.call(2),
                                into(0x1000, 0x500, 2) }
    local seen = {}
    vm.hypercalls:override("PUTCHAR", function(argument, cpu, next)
      seen[#seen + 1] = ("%x@%d"):format(argument, cpu)
      if argument == 0x41 then next() end
    end)
    local get = vm.hypercalls:override(2, function(_, _, next) return next() + 1 end)
    vm.console:send "x"
    assert.equal("halt", (run(vm)))
    assert.equal("A", (vm.console:text()))
    assert.same({ "41@0", "42@0" }, seen)
    assert.equal(("y"):byte(), vm.memory:u16(0x1000))
    assert.equal(1, get.hits)
  end)

  it("stacks handlers, and a tap among them changes nothing", function()
    local vm <close> = program{ support.call(0x40, 5), into(0x1000, 0x500, 4) }
    local order = {}
    vm.hypercalls:define(0x40, "ADD", function(n) order[#order + 1] = "define" return n + 1 end)
    vm.hypercalls:tap("ADD", function(n) order[#order + 1] = "tap " .. n return 99 end)
    vm.hypercalls:override("ADD", function(_, _, next)
      order[#order + 1] = "override"
      return next() * 2
    end)
    assert.equal("halt", (run(vm)))
    assert.equal(12, vm.memory:u32(0x1000))
    assert.same({ "override", "tap 5", "define" }, order)
  end)

  it("lets handlers remove themselves and those beneath", function()
    local vm <close> = program{ support.call(0x40, 1), into(0x1000, 0x500, 4),
                                support.call(0x40, 1) }
    local define = vm.hypercalls:define(0x40, "ONE", function() return 1 end)
    local over
    over = vm.hypercalls:override("ONE", function(_, _, next)
      over:remove()
      define:remove()
      return pcall(next) and 7 or 8
    end)
    local reason, info = run(vm)
    assert.equal("fault", reason) -- nobody knows it any more: next() finds that first
    assert.matches("unknown hypercall 0x40", info.text)
  end)

  it("gives an override a next that is over with its call, and handles that know their vm", function()
    local vm = program{ support.call(0x40, 5), into(0x1000, 0x500, 4) }
    local kept
    local define = vm.hypercalls:define(0x40, "ONE", function(n) return n + 1 end)
    vm.hypercalls:override("ONE", function(_, _, next)
      kept = next
      return next() + next()
    end)
    assert.equal("halt", (run(vm)))
    assert.same({ 12, 2 }, { vm.memory:u32(0x1000), define.hits })
    assert.error_matches(function() kept() end, "next%(%) belongs to a call that is over")
    vm:close()
    assert.error_matches(function() define:remove() end, "closed")
  end)

  it("refuses names that nobody has", function()
    local vm <close> = support.vm()
    local ok, why = pcall(vm.hypercalls.override, vm.hypercalls, "PUTCHR", print)
    assert.is_false(ok)
    assert.matches('there is no hypercall "PUTCHR"', why)
    assert.error_matches(function() vm.hypercalls:tap("a\0b", print) end,
                         '^there is no hypercall "a\\0b"')
    vm.hypercalls:define(0x40, "X", print)
    ok, why = pcall(vm.hypercalls.define, vm.hypercalls, 0x40, "Y", print)
    assert.is_false(ok)
    assert.matches('defined already, as "X"', why)
  end)
end)

describe("vm.cpuid", function()
  if support.without_kvm(pending) then return end

  ---mov eax, leaf; xor ecx, ecx; cpuid; and the four registers to [keep]
  local function cpuid(keep, leaf)
    return "\xb8" .. ("<I4"):pack(leaf) .. "\x31\xc9\x0f\xa2\xbf" .. ("<I4"):pack(keep)
      .. "\x89\x07\x89\x5f\x04\x89\x4f\x08\x89\x57\x0c"
  end

  it("is what the guest sees", function()
    local vm <close> = guest("long",
      { cpuid(0x20000, 0), cpuid(0x20010, 0x80000001), cpuid(0x20020, 0x40000000) },
      { cpuid = { vendor = "MinikvmTest!", hide = { "syscall" },
                  [0x40000000] = { eax = 0x40000000, ebx = 0x6b6e696d } } })
    assert.is_false(vm.cpuid:has "syscall")
    local reason, info = run(vm)
    assert.equal("halt", reason, info.text)
    assert.equal("MinikvmTest!", vm.memory:read(0x20004, 4) .. vm.memory:read(0x2000c, 4)
                 .. vm.memory:read(0x20008, 4))
    assert.equal(0, vm.memory:u32(0x2001c) >> 11 & 1)
    assert.equal(0x6b6e696d, vm.memory:u32(0x20024))
    assert.equal(vm.cpuid:get(0x80000001).edx, vm.memory:u32(0x2001c))
  end)

  it("hides a feature bit, or says that this host shows its own", function()
    local vm <close> = guest("long", { cpuid(0x20000, 1) })
    if support.host.cpuid == "host" then
      local ok, why = pcall(vm.cpuid.hide, vm.cpuid, "sse2")
      assert.is_false(ok)
      assert.matches('"sse2" cannot be hidden: this host', why)
      ok, why = pcall(vm.cpuid.set, vm.cpuid, 1, { edx = 0 })
      assert.is_false(ok)
      assert.matches("edx of leaf 1 cannot be set: this host", why)
    else
      vm.cpuid:hide "sse2"
      run(vm)
      assert.equal(0, vm.memory:u32(0x2000c) >> 26 & 1)
    end
  end)

  it("can be put back, until the vm has run; and again after a reset", function()
    local vm <close> = guest("long", { cpuid(0x20000, 0) })
    local before = vm.cpuid:get(0)
    local handle = vm.cpuid:vendor "ABCDEFGHIJKL"
    handle:remove()
    assert.same(before, vm.cpuid:get(0))
    run(vm)
    local ok, why = pcall(vm.cpuid.vendor, vm.cpuid, "ABCDEFGHIJKL")
    assert.is_false(ok)
    assert.matches("has run: its CPUID can be changed before that, or after reset", why)
    vm:reset()
    vm.cpuid:vendor "ABCDEFGHIJKL"
    run(vm)
    assert.equal("ABCD", vm.memory:read(0x20004, 4))
    vm:reset()
    run(vm)
    assert.equal("ABCD", vm.memory:read(0x20004, 4))
  end)

  it("names what is wrong", function()
    local vm <close> = support.vm()
    for text, fn in pairs{
      ['unknown feature "sse22" %(did you mean "sse2"%?%)'] = function() vm.cpuid:hide "sse22" end,
      ["a vendor has 12 bytes"] = function() vm.cpuid:vendor "Intel" end,
      ["unknown option 'eaxx'"] = function() vm.cpuid:set(1, { eaxx = 1 }) end,
      ["ecx: expected an integer"] = function() vm.cpuid:set(1, { ecx = 1 << 32 }) end,
      ["leaf: expected an integer"] = function() vm.cpuid:get(-1) end,
      ["unknown key vender"] = function() support.vm{ cpuid = { vender = "x" } } end,
    } do
      local ok, why = pcall(fn)
      assert.is_false(ok)
      assert.matches(text, why)
    end
  end)
end)

-- An access passes a stack of any depth without C calls that nest: a vCPU's thread has 1 MiB.
describe("a deep stack of handlers", function()
  if support.without_kvm(pending) then return end

  it("of taps sees an access once each, the newest first, on ports, memory and MSRs", function()
    local vm <close> = guest("protected", {
      support.bytes "b0 5a  e6 80  e4 80  a2 00 00 02 00", -- al=5a; out 80,al; in al,80; [20000]=al
      write(0, 1, 0x77), read(0x20010, 0, 1),
      support.bytes [[ b9 34 12 00 00  31 d2  b8 09 00 00 00 ; ecx=1234; edx=0; eax=9
                       0f 30  0f 32  a3 20 00 02 00          ; wrmsr; rdmsr; [20020]=eax ]],
    })
    local last = {}
    vm.ports:latch(0x80, 0x80)
    vm.mmio:latch(BASE, 1)
    vm.msrs:on(0x1234, { read = function() return 0x21 end, write = function() end })
    local order, calls = true, 0
    for _, bus in ipairs{ "ports", "mmio", "msrs" } do
      local first = bus == "mmio" and BASE or bus == "msrs" and 0x1234 or 0x80
      local second = bus == "mmio" and 1 or first
      local count = bus == "msrs" and 100 or 3000 -- KVM takes a millisecond to learn of an MSR
      for i = 1, count do
        vm[bus]:tap(first, second, function(what)
          calls = calls + 1
          local key = bus .. what
          order = order and i == (last[key] or count + 1) - 1
          last[key] = i
        end)
      end
    end
    vm:start()
    assert.equal("halt", (vm:wait(20)))
    assert.equal(4 * 3000 + 2 * 100, calls)
    assert.is_true(order)
    assert.equal(0x5a, vm.memory:u8(0x20000))
    assert.equal(0x77, vm.memory:u8(0x20010))
    assert.equal(0x21, vm.memory:u32(0x20020))
  end)

  it("of overrides is left by a vm that is closed while its guest goes on", function()
    for _ = 1, 5 do
      local vm <close> = support.code "e4 80 eb fc"
      for _ = 1, 4000 do vm.ports:override(0x80, { read = function() return 1 end }) end
      local reached = false
      vm.ports:override(0x80, { read = function() reached = true return 1 end })
      vm:start()
      process.await(function() return reached end)
    end
  end)

  it("of hypercall taps ends in the call itself", function()
    local vm <close> = program{ support.call(0x42, 7), into(0x8000, 0x500, 4) }
    local calls = 0
    vm.hypercalls:define(0x42, "x", function(argument) return argument + 1 end)
    for _ = 1, 1000 do vm.hypercalls:tap("x", function() calls = calls + 1 end) end
    vm:start()
    assert.equal("halt", (vm:wait(20)))
    assert.equal(1000, calls)
    assert.equal(8, vm.memory:u32(0x8000))
  end)

  it("has a limit, which is named", function()
    local vm <close> = support.vm()
    assert.error_matches(function()
      for i = 0, 5000 do vm.ports:tap(i, function() end) end
    end, "4096 handlers of ports are the most there may be")
    assert.error_matches(function()
      for _ = 0, 5000 do vm.hypercalls:tap(1, function() end) end
    end, "hypercall 0x01 has 1024 handlers, the most there may be")
  end)

  it("of latches has a limit on the memory of all, which is named", function()
    local vm <close> = support.vm()
    local handles = {}
    assert.error_matches(function()
      for i = 1, 100 do handles[i] = vm.mmio:latch(0xc0000000, 16 << 20) end
    end, "the latches of vm \"vm\" hold 128 MiB, the most there may be")
    assert.equal(8, #handles)
    handles[1]:remove()
    vm.mmio:latch(0xc0000000, 16 << 20)
  end)

  it("over all ports takes no memory for each of them", function()
    local function kilobytes()
      return tonumber(io.open("/proc/self/status"):read("a"):match "VmRSS:%s*(%d+)")
    end
    local vm <close> = support.vm()
    vm.ports:tap(0, 0xffff, function() end)
    collectgarbage()
    local before = kilobytes()
    for _ = 1, 500 do vm.ports:tap(0, 0xffff, function() end) end
    assert.is_true(kilobytes() - before < 8192, kilobytes() - before .. " KiB")
  end)
end)

-- One form of a range for every method of every space.
describe("a range", function()
  if support.without_kvm(pending) then return end

  it("is { first, last } or { first, size = n } everywhere", function()
    local vm <close> = support.vm()
    local one = { read = function() return 1 end }
    local function nothing() end
    for name, base in pairs{ ports = 0x300, mmio = 0xd0000000, msrs = 0x40000200 } do
      local space = vm[name]
      for method, arguments in pairs{ on = { one }, override = { one }, tap = { nothing },
                                      const = { 1 }, latch = { 1 }, sink = {},
                                      match = { 1, nothing },
                                      fifo = { { size = 4 }, nothing } } do
        for _, range in ipairs{ { base, base + 3 }, { base, size = 4 } } do
          local handle <close> = space[method](space, range, table.unpack(arguments))
          assert.equal(0, handle.hits)
        end
        for _, wrong in ipairs{ { base }, { base, base + 3, size = 4 }, { base, base - 1 },
                                { base, size = 0 }, { base, size = -1 }, { first = base },
                                { "x", 1 }, { base, base + 1, base + 2 }, { -1, size = 2 },
                                { math.maxinteger, size = 2 } } do
          assert.is_false((pcall(space[method], space, wrong, table.unpack(arguments))))
        end
      end
    end
  end)

  it("covers what it says", function()
    local vm <close> = support.program{ support.into(0x2000, 0x2ff), support.into(0x2004, 0x300),
                                        support.into(0x2008, 0x303), support.into(0x200c, 0x304) }
    vm.ports:on({ 0x300, size = 4 }, { read = function(port) return port & 0xff end })
    assert.equal("halt", (vm:run()))
    local got = {}
    for i = 0, 3 do got[i + 1] = vm.memory:u8(0x2000 + 4 * i) end
    assert.same({ 0xff, 0, 3, 0xff }, got)
  end)
end)
