-- hooks.lua - what it costs to answer an access in Lua or by a primitive in C, beside a bare ioctl
-- loop over the same guest.
--
-- A guest makes N accesses, 50 in a row so that little else is measured, and halts. Ratios are
-- formed round by round, of processor time, as in exits.lua.

local kvm = require "minikvm"
local report = require "report"

local N <const>, ROW <const>, ROUNDS <const> = 10000, 50, 15
local PORT <const>, BASE <const> = 0x80, 0x100000

---A loop around ROW times the same instruction; `prepare` comes before it.
local function code(instruction, prepare)
  local row = instruction:rep(ROW)
  return (prepare or "") .. string.pack("<BBI4", 0x66, 0xb9, N // ROW) .. "\xb0x" .. row
    .. "\x66\x49" .. string.pack("<BBi2", 0x0f, 0x85, -(#row + 6)) .. "\xf4" -- dec ecx; jnz; hlt
end

local GUESTS <const> = {
  out = code("\xe6" .. string.char(PORT)),                                  -- out 0x80, al
  into = code("\xe4" .. string.char(PORT)),                                 -- in al, 0x80
  mmio = code("\x26\x88\x07", "\xb8\xff\xff\x8e\xc0\xbb\x10\x00"),          -- mov es:[bx], al
  e9 = code("\xe6\xe9"),
}

local function run(guest, prepare, opts)
  local o = { echo = false, coalesce = false }
  for key, value in pairs(opts or {}) do o[key] = value end
  local vm <close> = assert(kvm.vm(o))
  local check = prepare(vm)
  assert(vm:load{ bytes = GUESTS[guest] })
  local began = os.clock()
  local reason, info = vm:run()
  local busy = os.clock() - began
  assert(reason == "halt" and info.served.none == 0, info.text)
  if check then check() end
  return busy
end

local function bare(guest)
  local path = os.tmpname()
  local file = assert(io.open(path, "wb"))
  file:write(GUESTS[guest])
  file:close()
  local seconds = report.numbers(("%s exits %s %d"):format(report.bare, path, N))
  os.remove(path)
  return seconds[1]
end

local function nothing() end
local function zero() return 0 end
local both = { read = zero, write = nothing }

---Each case: its name, the guest, what is set up in the VM, the target as a multiple of the bare
---loop, and options of the VM.
local CASES <const> = {
  { "Lua port handler", "out", function(vm) vm.ports:on(PORT, both) end, 1.15 },
  { "Lua MMIO handler", "mmio", function(vm) vm.mmio:on(BASE, 0x100, both) end, 1.2 },
  { "Lua override that calls next", "e9", function(vm)
    vm.ports:override(0xe9, { write = function(_, value, _, beneath) beneath(value) end })
  end, 1.2 },
  { "tap", "e9", function(vm) vm.ports:tap(0xe9, nothing) end },
  { "device object, register write", "out", function(vm)
    local device = kvm.device{ registers = { [0] = "DATA" }, write = nothing }
    vm:attach(device, { ports = PORT })
  end },
  { "const", "into", function(vm) vm.ports:const(PORT, 7) end, 1.05 },
  { "latch", "out", function(vm) vm.ports:latch(PORT) end, 1.05 },
  { "sink", "out", function(vm) vm.ports:sink(PORT) end, 1.05 },
  { "latch in memory", "mmio", function(vm) vm.mmio:latch(BASE, 0x1000) end, 1.05 },
  { "match, other value", "out", function(vm) vm.ports:match(PORT, 1, nothing) end },
  { "Lua port handler, 1000 hooked ports", "out", function(vm)
    for port = 0x1000, 0x13e6 do vm.ports:on(port, both) end
    vm.ports:on(PORT, both)
  end },
  { "timed (stats = true)", "out", function(vm) vm.ports:on(PORT, both) end, nil,
    { stats = true } },
}

local QUIET <const> = {
  { "fifo, coalesced", "out", function(vm)
    local records = 0
    vm.ports:fifo(PORT, { size = 1000 }, function() records = records + 1 end)
    return function() assert(records == N // 1000) end
  end, -6, { coalesce = true } },
  { "sink, coalesced", "out", function(vm) vm.ports:sink(PORT) end, nil, { coalesce = true } },
  { "doorbell (ioeventfd)", "out", function(vm)
    local rings = 0
    vm.ports:doorbell(PORT, 1, function(count) rings = rings + count end)
    return function() assert(rings == N) end
  end },
}

local cases = {}
for guest in pairs(GUESTS) do
  cases[#cases + 1] = { name = guest, run = function() return bare(guest) end }
end
for _, list in ipairs{ CASES, QUIET } do
  for _, c in ipairs(list) do
    cases[#cases + 1] = { name = c[1], run = function() return run(c[2], c[3], c[5]) end }
  end
end

report.title(("hooks: %d accesses, %d rounds, median and quartiles"):format(N, ROUNDS))
local busy = report.interleave(ROUNDS, cases)
print "  processor time of an access in the bare loop:"
for _, guest in ipairs{ "out", "into", "mmio" } do
  report.line(guest, busy[guest], "us", 1e6 / N)
end
print "  as a multiple of the bare loop over the same guest:"
for _, c in ipairs(CASES) do
  report.line(c[1], report.ratios(busy[c[1]], busy[c[2]]), "x", 1, c[4])
end
report.line("1000 hooked ports : one", report.ratios(busy["Lua port handler, 1000 hooked ports"],
                                                     busy["Lua port handler"]), "x", 1, 1.02)
print "  accesses per second as a multiple of the bare loop's:"
for _, c in ipairs(QUIET) do
  report.line(c[1], report.ratios(busy[c[2]], busy[c[1]]), "x", 1, c[4])
end
report.finish()
