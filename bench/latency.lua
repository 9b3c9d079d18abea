-- latency.lua - how soon things happen: the coalesced output of a guest that spins appears, and a
-- doorbell that it rings is answered; a stop, a deadline and Ctrl-C end a guest, also while a
-- reader of another VM's output stalls, and on a machine whose every processor is taken twice.
-- Beside Ctrl-C, how soon SIGKILL ends the process: what the kernel alone takes.

local kvm = require "minikvm"
local report = require "report"
local now = require "minikvm.core".now

local ROUNDS <const>, MS <const> = 20, 50
local MARK_PORT <const> = 0x80

local GUESTS <const> = {
  { name = "spins", image = "spin" },
  { name = "floods the console", image = "flood" },
  { name = "floods by hypercall", image = "flood_hypercall" },
}

local function processors()
  local pipe <close> = assert(io.popen "nproc")
  return pipe:read "n"
end

---Keeps the machine busy while fn runs.
local function while_busy(fn)
  local pipes = {}
  for i = 1, 2 * processors() do
    pipes[i] = assert(io.popen(("exec %s busy"):format(report.bare), "w"))
  end
  local ok, why = pcall(fn)
  for _, pipe in ipairs(pipes) do pipe:close() end
  assert(ok, why)
end

local function guest(image)
  local vm = assert(kvm.vm{ echo = false })
  assert(vm:load(("guests/real/%s.bin"):format(image)))
  return vm
end

local function stop(image)
  local vm <close> = guest(image):start()
  kvm.sleep(MS / 1e3)
  local began = now()
  assert(vm:stop() == "stopped")
  return now() - began
end

local function deadline(image)
  local vm <close> = guest(image)
  local reason, info = vm:run{ deadline = MS / 1e3 }
  assert(reason == "deadline", reason)
  return info.seconds - MS / 1e3
end

---Seconds from a signal to the end of a process that runs the image.
local function ended_by(signal, image)
  return report.numbers(("%s signal 1 %d %d %s run guests/real/%s.bin"):format(
    report.bare, 4 * MS, signal, report.minikvm, image))[1]
end

local SIGINT <const>, SIGKILL <const> = 2, 9
local function ctrl_c(image) return ended_by(SIGINT, image) end
---The floor of that: the kernel alone ends the process, and its VM.
local function kill(image) return ended_by(SIGKILL, image) end

---The guest marks the moment, prints a byte and spins.
local function appearance()
  local vm <close> = assert(kvm.vm{ echo = false })
  local printed
  vm.ports:on(MARK_PORT, { write = function() printed = now() end })
  assert(vm:load{ bytes = "\xe6\x80\xb0x\xe6\xe9\xeb\xfe" }) -- out 0x80, al; out 0xe9, 'x'; jmp $
  vm:start()
  while vm.console:text() == "" do kvm.sleep(0.0002) end
  local seen = now()
  vm:stop()
  return seen - printed
end

---The guest marks the moment, rings and spins, again and again.
local function doorbell()
  local vm <close> = assert(kvm.vm{ echo = false })
  local rung, seconds
  vm.ports:on(MARK_PORT, { write = function() rung = now() end })
  vm.ports:doorbell(MARK_PORT + 1, 1, function()
    seconds = now() - rung
    vm:stop()
  end)
  assert(vm:load{ bytes = "\xe6\x80\xe6\x81\xeb\xfe" }) -- out 0x80, al; out 0x81, al; jmp $
  assert(vm:run{ deadline = 5 } == "stopped")
  return seconds
end

---HLT with interrupts off: nothing can wake it, so it ends by itself.
local function halted()
  local vm <close> = guest "halt_cli"
  local reason, info = vm:run{ deadline = 5 }
  assert(reason == "halt", reason)
  return info.seconds
end

---Calls fn while a VM floods a FIFO that nobody reads.
local function while_stalled(fn)
  local path = os.tmpname()
  os.remove(path)
  assert(os.execute("mkfifo " .. path))
  local reader = assert(io.open(path, "r+")) -- which never reads
  local vm = guest "flood"
  assert(vm.console:output(path))
  os.remove(path)
  vm:start()
  kvm.sleep(MS / 1e3)
  fn()
  vm:close()
  reader:close()
end

local SPIN <const> = "spin"

---What ends guests, each with this target in milliseconds.
local function ends(target)
  local cases = {}
  local function add(name, limit, fn, image)
    cases[#cases + 1] = { name = name, target = limit, run = function() return fn(image) end }
  end
  for _, g in ipairs(GUESTS) do
    add("stop, a guest that " .. g.name, target, stop, g.image)
    add("deadline, a guest that " .. g.name, target, deadline, g.image)
    add("Ctrl-C to the end, a guest that " .. g.name, target, ctrl_c, g.image)
  end
  add("SIGKILL to the end, a guest that spins: the floor", nil, kill, SPIN)
  add("HLT with interrupts off: end by itself", target, halted)
  return cases
end

local STALLED <const> = {
  { name = "stop, a guest that spins", target = 5, run = function() return stop(SPIN) end },
  { name = "deadline, a guest that spins", target = 5, run = function() return deadline(SPIN) end },
}

local BUSY <const> = ends(50)
table.insert(BUSY, { name = "coalesced output of a spinning guest", run = appearance })

---Measures cases and prints them.
local function measure(cases)
  local seconds = report.interleave(ROUNDS, cases)
  for _, case in ipairs(cases) do
    report.line(case.name, seconds[case.name], "ms", 1e3, case.target)
  end
end

report.title(("latency: %d rounds, median and quartiles"):format(ROUNDS))
measure{
  { name = "coalesced output of a spinning guest", target = 20, run = appearance },
  { name = "doorbell of a spinning guest answered", target = 0.2, run = doorbell },
}
measure(ends(5))
report.note "  while a reader of another VM's output stalls:"
while_stalled(function() measure(STALLED) end)
report.note "  with every processor taken twice:"
while_busy(function() measure(BUSY) end)
report.finish()
