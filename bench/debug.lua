-- debug.lua - what breakpoints and steps cost, beside the host's own exits and single steps.
--
-- A breakpoint whose condition is false costs an exit, the condition, and the host's stepping over
-- the instruction: registers back to it, a KVM_RUN with KVM_GUESTDBG_SINGLESTEP between two
-- KVM_SET_GUEST_DEBUG. Processor time, as in exits.lua.

local kvm = require "minikvm"
local report = require "report"
local core = require "minikvm.core"

local N <const>, ROUNDS <const>, MANY <const> = 2000, 9, 10000

---mov ecx, N; 1: NOPs (of a byte each), dec ecx; jnz 1b; hlt
local function code(turns, nops)
  local body = ("\x90"):rep(nops) .. "\x49"
  return "\xb9" .. ("<I4"):pack(turns) .. body
    .. "\x0f\x85" .. ("<i4"):pack(-(#body + 6)) .. "\xf4"
end

local LOOP <const> = 0x1005

local function machine(turns, nops)
  local vm = assert(kvm.vm{ mode = "protected", echo = false, coalesce = false })
  assert(vm:load{ bytes = code(turns, nops) })
  return vm
end

local function timed(vm)
  local began = os.clock()
  local reason = vm:run()
  assert(reason == "halt")
  return os.clock() - began
end

---Of `others` more breakpoints, which are not met.
local function false_condition(others)
  return function()
    local vm <close> = machine(N, 1)
    local handle = vm:break_at(LOOP, { condition = function() return false end })
    for i = 1, others do vm:break_at(0x100000 + i) end
    local busy = timed(vm)
    assert(handle.hits == N)
    return busy / N
  end
end

local function nothing()
  local vm <close> = machine(N, 1)
  return timed(vm) / N
end

local function bare_exit()
  local path = os.tmpname()
  local file = assert(io.open(path, "wb"))
  file:write("\x66\xb9" .. ("<I4"):pack(N) .. "\xe6\x80\x66\x49\x75\xfa\xf4")
  file:close()
  local busy = report.numbers(("%s exits %s %d"):format(report.bare, path, N))[1]
  os.remove(path)
  return busy / N
end

local bare_steps = { {}, {} }
local function bare_step()
  local seconds = report.numbers(("%s steps %d"):format(report.bare, N))
  for i, list in ipairs(bare_steps) do list[#list + 1] = seconds[i] / N end
  return seconds[1] / N
end

local function step()
  local vm <close> = assert(kvm.vm{ echo = false })
  assert(vm:load{ bytes = "\x40\xeb\xfd" })
  local began = os.clock()
  assert(vm.cpu[0]:step(N) == "break")
  return (os.clock() - began) / N
end

---Making them, and bringing them into memory.
local function set_many()
  local vm <close> = machine(1, 1)
  local began = core.now()
  for i = 1, MANY do vm:break_at(0x100000 + i) end
  vm:break_at(LOOP)
  assert(vm:run() == "break")
  return core.now() - began
end

report.title(("debug: %d hits or steps, %d rounds, median and quartiles"):format(N, ROUNDS))
local cases = {
  { name = "bare exit", run = bare_exit },
  { name = "bare step", run = bare_step },
  { name = "step", run = step },
  { name = "guest alone", run = nothing },
  { name = "false condition", run = false_condition(0) },
  { name = "beside 10000", run = false_condition(MANY) },
  { name = "10000 set", run = set_many },
}
local times = report.interleave(ROUNDS, cases)
for _, case in ipairs(cases) do report.line(case.name, times[case.name], "us", 1e6) end
report.line("bare exit at a HLT, and over it", bare_steps[2], "us", 1e6)
local floor, over = {}, {}
for i, hit in ipairs(times["false condition"]) do
  floor[i] = times["bare exit"][i]
  over[i] = hit - bare_steps[2][i] + floor[i]
end
report.line("a hit without stepping over : exit", report.ratios(over, floor), "x", 1, 1.5)
report.line("beside 10000 : alone", report.ratios(times["beside 10000"], times["false condition"]),
            "x", 1, 1.25)
report.line("steps a second : the host's", report.ratios(times["bare step"], times.step), "x", 1,
            -0.5)
report.line("10000 breakpoints set", times["10000 set"], "ms", 1e3, 50)
report.finish()
