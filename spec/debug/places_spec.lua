-- A breakpoint on a source line that is in several places: it hits in each.

local compile = require "support.compile"
local support = require "support.guest"

local SOURCE <const> = [[
static volatile int sink;
static inline __attribute__((always_inline)) void poke(int value)
{
    sink = value;
}
__attribute__((noinline)) void first(void) { poke(1); sink++; }
__attribute__((noinline)) void second(void) { sink++; poke(2); }
void _start(void)
{
    first();
    second();
    first();
    __asm__ volatile("outb %al, $0xf4");
}
]]

describe("a breakpoint on a line that is inlined", function()
  if support.without_kvm(pending) or compile.without_gcc(pending) then return end

  local folder
  setup(function() folder = compile.folder() end)
  teardown(function() folder.remove() end)

  local function loaded()
    local vm = support.vm()
    assert(vm:load(compile.guest(folder, "places.c", SOURCE, "-g -O1")))
    assert.equal(2, #select(2, vm:address_of "places.c:4"))
    return vm
  end

  ---The functions in which the line is reached, with these options.
  local function reached(opts)
    local vm <close> = loaded()
    local list, o = {}, opts or {}
    local told
    function o.fn(cpu, handle)
      list[#list + 1] = (vm:symbol_at(cpu.rip))
      told = handle
    end
    local handle = vm:break_at("places.c:4", o)
    assert.equal("exit", (vm:run{ deadline = 20 }))
    assert.is_true(told == nil or told == handle)
    return list, handle.hits
  end

  it("hits in each function, and is one handle", function()
    local list, hits = reached()
    assert.same({ "first", "second", "first" }, list)
    assert.equal(3, hits)
    assert.same({ "first" }, (reached{ once = true }))
    assert.same({ "second", "first" }, (reached{ after = 1 }))
    assert.same({ "second" }, (reached{ after = 1, once = true }))
    local vm <close> = loaded()
    assert.same({ "second" }, (reached{ condition = function(cpu)
      return cpu.rip >= vm.symbols.second and cpu.rip < vm.symbols._start
    end }))
  end)

  it("stops there without a function, until it is removed; until_pc does as well", function()
    local vm <close> = loaded()
    local handle = vm:break_at "places.c:4"
    for _, name in ipairs{ "first", "second" } do
      assert.equal("break", (vm:run{ deadline = 20 }))
      assert.equal(name, (vm:symbol_at(vm.cpu[0].rip)))
    end
    handle:remove()
    assert.equal("exit", (vm:run{ deadline = 20 }))
    local again <close> = loaded()
    assert.equal("break", (again:run{ until_pc = "places.c:4", deadline = 20 }))
    assert.equal("first", (again:symbol_at(again.cpu[0].rip)))
    assert.equal("exit", (again:run{ deadline = 20 }))
  end)
end)
