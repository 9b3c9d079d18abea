-- scale.lua - many VMs in one process: time, threads, descriptors, host memory of idle ones, and
-- what VMs take that are started and asleep.

local kvm = require "minikvm"
local lfs = require "lfs"
local report = require "report"
local now = require "minikvm.core".now

local COUNTS <const> = { 1, 2, 4, 64, 256 }
local ROUNDS <const> = 5

local function field(path, name)
  for line in io.lines(path) do
    local value = line:match("^" .. name .. ":%s+(%d+)")
    if value then return tonumber(value) end
  end
end

local function descriptors()
  local count = 0
  for _ in lfs.dir "/proc/self/fd" do count = count + 1 end
  return count
end

---Of this process: KiB it holds itself, descriptors; and KiB free on the whole machine, which sees
---what KVM takes in the kernel too, and everybody else.
local function usage()
  collectgarbage()
  collectgarbage()
  return { pss = field("/proc/self/smaps_rollup", "Pss"), fds = descriptors(),
           free = field("/proc/meminfo", "MemAvailable") }
end

local function make(count)
  local vms = {}
  for i = 1, count do
    vms[i] = assert(kvm.vm{ name = "vm" .. i, echo = false })
    assert(vms[i]:load "guests/real/counter.bin")
  end
  return vms
end

local function run_all(vms)
  for _, vm in ipairs(vms) do vm:start() end
  local threads = field("/proc/self/status", "Threads")
  for _, result in ipairs(kvm.wait(vms)) do assert(result.reason == "halt", result.info.text) end
  return threads
end

local function measure(count)
  local before, t0 = usage(), now()
  local vms = make(count)
  local t1, idle = now(), usage()
  local t2 = now()
  local threads = run_all(vms)
  local t3 = now()
  local ran = usage()
  for _, vm in ipairs(vms) do vm:close() end
  return { create = t1 - t0, run = t3 - t2, close = now() - t3, threads = threads,
           fds = (idle.fds - before.fds) / count, idle = (idle.pss - before.pss) / count,
           ran = (ran.pss - before.pss) / count, machine = (before.free - idle.free) / count }
end

-- ---- started, and asleep ----

local IDLE <const>, SECONDS <const> = "\xfb\xf4\xeb\xfd", 2 -- sti; 1: hlt; jmp 1b

---Context switches so far of all threads but this one, which measures.
local function switches()
  local sum, own = 0, field("/proc/self/status", "Pid")
  for task in lfs.dir "/proc/self/task" do
    local path = ("/proc/self/task/%s/status"):format(task)
    if tonumber(task) and tonumber(task) ~= own then
      sum = sum + field(path, "voluntary_ctxt_switches") + field(path, "nonvoluntary_ctxt_switches")
    end
  end
  return sum
end

---While VMs sleep: context switches a second, and the share of a processor, in percent.
local function sleeping(count)
  local vms = {}
  for i = 1, count do
    vms[i] = assert(kvm.vm{ name = "idle" .. i, irqchip = "pic", echo = false })
    assert(vms[i]:load{ bytes = IDLE })
    vms[i]:start()
  end
  kvm.sleep(0.5) -- until all have come to their HLT
  local before, busy, began = switches(), os.clock(), now()
  kvm.sleep(SECONDS)
  local seconds = now() - began
  local share, rate = 100 * (os.clock() - busy) / seconds, (switches() - before) / seconds
  for _, vm in ipairs(vms) do
    assert(vm.state == "running", vm.state)
    vm:close()
  end
  return rate, share
end

local KEYS <const> = { "create", "run", "close", "threads", "fds", "idle", "ran", "machine" }

---Medians of some rounds, by key.
local function medians(count)
  local lists = {}
  for _ = 1, ROUNDS do
    for key, value in pairs(measure(count)) do
      lists[key] = lists[key] or {}
      table.insert(lists[key], value)
    end
  end
  local result = { lists = lists }
  for _, key in ipairs(KEYS) do result[key] = report.quartiles(lists[key]).median end
  return result
end

report.title(("scale: VMs of 1 MiB running counter.bin, %d rounds, medians"):format(ROUNDS))
measure(1) -- what only the first VM of a process takes
report.note "  VMs  create ms  run ms  close ms  threads  descriptors/VM"
local last
for _, count in ipairs(COUNTS) do
  last = medians(count)
  report.note(("  %3d  %9.1f %7.1f %9.1f  %7d  %14.1f"):format(count, last.create * 1e3,
    last.run * 1e3, last.close * 1e3, last.threads, last.fds))
  for _, key in ipairs{ "create", "run", "close" } do
    report.figure(("%s %d VMs"):format(key, count), last[key] * 1e3, "ms")
  end
  report.figure(("threads of %d VMs"):format(count), last.threads, "threads")
  report.figure(("descriptors of one of %d VMs"):format(count), last.fds, "descriptors")
end
report.note(("  host memory per VM of %d, in KiB:"):format(COUNTS[#COUNTS]))
report.line("of the process, loaded and idle", last.lists.idle, "KiB", 1, 100)
report.line("of the process, after its run", last.lists.ran, "KiB", 1)
report.line("of the whole machine (kernel included), idle", last.lists.machine, "KiB", 1)
report.note "  started, and asleep in HLT:"
local rate = sleeping(1)
report.line("context switches of one VM's threads", { rate }, "/s", 1, 2)
local _, share = sleeping(COUNTS[#COUNTS])
report.line(("processor taken by %d VMs"):format(COUNTS[#COUNTS]), { share }, "%", 1, 1)
report.finish()
