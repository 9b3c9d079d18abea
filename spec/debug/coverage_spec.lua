-- vm:coverage: which blocks of a guest were executed, and that the guest is none the wiser. The
-- right answer comes from executing guests instruction by instruction.

require "minikvm" -- first: it brings the parts
local code_file = require "support.code"
local code_of = require "minikvm.debug.code"
local support = require "support.guest"

local BASE <const> = 0x2000

---A 32-bit guest of one function, "start", which is the listing at BASE; `more` has further ones.
local function guest(listing, more)
  local code = support.bytes(listing)
  local functions = { { "start", BASE, #code } }
  for _, f in ipairs(more or {}) do functions[#functions + 1] = f end
  return { bytes = code_file.elf(32, BASE, code, functions) }
end

local function loaded(image, opts)
  local vm = support.vm{ mode = "protected", memory = "4M" }
  assert(vm:load(image))
  return vm, assert(vm:coverage(opts))
end

local function list(set)
  local hex = {}
  for i, address in ipairs(set:list()) do hex[i] = ("%x"):format(address) end
  return table.concat(hex, " ")
end

---What blocks `vm` executes until it ends, by single steps; and which instruction came after which.
local function stepped(vm, blocks)
  local reached, edges, before = {}, {}, nil
  repeat
    local rip = vm.cpu[0].rip
    if blocks[rip] then reached[rip] = true end
    if before then edges[before .. ">" .. rip] = true end
    before = rip
    local reason = vm.cpu[0]:step(1)
  until reason ~= "break"
  return reached, edges
end

---By source line, in how many ways its branches went: by the tracefile, and by the steps.
local function ways(vm, coverage, edges)
  local code, told, want = code_of.of(vm, {}), {}, {}
  local file
  for line in coverage:lcov():gmatch "[^\n]+" do
    file = line:match "^SF:(.*)" or file
    local number, taken = line:match "^BRDA:(%d+),%d+,%d,(%d+)$"
    local key = number and file .. ":" .. number
    if key then told[key] = (told[key] or 0) + tonumber(taken) end
  end
  for _, branch in ipairs(code_of.branches(code)) do
    local i = branch.block
    local place = code_of.place(code, code.last[i])
    for _, to in ipairs{ code.target[i], code.address[i] + code.size[i] } do
      if place and edges[code.last[i] .. ">" .. to] then
        local key = place.file .. ":" .. place.line
        want[key] = (want[key] or 0) + 1
      end
    end
  end
  for key, n in pairs(told) do told[key] = n > 0 and n or nil end
  return told, want
end

local function same_steps(image, opts, input)
  local vm <close> = support.vm(opts)
  assert(vm:load(image))
  local coverage = assert(vm:coverage{ branches = true })
  local other <close> = support.vm(opts)
  assert(other:load(image))
  for _, one in ipairs{ vm, other } do
    one.console:send(input)
    one.console:eof()
  end
  local reason = vm:run{ deadline = 20 }
  local reached = coverage:reached()
  local want, edges = stepped(other, coverage:blocks())
  assert.equal(other.console:text(), vm.console:text())
  for _, address in ipairs(coverage:blocks():list()) do
    assert.equal(want[address] or false, reached[address], ("%x"):format(address))
  end
  local told, went = ways(vm, coverage, edges)
  assert.same(went, told)
  return reason, coverage, went
end

describe("vm:coverage", function()
  if support.without_kvm(pending) then return end

  it("has the blocks and the branches that single steps come to, in a guest in C", function()
    local reason, coverage, went = same_steps("guests/build/long/echo.elf", { mode = "long" },
                                              "ab")
    assert.equal("exit", reason)
    assert(next(went), "no branch was executed")
    local count = coverage:count()
    assert(count.reached > 5 and count.reached < count.blocks)
  end)

  for _, case in ipairs{
    { "real/echo", "real" }, { "prot/hello", "protected" }, { "prot/ticks", "paged" },
    { "long/ring3", "long" },
  } do
    local path <const>, mode <const> = case[1], case[2]
    it(("leaves guests what they are: %s, in mode %s"):format(path, mode), function()
      local printed, reasons = {}, {}
      for i = 1, 2 do
        local vm <close> = support.vm{ mode = mode, irqchip = mode == "paged" and "pic" or "none" }
        assert(vm:load(("guests/build/%s.elf"):format(path)))
        local coverage = i == 2 and assert(vm:coverage{ branches = true })
        vm.console:send "abc"
        vm.console:eof()
        reasons[i] = vm:run{ deadline = 20 }
        printed[i] = vm.console:text()
        assert(not coverage or coverage:count().reached > 2)
      end
      assert.equal(reasons[1], reasons[2])
      assert.equal(printed[1], printed[2])
    end)
  end

  it("has them of a program in ring 3, too", function()
    local vm <close> = support.vm{ mode = "paged" }
    assert(vm:load "os-1k/kernel.bin")
    vm.console:expect "Select: "
    vm.console:sendline "6"
    vm.console:expect "Calculate: "
    assert(vm:load_symbols "os-1k/build/user/calc.elf")
    local coverage <close> = assert(vm:coverage{ branches = true })
    for _, case in ipairs{ { "12 + 5", "17" }, { "7 / 0", "division by zero" } } do
      vm.console:sendline(case[1])
      vm.console:expect("\n" .. case[2] .. "\nCalculate: ", { plain = true })
      assert(#coverage:take() > 0, case[1])
    end
    vm.console:sendline "12 + 5"
    vm.console:expect "\n17\n"
    assert.equal(0, #coverage:take())
    vm.console:sendline "q" -- and those that come to lie at the same addresses are what they were
    vm.console:expect "Select: "
    vm.console:sendline "4"
    vm.console:expect "233 377\n"
  end)

  it("has them where blocks overlap, and instructions; those inside another one are left out",
     function()
    local _, coverage = same_steps(guest[[
      31c0          ; xor eax, eax
      b902000000    ; mov ecx, 2
      bb00300000    ; mov ebx, 3000
      85c0          ; 200c: test eax, eax
      7501          ; jnz 2011
      f00fc103      ; 2010: lock xadd [ebx], eax; 2011: xadd [ebx], eax
      40            ; 2014: inc eax
      e2f5          ; loop 200c
      f4            ; 2017: hlt]], { mode = "protected" }, "")
    assert.equal("2000 200c 2010 2017", list(coverage:reached()))
    assert.equal(1, coverage:count().shared)
  end)

  it("leaves data among code alone: a jump table and a text behind a call", function()
    local vm <close>, coverage = loaded(guest([[
      b801000000        ; mov eax, 1
      ff24850c200000    ; jmp [eax*4+200c]
      14200000 15200000 ; 200c: the table
      f4                ; 2014: hlt
      e805000000        ; 2015: call 201f, which prints the text behind it
      74703000          ; 201a: "tp0"
      f4                ; 201e: hlt
      5e                ; 201f: pop esi
      ac                ; 2020: lodsb
      84c0              ; test al, al
      7404              ; jz 2029
      e6e9              ; out e9, al
      ebf7              ; jmp 2020
      ffe6              ; 2029: jmp esi]]))
    assert.equal("halt", (vm:run{ deadline = 10 }))
    assert.equal("tp0", vm.console:text())
    assert.equal("2000 2015 201f 2020 2025 2029", list(coverage:reached()))
  end)

  it("has no part in what a guest writes into its code", function()
    -- Over the first byte of a block that is not reached yet, and over one that was.
    local vm <close>, coverage = loaded(guest[[
      31c0          ; xor eax, eax
      c605112000004b  ; mov byte [2011], 4b (dec ebx)... over inc eax
      bb05000000    ; mov ebx, 5
      eb00          ; jmp 2010
      90            ; nop
      40            ; 2011
      f4            ; hlt]])
    assert.equal("halt", (vm:run{ deadline = 10 }))
    assert.same({ 0, 4 }, { vm.cpu[0].rax, vm.cpu[0].rbx })
    assert.equal("\x4b\xf4", vm.memory:read(0x2011, 2))
    assert(coverage:count().reached >= 1)
  end)

  -- Counts CL down from what the first byte of memory at 3000 says, printing 'a' while it is odd.
  local LOOP <const> = [[
    8a0d00300000  ; mov cl, [3000]
    f6c101        ; 2006: test cl, 1
    7404          ; jz 200f
    b061          ; 200b: mov al, 'a'
    e6e9          ; out e9, al
    fec9          ; 200f: dec cl
    75f3          ; jnz 2006
    f4            ; 2013: hlt]]

  ---Runs LOOP with this count, from the beginning.
  local function run_loop(vm, count)
    vm.memory:write(0x3000, string.char(count))
    vm.cpu[0].rip = BASE
    assert.equal("halt", (vm:run{ deadline = 10 }))
  end

  it("leaves other code alone that has come to lie where the blocks were", function()
    local vm <close>, coverage = loaded(guest(LOOP), { branches = true })
    vm.memory:write(BASE, support.bytes [[
      b911223344    ; mov ecx, 44332211
      b855667788    ; 2005: mov eax, 88776655: 2006 is inside of it
      bb99aabbcc    ; 200a: mov ebx, ccbbaa99
      badd74c900    ; 200f: mov edx, 00c974dd: 2011 had a branch
      f4            ; 2014: hlt]])
    assert.equal("halt", (vm:run{ deadline = 10 }))
    local cpu = vm.cpu[0]
    assert.same({ 0x44332211, 0x88776655, 0xccbbaa99, 0xc974dd },
                { cpu.rcx, cpu.rax, cpu.rbx, cpu.rdx })
    assert.equal("", list(coverage:reached()))
    vm.memory:write(BASE, support.bytes(LOOP)) -- and when they are there again, they are reached
    run_loop(vm, 1)
    assert.equal(5, #coverage:reached())
  end)

  it("shows nobody its patches: memory, snapshots and forks have the guest's bytes", function()
    local code = support.bytes(LOOP)
    local vm <close>, coverage = loaded(guest(LOOP))
    run_loop(vm, 2)
    assert.equal(code, vm.memory:read(BASE, #code))
    local snapshot = assert(vm:snapshot())
    coverage:stop()
    local made <close> = assert(snapshot:vm{ echo = false })
    assert.equal(code, made.memory:read(BASE, #code))
    local seen
    local hooked <close>, other = loaded(guest(LOOP))
    hooked.ports:tap(0xe9, function() seen = hooked.memory:read(BASE, #code) end)
    run_loop(hooked, 1)
    assert.equal(code, seen)
    assert.equal("2000 2006 200b 200f 2013", list(other:reached()))
  end)

  it("is of all forks and restores together: what one has reached costs the others nothing",
     function()
    local vm <close>, coverage = loaded(guest(LOOP))
    local fresh = assert(vm:snapshot())
    run_loop(vm, 2)
    assert.equal("2000 2006 200b 200f 2013", list(coverage:take()))
    assert(vm:restore(fresh))
    run_loop(vm, 2)
    assert.equal("", list(coverage:take()))
    local made <close> = assert(fresh:vm{ echo = false, coalesce = false })
    made.memory:write(0x3000, "\2")
    local reason, info = made:run{ deadline = 10 }
    assert.equal("halt", reason)
    assert.equal(2, info.exits, "the OUT and the HLT alone")
    assert.equal("", list(coverage:take()))
  end)

  it("is looked for in one of several forks that were made before", function()
    local vm <close> = loaded(guest(LOOP))
    vm.memory:write(0x3000, "\1")
    local exits = {}
    for i, fork in ipairs(assert(vm:fork(3))) do
      local reason, info = fork:run{ deadline = 10 }
      assert.equal("halt", reason)
      exits[i] = info.exits
      fork:close()
    end
    assert.equal(exits[3], exits[2])
    assert.equal(5, exits[1] - exits[2])
  end)

  it("keeps what was reached when its VMs are closed or collected", function()
    local coverage
    do
      local vm = support.vm{ mode = "protected" }
      assert(vm:load(guest(LOOP)))
      coverage = assert(vm:coverage())
      run_loop(vm, 1)
    end
    collectgarbage()
    collectgarbage()
    assert.equal("2000 2006 200b 200f 2013", list(coverage:reached()))
    local vm <close>, other = loaded(guest(LOOP))
    run_loop(vm, 2)
    vm:close()
    assert.equal(5, #other:reached())
  end)

  it("is forgotten by reset, and looked for anew", function()
    local vm <close>, coverage = loaded(guest(LOOP))
    run_loop(vm, 1)
    assert(coverage:reset())
    assert.equal(0, #coverage:reached())
    run_loop(vm, 4)
    assert.equal(5, coverage:count().reached)
    coverage:stop()
    assert.equal(5, coverage:count().reached)
  end)

  it("may be one of several of a VM", function()
    local vm <close>, first = loaded(guest(LOOP), { branches = true })
    run_loop(vm, 2)
    local second <close> = assert(vm:coverage{ branches = true })
    assert.same({ 5, 0 }, { #first:reached(), #second:reached() })
    run_loop(vm, 1)
    assert.same({ 5, 5 }, { #first:reached(), #second:reached() })
    first:stop()
    assert(second:reset())
    run_loop(vm, 1)
    assert.equal(5, #second:reached())
  end)

  it("has sets that can be joined and told apart", function()
    local vm <close>, coverage = loaded(guest(LOOP))
    local all, none = coverage:blocks(), coverage:reached()
    run_loop(vm, 1)
    local reached = coverage:reached()
    assert.same({ 5, 0, true, false }, { #all, #none, reached[0x200b], reached[0x200c] })
    assert.equal(all, reached | none)
    assert.equal(none, reached - all)
    assert.equal(reached, reached & all)
    assert.not_equal(none, all)
    assert.error_matches(function() return all | 1 end, "with another set only", 1, true)
    assert.error_matches(function() all.x = 1 end, "a set cannot be changed", 1, true)
    assert.error_matches(function() return all.size end, "a set has no 'size'", 1, true)
  end)

  it("takes vCPUs of one VM together", function()
    local code = [[
      85ff          ; test edi, edi: the number of the vCPU
      7505          ; jnz 2009
      b061          ; 2004: mov al, 'a'
      e6e9          ; out e9, al
      f4            ; hlt
      b062          ; 2009: mov al, 'b'
      e6e9          ; out e9, al
      f4            ; hlt]]
    local vm <close> = support.vm{ mode = "protected", cpus = 2 }
    assert(vm:load(guest(code), { cpu = "all" }))
    local coverage = assert(vm:coverage())
    assert.equal("halt", (vm:run{ deadline = 10 }))
    assert.equal("2000 2004 2009", list(coverage:reached()))
  end)

  it("refuses nonsense", function()
    local vm <close>, coverage = loaded(guest(LOOP))
    local function fails(fn, why) assert.error_matches(fn, why, 1, true) end
    fails(function() vm:coverage{ branch = true } end, "'branch'")
    fails(function() return coverage.hits end, "a coverage has no 'hits'")
    fails(function() coverage:attach(1) end, "expected a vm, got a number")
    local flat <close> = support.program{ support.bytes "f4" }
    fails(function() flat:coverage() end, "has no image with symbols")
    fails(function() coverage:attach(flat) end, "has no image with symbols")
    local other <close> = support.vm{ mode = "protected" }
    assert(other:load(guest "90 f4"))
    fails(function() coverage:attach(other) end, "has other code")
    fails(function() other:coverage{ map = true } end, "minikvm_coverage_map")
    fails(function() other:coverage{ map = true, branches = true } end, "no record of 'branches'")
    other:close()
    fails(function() other:coverage() end, "closed")
    fails(function() coverage.take() end, "call take with ':'")
    assert.same({ nil, "/none/x: No such file or directory" }, { coverage:pages "/none/x" })
  end)
end)

describe("coverage of a guest that keeps its own record", function()
  if support.without_kvm(pending) then return end

  local function counted(text)
    local vm <close> = support.vm{ mode = "long" }
    assert(vm:load "guests/build/long/coverage.elf")
    local coverage = assert(vm:coverage{ map = true })
    vm.console:send(text)
    vm.console:eof()
    assert.equal("exit", (vm:run{ deadline = 10 }))
    return coverage:reached(), coverage:count()
  end

  it("is in a map in its memory: -fsanitize-coverage=trace-pc", function()
    local nothing, word = counted "", counted "word"
    local _, count = counted "two words"
    assert(#nothing > 0 and #(nothing - word) == 0 and #(word - nothing) > 0)
    assert.equal(count.blocks, count.reached)
  end)

  it("is seen before a restore takes it back", function()
    local vm <close> = support.vm{ mode = "long" }
    assert(vm:load "guests/build/long/coverage.elf")
    local coverage = assert(vm:coverage{ map = true })
    local fresh = assert(vm:snapshot())
    vm.console:send "a b"
    vm.console:eof()
    assert.equal("exit", (vm:run{ deadline = 10 }))
    assert(vm:restore(fresh))
    local reached = #coverage:reached()
    assert(reached > 0)
    assert(coverage:reset())
    assert.equal(0, #coverage:reached())
  end)
end)
