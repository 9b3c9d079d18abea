-- exits.lua - what an OUT costs: in a bare ioctl loop in C, and served by minikvm in its ways.
--
-- The same guest everywhere: N one-byte OUTs, 50 in a row so that little else is measured, and HLT.
-- Ratios and differences are formed round by round, of processor time: on a quiet machine it is the
-- time that passes, on a busy one the others' share is not in it. What an OUT costs beyond the bare
-- loop is minikvm's own time. Then a handler raises an interrupt at each OUT, which the entry that
-- follows anyway is to deliver.

local kvm = require "minikvm"
local report = require "report"

local N <const>, ROW <const>, ROUNDS <const> = 10000, 50, 15
local FREE_PORT <const>, DEBUGCON <const> = 0x80, 0xe9

---mov ecx, N / ROW; mov al, 'x'; 1: out port, al (ROW times); dec ecx; jnz 1b; hlt
local function code(port)
  local row = ("\xe6" .. string.char(port)):rep(ROW)
  return string.pack("<BBI4", 0x66, 0xb9, N // ROW) .. "\xb0x" .. row
    .. string.pack("<BBBb", 0x66, 0x49, 0x75, -(#row + 4)) .. "\xf4"
end

local elapsed = {}

---Runs the guest on this thread; returns its processor time, having checked what it did.
local function run(name, port, opts, prepare)
  opts.echo = false
  local vm <close> = assert(kvm.vm(opts))
  if prepare then prepare(vm) end
  assert(vm:load{ bytes = code(port) })
  local began = os.clock()
  local reason, info = vm:run()
  local busy = os.clock() - began
  assert(reason == "halt" and info.served.c + info.served.lua + info.served.coalesced >= N)
  table.insert(elapsed[name], info.seconds)
  return busy
end

local function bare(name)
  local path = os.tmpname()
  local file = assert(io.open(path, "wb"))
  file:write(code(FREE_PORT))
  file:close()
  local seconds = report.numbers(("%s exits %s %d"):format(report.bare, path, N))
  os.remove(path)
  table.insert(elapsed[name], seconds[2])
  return seconds[1]
end

local function nothing() end
local function sink(vm) vm.ports:sink(FREE_PORT) end
local function listen(vm) vm.ports:on(FREE_PORT, { write = nothing }) end
local function pass_on(vm)
  vm.ports:override(DEBUGCON, { write = function(_, value, _, beneath) beneath(value) end })
end

local VECTOR <const>, INTERRUPTS <const> = 0x30, 1000

---mov word [4 * 0x30], handler; xor ax, ax; mov [4 * 0x30 + 2], ax; sti; mov cx, 1000
---1: out 0x80, al; nop; loop 1b; cli; hlt; handler: inc bx; iret
local INTERRUPTED <const> = "\xc7\x06\xc0\0\x17\0\x31\xc0\xa3\xc2\0\xfb\xb9\xe8\x03"
  .. "\xe6\x80\x90\xe2\xfb\xfa\xf4\x90\x43\xcf"

---Entries to the guest for each interrupt that the vCPU's own thread raises, beyond those of the
---same guest without.
local function extra_entries()
  local function entries(raise)
    local vm <close> = assert(kvm.vm{ echo = false })
    local cpu = vm.cpu[0]
    vm.ports:on(FREE_PORT, { write = raise and function() cpu:interrupt(VECTOR) end or nothing })
    assert(vm:load{ bytes = INTERRUPTED })
    local reason, info = vm:run{ deadline = 10 }
    assert(reason == "halt", info.text)
    assert(cpu.rbx & 0xffff == (raise and INTERRUPTS or 0))
    return info.entries
  end
  return (entries(true) - entries(false)) / INTERRUPTS
end

local BARE <const>, COALESCED <const> = "bare loop", "C device, coalesced"
local STATELESS <const> = "C device without state"

local cases = {
  { name = BARE, fn = bare },
  { name = "C device", limit = 1.05, own = 0.12,
    fn = function(name) return run(name, DEBUGCON, { coalesce = false }) end },
  { name = COALESCED, fn = function(name) return run(name, DEBUGCON, {}) end },
  { name = STATELESS, own = 0.12,
    fn = function(name) return run(name, FREE_PORT, { coalesce = false }, sink) end },
  { name = "Lua handler", limit = 1.15, own = 0.25,
    fn = function(name) return run(name, FREE_PORT, {}, listen) end },
  { name = "Lua override that calls next", limit = 1.15,
    fn = function(name) return run(name, DEBUGCON, {}, pass_on) end },
}
for _, case in ipairs(cases) do
  elapsed[case.name] = {}
  case.run = function() return case.fn(case.name) end
end

report.title(("exits: %d OUTs, %d rounds, median and quartiles"):format(N, ROUNDS))
local busy = report.interleave(ROUNDS, cases)
report.note "  processor time of an OUT:"
for _, case in ipairs(cases) do report.line(case.name, busy[case.name], "us", 1e6 / N) end
report.note "  time that passed for an OUT:"
for _, case in ipairs(cases) do report.line(case.name, elapsed[case.name], "us", 1e6 / N) end
report.note "  as a multiple of the bare loop (processor time):"
for _, case in ipairs(cases) do
  if case.limit then
    report.line(case.name, report.ratios(busy[case.name], busy[BARE]), "x", 1, case.limit)
  end
end
report.note "  beyond the bare loop (processor time):"
for _, case in ipairs(cases) do
  if case.own then
    report.line(case.name, report.differences(busy[case.name], busy[BARE]), "us", 1e6 / N, case.own)
  end
end
report.line("KVM_RUN more for an interrupt of the own thread", { extra_entries() }, "calls", 1, 0)
local gain = report.ratios(busy[BARE], busy[COALESCED])
report.line("bytes/s, coalesced : bare loop", gain, "x", 1, -6)
local function rate(name) return N / report.quartiles(busy[name]).median end
report.note(("  bytes/s: %.0f bare, %.0f coalesced"):format(rate(BARE), rate(COALESCED)))
report.finish()
