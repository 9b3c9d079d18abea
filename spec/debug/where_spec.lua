-- Places in a guest's code: names and source lines as addresses, and back.
--
-- What is right comes from the source, whose lines are numbered here, and from what the guest did:
-- the address at which it stopped.

local compile = require "support.compile"
local support = require "support.guest"

-- Each HLT-free function leaves a mark at an address of its own, so that lines have code.
local SOURCE <const> = [[
static volatile int mark;
static inline __attribute__((always_inline)) void poke(int value)
{
    mark = value;
    *(volatile int *)0xdeadbeef = value;
}
__attribute__((noinline)) int second(int a)
{
    poke(a + 1);
    mark = 9;
    return a;
}
int unused(int a)
{
    return a * 3;
}
void _start(void)
{
    int i;
    for (i = 0; i < 2; i++)
        mark = i;
    second(i);
    for (;;)
        __asm__ volatile("hlt");
}
]]

describe("a place in a guest's code", function()
  if support.without_kvm(pending) or compile.without_gcc(pending) then return end

  local folder
  setup(function() folder = compile.folder() end)
  teardown(function() folder.remove() end)

  local function loaded(flags, opts)
    local vm = support.vm(opts)
    assert(vm:load(compile.guest(folder, "guest.c", SOURCE, flags)))
    return vm
  end

  for _, flags in ipairs(compile.flags{ "-gdwarf-2 -O0", "-gdwarf-3 -O0 -m32", "-gdwarf-4 -O1 -m32",
                                        "-gdwarf-5 -O0", "-gdwarf-5 -O1 -gsplit-dwarf",
                                        "-gdwarf-4 -O1 -gsplit-dwarf", "-gdwarf-5 -O1 -gz",
                                        "-g -O1" }) do
    it("is found both ways: " .. flags, function()
      local vm <close> = loaded(flags)
      local second = vm.symbols.second
      assert.equal(second, vm:address_of "second")
      assert.equal(second + 0x11, vm:address_of "second+0x11")
      assert.equal(second + 17, vm:address_of "second + 17")
      local line9 = assert(vm:address_of "guest.c:9")
      assert.is_true(second <= line9 and line9 < vm.symbols.unused)
      assert.same({ "guest.c", 10, "second" }, (function()
        local p = vm:place_of(vm:address_of "guest.c:10")
        return { p.file, p.line, p.symbol }
      end)())
      -- The line of an inlined function, and where that is.
      local place = vm:place_of(vm:address_of "guest.c:5")
      assert.equal("second", place.symbol)
      assert.equal(5, place.line)
      assert.same({ "poke", "second" }, { place.functions[1].name, place.functions[2].name })
      assert.equal(9, place.functions[2].line)
      assert.matches("^second%+0x%x+ %(guest%.c:5, poke inlined at guest%.c:9%)$", tostring(place))
    end)
  end

  it("on a line without code is the next one that has some", function()
    local vm <close> = loaded "-g -O0"
    assert.equal(vm:address_of "guest.c:20", vm:address_of "guest.c:19")
    assert.equal(20, vm:place_of(vm:address_of "guest.c:19").line)
  end)

  it("of the higher half is known before paging is on, by its physical address", function()
    if compile.slow(pending) then return end
    local path = compile.guest(folder, "high.c", [[
      int second(int a) { __asm__ volatile("outb %%al, $0xf4" :: "a"(a)); return a; }
      void _start(void) { second(3); }
    ]], "-g -O0 -m32 -Wl,-Ttext-segment=0xc0100000")
    assert(os.execute(("objcopy --change-section-lma '*-0xc0000000' %s 2>/dev/null"):format(path)))
    local vm <close> = support.vm{ mode = "protected" }
    assert(vm:load(path))
    local reason, info = vm:run{ deadline = 20 }
    assert.equal("exit", reason, info.text)
    assert.is_true(vm.cpu[0].rip < 0x400000)
    assert.is_true(vm.symbols.second < 0 or vm.symbols.second > 0xc0000000)
    local calls = vm.cpu[0]:backtrace()
    assert.same({ "second", 1, "_start", 2, 2 }, { calls[1].symbol, calls[1].line, calls[2].symbol,
                                                 calls[2].line, #calls })
    assert.equal("a = 3", calls[1].arguments)
  end)

  it("is said of a guest that reached a limit", function()
    local vm <close> = support.vm()
    assert(vm:load(compile.guest(folder, "loop.c", [[
      void _start(void)
      {
          for (;;)
              __asm__ volatile("outb %al, $0x80");
      }
    ]], "-g -O0")))
    local reason, info = vm:run{ exits = 5, deadline = 20 }
    assert.equal("limit", reason)
    assert.matches("^_start%+0x%x+ %(loop%.c:[34]%)$", info.place)
  end)

  it("may have a name of C++ or Rust", function()
    if compile.slow(pending) then return end
    local vm <close> = support.vm()
    assert(vm:load(compile.guest(folder, "names.c", [[
      int bar(int a) __asm__("_ZN6Kernel3barEi");
      int other(int a) __asm__("_ZN4User3barEi");
      int start(void) __asm__("_ZN4core5start17h0123456789abcdefE");
      int counter __asm__("_ZZN6Kernel3barEiE5start") = 3;
      int bar(int a) { return a + counter; }
      int other(int a) { return bar(a); }
      int start(void) { return other(1); }
      void _start(void) { start(); }
    ]], "-g -O0")))
    local symbols = vm.symbols
    assert.equal(symbols._ZN6Kernel3barEi, vm:address_of "Kernel::bar")
    assert.equal(symbols._ZN4User3barEi + 2, vm:address_of "User::bar+2")
    assert.equal(symbols._ZN4core5start17h0123456789abcdefE, vm:address_of "core::start")
    assert.equal(symbols._ZN4core5start17h0123456789abcdefE, vm:address_of "start")
    assert.equal('"bar": 2 symbols have this name, such as _ZN4User3barEi and _ZN6Kernel3barEi',
                 select(2, vm:address_of "bar"))
    assert.is_nil((vm:address_of "Kernel::other"))
    assert.equal("core::start (names.c:7)",
                 tostring(vm:place_of(symbols._ZN4core5start17h0123456789abcdefE)))
    assert.equal("Kernel::bar (names.c:5)", tostring(vm:place_of(symbols._ZN6Kernel3barEi)))
  end)

  it("that is not there is refused by name and reason", function()
    local vm <close> = loaded "-g -O0"
    local function why(where) return select(2, vm:address_of(where)) end
    assert.equal("\"secnod\": no such symbol (did you mean 'second'?)", why "secnod")
    assert.equal("other.c:3: no source file of this name is known", why "other.c:3")
    assert.equal("guest.c:900: it has no code on that line or after it", why "guest.c:900")
    assert.equal("guest.c:0: lines are numbered from 1", why "guest.c:0")
    assert.equal("guest.c:99999999999: lines are numbered from 1", why "guest.c:99999999999")
    assert.equal(4096, vm:address_of "0x1000")
    assert.equal(4096, vm:address_of(4096))
    local bare <close> = loaded "-O0"
    assert.matches("guest.c:3: no source lines are known: build the guest with %-g",
                   select(2, bare:address_of "guest.c:3"))
    local none <close> = support.vm()
    assert.matches('"main": no symbols are known', select(2, none:address_of "main"))
    assert.equal("0x1234", tostring(none:place_of(0x1234)))
  end)

  it("is in the report on a guest that died, in one sentence", function()
    local vm <close> = loaded("-g -O1", { mode = "long" })
    local reason, info = vm:run{ deadline = 20 }
    assert.equal("shutdown", reason)
    if info.report:find "^registers: lost" then return pending "AMD: registers are lost" end
    assert.matches("\nlikeliest cause: in second%+0x%x+ %(guest%.c:5, poke inlined at guest%.c:9%)"
                   .. ": a page fault at 0xdeadbeef", info.report)
  end)
end)
