-- Symbols and source lines from files that are not loaded; and where they go: forks, snapshots,
-- traces, messages. Another build is noticed.

local compile = require "support.compile"
local support = require "support.guest"

local kvm = require "minikvm"

local SOURCE <const> = [[
static int add(int a, int b)
{
    return a + b;
}
void _start(void)
{
    volatile int sum = add(1, 2);
    __asm__ volatile("outb %%al, $0xf4" :: "a"(sum));
    for (;;)
        __asm__ volatile("hlt");
}
]]
local OTHER <const> = SOURCE:gsub("a %+ b", "a * b + 99 * a"):gsub("add%(1, 2%)", "add(7, 2)")

describe("symbols", function()
  if support.without_kvm(pending) or compile.without_gcc(pending) then return end

  local folder, elf, flat, map, other
  setup(function()
    folder = compile.folder()
    elf = compile.guest(folder, "guest.c", SOURCE, "-g -O0")
    other = compile.guest(folder, "other.c", OTHER, "-g -O0")
    flat, map = elf .. ".bin", elf .. ".map"
    assert(os.execute(("objcopy -O binary -j .text %s %s && nm %s >%s")
      :format(elf, flat, elf, map)))
  end)
  teardown(function() folder.remove() end)

  ---A VM with the flat image, where the ELF file says.
  local function loaded()
    local vm = support.vm{ mode = "long" }
    local named = support.vm()
    assert(named:load(elf))
    local start, add = named.symbols._start, named.symbols.add
    named:close()
    assert(vm:load(flat, { at = math.min(start, add), entry = start }))
    return vm, start
  end

  it("come from an ELF file beside a flat image", function()
    local vm <close>, start = loaded()
    assert.is_nil(vm.symbols._start)
    assert.equal(vm, vm:load_symbols(elf))
    assert.equal(start, vm.symbols._start)
    assert.equal("exit", (vm:run{ deadline = 20 }))
    assert.matches("^_start%+0x%x+ %(guest%.c:%d+%)$", tostring(vm:place_of(vm.cpu[0].rip)))
    assert(vm:reset())
    assert.equal(start, vm:address_of "_start")
  end)

  it("come from a list as nm prints it, at an offset as well", function()
    local vm <close>, start = loaded()
    assert(vm:load_symbols(map))
    assert.equal("_start+0x2", tostring(vm:place_of(start + 2)))
    assert(vm:load_symbols(map, 0x100000))
    assert.equal(start + 0x100000, vm.symbols._start)
    assert.equal("_start+0x2", tostring(vm:place_of(start + 0x100002)))
    assert.equal(tostring(start), tostring(vm:place_of(start).address))
    -- Linux's System.map: symbols of each processor at 0 do not reach up to the kernel.
    local path = compile.write(folder, "System.map", "0000000000000000 D per_cpu\n"
      .. "ffffffff81000000 T startup_64\nffffffff81000040 t verify_cpu\n"
      .. "                 w __weak\n")
    assert(vm:load_symbols(path, 0x2000000))
    assert.equal("startup_64+0x10", tostring(vm:place_of(0xffffffff83000010)))
    assert.equal("0x400000000", tostring(vm:place_of(0x400000000)))
  end)

  it("of another build are refused: by their bytes, by the build id", function()
    local vm <close> = loaded()
    local done, why, code = vm:load_symbols(other)
    assert.is_nil(done)
    assert.equal("ESTALE", code)
    assert.matches("symbols of another build, or for another address: of %d+ pieces of its code "
                   .. "%d+ are not what the guest has there$", why)
    local linked <close> = support.vm()
    assert(linked:load(elf))
    done, why, code = linked:load_symbols(other)
    assert.is_nil(done)
    assert.equal("ESTALE", code)
    assert.matches("symbols of another build: its build id is %x+, that of .-%.elf, which lies at "
                   .. "these addresses, %x+$", why)
    assert(linked:load_symbols(elf))
    -- Where nothing of it is in memory, nothing can be said.
    assert(linked:load_symbols(other, 0x200000))
  end)

  it("of what is none are refused by name and reason", function()
    local vm <close> = loaded()
    local function why(path, offset) return select(2, vm:load_symbols(path, offset)) end
    assert.matches("neither an ELF file nor a list of symbols as nm prints it$",
                   why(compile.write(folder, "text", "one\ntwo\n")))
    assert.matches("the image is empty$", why(compile.write(folder, "empty", "")))
    assert.matches("it is a directory, not a file$", why(tostring(folder)))
    assert.matches("No such file", why(tostring(folder) .. "/none"))
    assert.matches("the file ends within the ELF header", why(compile.write(folder, "cut",
                                                             "\x7fELF\2\1\1")))
    assert.error_matches(function() vm:load_symbols(elf, "1") end, "'offset'")
    assert.error_matches(function() vm:load_symbols(7) end, "'path'")
  end)

  it("go along into forks and snapshots, also when their VM is gone", function()
    local large = elf .. ".large" -- more than what is kept in memory
    assert(os.execute(("cp %s %s && head -c 1200000 /dev/zero >>%s"):format(elf, large, large)))
    for _, path in ipairs{ elf, large } do
      local vm = support.vm()
      assert(vm:load(path))
      vm:run{ deadline = 20 }
      local rip = vm.cpu[0].rip
      local text = tostring(vm:place_of(rip))
      local snap = assert(vm:snapshot())
      local fork <close> = vm:fork()
      vm:close()
      local again <close> = assert(snap:vm{ echo = false })
      for _, one in ipairs{ fork, again } do
        assert.equal(text, tostring(one:place_of(rip)))
        assert.matches("guest%.c:", text)
        assert.equal("_start", one.cpu[0]:backtrace()[1].symbol)
      end
    end
  end)

  it("go along into a snapshot's file, as long as the image is the same", function()
    local path, copied = tostring(folder) .. "/snapshot", tostring(folder) .. "/copied.elf"
    assert(os.execute(("cp %s %s"):format(elf, copied)))
    do
      local vm <close> = support.vm()
      assert(vm:load(copied))
      assert(vm:load_symbols(map, 0x1000000))
      vm:run{ deadline = 20 }
      assert(assert(vm:snapshot()):save(path))
    end
    do
      local vm <close> = assert(assert(kvm.load_snapshot(path)):vm{ echo = false })
      assert.matches("^_start%+0x%x+ %(guest%.c:%d+%)$", tostring(vm:place_of(vm.cpu[0].rip)))
      assert.equal(vm:address_of("guest.c:5") + 0x1000000, vm.symbols._start)
    end
    do -- A VM that never had an image knows them once it is restored, until it is loaded.
      local snap = assert(kvm.load_snapshot(path))
      local vm <close> = support.vm{ mode = snap.mode, memory = snap.memory }
      assert(vm:restore(snap))
      assert(vm:restore(snap))
      assert.matches("^_start%+0x%x+ %(guest%.c:%d+%)$", tostring(vm:place_of(vm.cpu[0].rip)))
      assert(vm:load(flat))
      assert.is_nil((vm:address_of "guest.c:5"))
    end
    assert(os.execute(("cp %s %s && rm %s"):format(other, copied, map)))
    local vm <close> = assert(assert(kvm.load_snapshot(path)):vm{ echo = false })
    assert.matches("^\"_start\": no symbols are known: .+$", select(2, vm:address_of "_start"))
  end)

  it("are in each line of a trace and in the message of a wait that failed", function()
    local vm <close> = support.vm{ coalesce = false }
    assert(vm:load(elf))
    local line
    vm:trace(function(text) line = text end)
    vm:run{ deadline = 20 }
    assert.matches("out  port=0x0f4 size=1 value=0x3  _start%+0x%x+ %(guest%.c:8%)$", line)
    local _, why = vm.console:try_expect("never", { timeout = 0 })
    assert.matches("exit at rip 0x%x+ in _start%+0x%x+ %(guest%.c:%d+%)", tostring(why))
  end)
end)
