-- Output of several vCPUs: in real mode each is a guest in a window of its own, with output of its
-- own (docs/abi.md); in the other modes they are one guest, which has one console.

local support = require "support.guest"

---Prints its number as a digit, ten times on each of `lines` lines, then HLT. 64-bit code:
---lea ebx, ['0' + edi]; mov ecx, lines; line: mov edx, 10; digit: mov eax, ebx; out 0xe9, al;
---dec edx; jnz digit; mov al, 10; out 0xe9, al; dec ecx; jnz line; hlt
local function printer(lines)
  return support.bytes "8d5f30 b9" .. ("<I4"):pack(lines)
    .. support.bytes "ba0a000000 89d8 e6e9 ffca 75f8 b00a e6e9 ffc9 75eb f4"
end

local function vm_of(code, opts)
  local o = { mode = "long", cpus = 8 }
  for key, value in pairs(opts or {}) do o[key] = value end
  local vm = support.vm(o)
  assert(vm:load({ bytes = code }, { cpu = "all" }))
  return vm
end

local function halts(vm)
  local reason, info = support.run(vm)
  assert.equal("halt", reason, info.text)
end

describe("the output of several vCPUs", function()
  if support.without_kvm(pending) then return end

  it("goes to one console in long mode, all of it", function()
    local vm <close> = vm_of(printer(20))
    halts(vm)
    local text, total = vm.console:text()
    assert.same({ 8 * 220, 8 * 220 }, { #text, total })
    for cpu = 0, 7 do
      local _, count = text:gsub(tostring(cpu), "")
      assert.equal(200, count)
    end
    assert.error_matches(function() vm.console:text(1) end,
      "its vCPUs print to one console: leave out cpu 1")
    assert.error_matches(function() vm.console:text(8) end, "has no cpu 8")
    assert.error_matches(function() vm.console:try_expect("x", { cpu = 1 }) end,
      "its vCPUs print to one console: leave out cpu 1")
  end)

  it("is told in whole lines, with the vCPU that printed each", function()
    local vm <close> = vm_of(printer(20))
    local seen = {}
    vm.console:on_line(function(line, cpu)
      assert.equal(tostring(cpu):rep(10), line)
      seen[cpu] = (seen[cpu] or 0) + 1
    end)
    halts(vm)
    assert.same({ [0] = 20, 20, 20, 20, 20, 20, 20, 20 }, seen)
  end)

  it("is told to the end of a line that is not ended", function()
    local vm <close> = vm_of(support.bytes "8d4730 e6e9 f4", { cpus = 3 }) -- the digit, hlt
    local seen = {}
    vm.console:on_line(function(line, cpu) seen[cpu] = line end)
    halts(vm)
    assert.same({ [0] = "0", "1", "2" }, seen)
  end)

  it("is kept apart in real mode, by windows", function()
    -- mov ax, cs; shr ax, 10; add al, '0'; out 0xe9, al; hlt
    local vm <close> = support.vm{ cpus = 64, mode = "real" }
    assert(vm:load({ bytes = support.bytes "8cc8 c1e80a 0430 e6e9 f4" }, { cpu = "all" }))
    halts(vm)
    for cpu = 0, 63 do assert.equal(string.char(0x30 + cpu), vm.console:text(cpu)) end
  end)

  it("is one once an image has chosen the mode", function()
    local vm <close> = support.vm{ cpus = 2 }
    assert(vm:load("guests/build/long/hello.elf", { cpu = "all" }))
    halts(vm)
    assert.error_matches(function() vm.console:text(1) end, "leave out cpu 1")
    assert.equal(2 * #"Hello, KVM!\n", #vm.console:text())
  end)

  it("is waited for and forbidden whoever prints it", function()
    for _, digit in ipairs{ "0", "7" } do
      local vm <close> = vm_of(printer(1))
      vm.console:expect(digit)
      halts(vm) -- those that had halted stay there
      assert.equal(8 * 11, #vm.console:text())
      local other <close> = vm_of(printer(1))
      local handle = other.console:forbid(digit)
      local reason, info = support.run(other)
      assert.equal("forbidden", reason, info.text)
      assert.is_true(handle.hits >= 1)
    end
  end)

  it("is waited for with vCPUs that stay where they ended", function()
    -- vCPU 0 prints '0', then for ever 'x'; the others halt, and after that would print '!':
    -- test edi, edi; jz l; hlt; mov al, '!'; out 0xe9, al; hlt; l: mov al, '0'; out 0xe9, al;
    -- mov al, 'x'; m: out 0xe9, al; jmp m
    local vm <close> = vm_of(support.bytes
      "85ff 7406 f4 b021 e6e9 f4 b030 e6e9 b078 e6e9 ebfc", { cpus = 4 })
    vm.console:expect "0"
    for cpu = 1, 3 do -- until each has halted
      while vm.cpu[cpu].rip ~= 0x1005 do vm.console:expect "x" end
    end
    local snap <close> = assert(vm:snapshot())
    vm.console:expect "xxx"
    assert(vm:restore(snap))
    vm.console:expect "xxx"
    assert.not_matches("!", vm.console:text())
    vm.cpu[2].rip = vm.cpu[2].rip -- the script lets one go on
    vm.console:expect "!"
    local fork <close> = assert(snap:vm{ echo = false })
    fork.console:expect "xxx"
    assert.not_matches("!", fork.console:text())
  end)

  it("counts by vCPU for a limit", function()
    -- vCPU 3 prints for ever, the others halt: cmp edi, 3; jne hlt; out 0xe9, al; jmp back
    local vm <close> = vm_of(support.bytes "83ff03 7504 e6e9 ebfc f4")
    local reason, info = vm:run{ output = 100, deadline = 20 }
    assert.equal("limit", reason, info.text)
    assert.matches("100 bytes of output", info.cpu[3].text)
    local each <close> = vm_of(printer(9)) -- 99 bytes each
    assert.equal("halt", (each:run{ output = 100, deadline = 20 }))
  end)

  it("waits no longer than a budget of the exits of all", function()
    local vm <close> = vm_of(support.bytes "e680 ebfc", { cpus = 4 }) -- out 0x80, al; jmp back
    local got, why, code = vm.console:try_expect("never", { budget = 1000, timeout = 60 })
    assert.same({ nil, "EDQUOT" }, { got, code }, why)
    local _, info = vm:stop()
    assert.is_true(info.exits >= 1000, info.exits)
  end)

  it("is in snapshots and forks", function()
    local vm <close> = vm_of(printer(2))
    halts(vm)
    local text = vm.console:text()
    local snap <close> = assert(vm:snapshot())
    local fork <close> = assert(snap:vm{ echo = false })
    assert.equal(text, fork.console:text())
    vm:reset()
    assert.equal("", vm.console:text())
    assert(vm:restore(snap))
    assert.equal(text, vm.console:text())
  end)
end)
