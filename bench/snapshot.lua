-- snapshot.lua - going back to a booted system against booting it, and branching from it.
--
-- 1K OS in 4 MiB boots to its menu: it has printed "Select: " and asks for input. For the time of a
-- restore with a known number of pages, a small 32-bit guest writes to 32 of them between two. A VM
-- of 4 GiB that has used next to nothing shows what the size alone costs.

local kvm = require "minikvm"
local report = require "report"
local now = require "minikvm.core".now

local ROUNDS <const>, LOOP <const>, FORKS <const> = 15, 20, 8

local function at_menu()
  local vm = assert(kvm.vm{ mode = "paged", memory = "4M", echo = false })
  assert(vm:load "os-1k/kernel.bin")
  local asked = vm.hypercalls:define(2, "getchar", function()
    vm:stop()
    return 1 << 8 | 0xff -- nothing yet
  end)
  assert(vm:run{ deadline = 20 } == "stopped")
  asked:remove()
  assert(vm.console:text():find "Select: $")
  return vm
end

---1: mov edi, 0x200000; mov ecx, 32; 2: inc byte ptr [edi]; add edi, 4096; loop 2b; out 0x10, al;
---jmp 1b
local WRITER <const> = "\xbf\0\0\x20\0\xb9\x20\0\0\0\xfe\x07\x81\xc7\0\x10\0\0\xe2\xf6"
  .. "\xe6\x10\xeb\xe8"

local function writer(mode)
  local vm = assert(kvm.vm{ mode = mode, memory = "4M", echo = false })
  assert(vm:load{ bytes = WRITER })
  vm.ports:on(0x10, { write = function() vm:stop() end })
  assert(vm:run{ deadline = 20 } == "stopped")
  return vm
end

---Mean seconds of a restore after what change() did.
local function restores(vm, change)
  local snap = assert(vm:snapshot())
  return function()
    local sum = 0
    for _ = 1, LOOP do
      change(vm)
      local from = now()
      assert(vm:restore(snap))
      sum = sum + (now() - from)
    end
    return sum / LOOP
  end
end

local function write_pages(vm)
  assert(vm:run{ deadline = 20 } == "stopped")
end

local function use_system(vm)
  vm.console:send "2\n0\n"
  assert(vm:run{ deadline = 20 } == "exit")
end

local system = at_menu()

---Seconds of a fork, from a VM that changed since its last snapshot.
local function forks(n)
  return function()
    local sum = 0
    for _ = 1, LOOP / n do
      assert(system:fork()):close()
      local from = now()
      local children = assert(system:fork(n))
      sum = sum + (now() - from)
      for _, child in ipairs(children) do child:close() end
    end
    return sum / (LOOP // n) / n
  end
end

---A VM of 4 GiB that ran and wrote nothing.
local function large()
  local vm = assert(kvm.vm{ mode = "long", page_size = "2M", memory = "4G", echo = false })
  assert(vm:load{ bytes = "\xf4" })
  assert(vm:run{ deadline = 20 } == "halt")
  return vm
end

local BOOT <const> = "boot of 1K OS to its menu"
local SYSTEM <const> = "restore of 1K OS after a program ran in it"
local PAGES <const> = "restore after 32 pages were written, 32-bit"
local LONG <const> = "restore after 32 pages were written, 64-bit"

local LARGE_FIRST <const> = "first snapshot of 4 GiB, hardly used"
local LARGE <const> = "restore of 4 GiB, nothing written"

local cases = {
  { name = BOOT, run = function()
      local from = now()
      local vm <close> = at_menu()
      return vm and now() - from
    end },
  { name = SYSTEM, run = restores(at_menu(), use_system) },
  { name = PAGES, run = restores(writer "paged", write_pages) },
  { name = LONG, run = restores(writer "long", write_pages) },
  { name = "first snapshot", run = function()
      local vm <close> = at_menu()
      local from = now()
      local snap <close> = assert(vm:snapshot())
      return snap and now() - from
    end },
  { name = LARGE_FIRST, run = function()
      local vm <close> = large()
      local from = now()
      local snap <close> = assert(vm:snapshot())
      return snap and now() - from
    end },
  { name = LARGE, run = restores(large(), function() end) },
  { name = "a VM by kvm.vm, for comparison", run = function()
      local from = now()
      local vm <close> = assert(kvm.vm{ mode = "paged", echo = false })
      return vm and now() - from
    end },
  { name = "fork of 1", run = forks(1) },
  { name = ("fork of %d, each"):format(FORKS), run = forks(FORKS) },
}

report.title(("snapshot: %d rounds, median and quartiles"):format(ROUNDS))
local seconds = report.interleave(ROUNDS, cases)
local limits = { [SYSTEM] = 150, [PAGES] = 150, [LONG] = 100, [LARGE_FIRST] = 10000, [LARGE] = 200,
                 ["fork of 1"] = 600, [cases[#cases].name] = 600 }
for _, case in ipairs(cases) do
  report.line(case.name, seconds[case.name], "us", 1e6, limits[case.name])
end
report.line("boot : restore", report.ratios(seconds[BOOT], seconds[SYSTEM]), "x", 1, -20)
report.finish()
