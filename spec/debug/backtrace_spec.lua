-- Who called, and with what: cpu:backtrace() and cpu:locals().
--
-- The guest stops by an OUT to the exit port in a function that others have called. What is right
-- is in its source: the lines of the calls, which are marked, and the values.

local compile = require "support.compile"
local support = require "support.guest"

local SOURCE <const> = [[
enum color { RED, GREEN = 5 };
struct point { int x, y; char name[8]; unsigned low : 3, high : 5; enum color color; };
typedef unsigned long word;
static volatile int sink;
static inline __attribute__((always_inline)) void leave(int code)
{
    __asm__ volatile("outb %%al, $0xf4" :: "a"(code)); /* OUT */
    sink = code;
}
__attribute__((noinline)) int third(struct point *p, int depth)
{
    volatile int here = p->x + depth;
    if (depth == 3)
        leave(here); /* LEAVE */
    else
        here += third(p, depth + 1); /* AGAIN */
    sink = here;
    return here;
}
__attribute__((noinline)) int second(const char *text, word size)
{
    struct point p = { -20, 40, "point", 5, 17, GREEN };
    short numbers[3] = { 1, -2, 3 };
    sink = numbers[size % 3];
    sink += third(&p, 1) + p.y; /* THIRD */
    return sink;
}
void _start(void)
{
    second("some text", 7); /* SECOND */
    sink++;
}
]]

local lines = {}
do
  local number = 0
  for line in SOURCE:gmatch "([^\n]*)\n" do
    number = number + 1
    local mark = line:match "/%* (%u+) %*/$"
    if mark then lines[mark] = number end
  end
end

---A line of a file.
local function io_line(path, number)
  for line in io.lines(path) do
    number = number - 1
    if number == 0 then return line end
  end
end

describe("the functions that a vCPU is in", function()
  if support.without_kvm(pending) or compile.without_gcc(pending) then return end

  local folder
  setup(function() folder = compile.folder() end)
  teardown(function() folder.remove() end)

  ---A guest that ran to its exit.
  local function stopped(flags, opts)
    local vm = support.vm(opts)
    assert(vm:load(compile.guest(folder, "guest.c", SOURCE, flags)))
    local reason, info = vm:run{ deadline = 20 }
    assert.equal("exit", reason, info.text)
    return vm
  end

  local function names(vm)
    local list = {}
    for i, call in ipairs(vm.cpu[0]:backtrace()) do list[i] = call.symbol end
    return list
  end

  local WHOLE <const> = { "leave", "third", "third", "third", "second", "_start" }

  for _, flags in ipairs(compile.flags{ "-gdwarf-2 -O0", "-gdwarf-3 -O1 -m32 -fomit-frame-pointer",
      "-gdwarf-4 -O1 -fomit-frame-pointer -fno-asynchronous-unwind-tables", "-gdwarf-5 -O0 -m32",
      "-gdwarf-5 -O1 -gsplit-dwarf", "-gdwarf-5 -O1 -fomit-frame-pointer" }) do
    it("are known with their lines: " .. flags, function()
      local vm <close> = stopped(flags)
      local calls = vm.cpu[0]:backtrace()
      assert.same(WHOLE, names(vm))
      assert.is_nil(calls.why)
      local want = { "OUT", "LEAVE", "AGAIN", "AGAIN", "THIRD", "SECOND" }
      for i, mark in ipairs(want) do
        assert.equal("guest.c", calls[i].file)
        -- Of an OUT that an exit is for, RIP is behind it on some hosts.
        if i > 1 then assert.equal(lines[mark], calls[i].line, mark) end
        assert.equal(i == 1, calls[i].inlined)
        assert.equal(i <= 2 and "registers" or "cfi", calls[i].how)
      end
      assert.matches("#1 third%+0x%x+ %(.-%) at guest%.c:" .. lines.LEAVE .. "\n", tostring(calls))
    end)
  end

  for _, flags in ipairs(compile.flags{ "-O1 -m32 -fno-omit-frame-pointer", "-O0" }) do
    it("are known by frame pointers alone: " .. flags, function()
      local vm <close> = stopped(flags .. " -fno-asynchronous-unwind-tables")
      assert.same({ "third", "third", "third", "second", "_start" }, names(vm))
      assert.equal("frame pointer", vm.cpu[0]:backtrace()[2].how)
      assert.is_nil(vm.cpu[0]:backtrace().why)
    end)
  end

  it("are known in 16-bit code", function()
    local vm <close> = stopped("-g -O0 -m16 -Wl,-Ttext-segment=0x1000", { mode = "real" })
    assert.same(WHOLE, names(vm))
    assert.equal("depth", vm.cpu[0]:locals(2).depth.name)
    assert.equal(2, vm.cpu[0]:locals(2).depth.value)
  end)

  it("have their parameters and variables", function()
    local vm <close> = stopped "-g -O0"
    local cpu = vm.cpu[0]
    local calls = cpu:backtrace()
    assert.equal("code = -17", calls[1].arguments)
    assert.matches("^p = 0x%x+, depth = 3$", calls[2].arguments)
    assert.matches('^text = 0x%x+ "some text", size = 7$', calls[5].arguments)
    local third, second = cpu:locals(1), cpu:locals(4)
    assert.equal(-17, third.here.value)
    assert.equal("volatile int", third.here.type)
    assert.equal("struct point *", third.p.type)
    assert.is_true(third.p.parameter)
    assert.equal(second.p.address, third.p.value)
    assert.same({ x = -20, y = 40, name = "point", low = 5, high = 17, color = 5 }, second.p.value)
    assert.equal('{ x = -20, y = 40, name = "point", low = 5, high = 17, color = GREEN }',
                 second.p.text)
    assert.same({ 1, -2, 3 }, second.numbers.value)
    assert.equal("short int [3]", second.numbers.type)
    assert.equal("word", second.size.type)
    assert.equal("const char *", second.text.type)
    assert.matches("\nstruct point p = {", tostring(second))
    -- What a variable says of its place is where the guest has it.
    local memory = vm.memory:read(cpu:translate(second.numbers.address), 6)
    assert.equal(("<i2i2i2"):pack(1, -2, 3), memory)
  end)

  it("say what the compiler has left out", function()
    if compile.slow(pending) then return end
    local vm <close> = stopped "-g -O2"
    for i = 0, #vm.cpu[0]:backtrace() - 1 do
      for _, one in ipairs(vm.cpu[0]:locals(i)) do
        assert.is_true(one.available or one.text == "optimized out", one.name .. ": " .. one.text)
      end
    end
    assert.error_matches(function() vm.cpu[0]:locals(99) end, "frame 99: there are 0 to %d+")
    assert.error_matches(function() vm.cpu[0]:locals(-1) end, "frame %-1: there are 0 to")
    assert.equal(2, #vm.cpu[0]:backtrace{ limit = 1 })
    assert.error_matches(function() vm.cpu[0]:backtrace{ limit = 0 } end, "1 to 10000")
  end)

  it("were called with what their callers say, where they have not kept it", function()
    if compile.slow(pending) then return end
    local vm <close> = support.vm()
    assert(vm:load(compile.guest(folder, "entry.c", [[
      static volatile int sink;
      __attribute__((noipa)) int inner(int x)
      {
          __asm__ volatile("outb %%al, $0xf4" :: "a"(0));
          return sink;
      }
      __attribute__((noipa)) int middle(int a, int b)
      {
          sink = inner(b + 1);
          return sink;
      }
      __attribute__((noipa)) int jumps(int a, int b) { return middle(a + 1, b); }
      void _start(void) { sink = middle(11, 22); sink = jumps(33, 44); sink++; }
    ]], "-g -O2")))
    assert.equal("exit", (vm:run{ deadline = 20 }))
    local calls = vm.cpu[0]:backtrace()
    assert.same({ "inner", "middle", "_start" }, { calls[1].symbol, calls[2].symbol,
                                                  calls[3].symbol })
    assert.equal("x = 23", calls[1].arguments)
    assert.equal("a = 11, b = 22", calls[2].arguments)
    -- The second time another function has jumped to middle(): what _start says is not for that.
    vm:run{ deadline = 20 }
    calls = vm.cpu[0]:backtrace()
    assert.equal("middle", calls[2].symbol)
    assert.equal("a = <optimized out>, b = <optimized out>", calls[2].arguments)
  end)

  it("are known past an exception, whose way in has no information on its frame", function()
    local vm <close> = support.vm{ mode = "long", irqchip = "pic", coalesce = false }
    assert(vm:load "guests/build/long/idt.elf")
    local calls
    vm:trace(function() -- the first byte that the handler of the divide error prints
      calls = calls or vm.cpu[0]:backtrace()
      vm:stop()
    end)
    vm:run{ deadline = 60 }
    local list, at = {}, nil
    for i, call in ipairs(calls) do
      list[call.symbol], at = i, call.how == "interrupt" and not at and i or at
    end
    assert.is_true(list.report < list.trap_common and list.trap_common < at and at < list._start)
    assert.equal("long/idt.c", calls[at].file)
    assert.matches("div %1", io_line("guests/long/idt.c", calls[at].line), 1, true)
    assert.equal(#calls, list._start)
  end)

  it("end where the stack is overwritten, and in a circle", function()
    local vm <close> = stopped "-O0 -fno-asynchronous-unwind-tables"
    local cpu = vm.cpu[0]
    local fp = cpu:translate(cpu.rbp)
    vm.memory:write(fp + 8, ("<I8"):pack(0x4141414141414141))
    assert.equal("it returns to 0x4141414141414141, where nothing is mapped",
                 cpu:backtrace().why)
    vm.memory:write(fp + 8, ("<I8"):pack(vm.symbols.third + 1))
    assert.matches("^0x%x+ on the stack follows no call$", cpu:backtrace().why)
    cpu.rbp = 0x7000000000
    assert.matches("^the stack at 0x7000000008 is not in mapped memory$", cpu:backtrace().why)
    cpu.rbp = 8
    assert.matches("^the frame pointer, 0x8, lies below the stack pointer", cpu:backtrace().why)
  end)

  it("have an end whatever a guest has put into its registers and its stack", function()
    for _, flags in ipairs(compile.flags{ "-O0", "-g -O0" }) do
      local vm <close> = stopped(flags)
      local cpu, memory, symbols = vm.cpu[0], vm.memory, {}
      local stack = cpu:translate(cpu.rsp) & ~0xfff
      for _, address in pairs(vm.symbols) do symbols[#symbols + 1] = address end
      table.sort(symbols)
      math.randomseed(1)
      local function value()
        local values = { math.random(0), symbols[math.random(#symbols)] + math.random(0, 64), 0,
                         stack + math.random(0, 4095), -math.random(1, 64), cpu.cs, 0x202 }
        return values[math.random(#values)]
      end
      for _ = 1, 100 do
        for _ = 1, 60 do memory:write(stack + math.random(0, 511) * 8, ("<i8"):pack(value())) end
        for _, name in ipairs{ "rsp", "rbp", "rbx" } do cpu[name] = value() end
        assert.is_true(#cpu:backtrace() <= 64 * 2)
        assert.is_string(tostring(cpu:locals()))
      end
      cpu.rsp, cpu.rip, cpu.rbp = -16, symbols[1], 1 -- the frame of an interrupt would wrap around
      assert.is_string(tostring(cpu:backtrace()))
    end
  end)

  it("are told with the registers as text", function()
    local vm <close> = stopped "-g -O0"
    local registers = vm.cpu[0]:registers()
    assert.equal(vm.cpu[0].rsp, registers.rsp)
    assert.equal(64, registers.bits)
    assert.matches("^  rax %x+  rbx %x+  rcx %x+  rdx %x+\n", tostring(registers))
    assert.matches("\n  rip %x+  flags %x+ ", tostring(registers))
  end)
end)
