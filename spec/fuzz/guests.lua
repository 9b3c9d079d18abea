-- guests.lua - whole guests of random code, on the host's KVM, in each mode:
--
--   build/asan/minikvm spec/fuzz/guests.lua [count [seed]]      -- 10000 of each mode
--
-- Half of them are bytes of any kind, half are accesses to devices with any operands. Whatever a
-- guest does, its run ends with a reason that is not minikvm's own fault, and the next one runs.
-- What is wrong is told by sanitizers, too. Prints a table; exits with 1 when something was.

local kvm = require "minikvm"

local COUNT <const>, SEED <const> = tonumber(arg[1] or 10000), tonumber(arg[2] or 1)
local AT_ONCE <const> = 25 -- guests of a VM, which is reset between them
local FINE <const> = { halt = true, exit = true, limit = true, deadline = true, shutdown = true,
                       fault = true, panic = true, stopped = true }
local PORTS <const> = { 0x20, 0x21, 0x40, 0x43, 0x60, 0x64, 0xa0, 0xe9, 0xf4, 0x278, 0x27c, 0x3f8,
                        0x3fb, 0x500, 0xcf8, 0xcfc, 0x1f0, 0x70 }
local random = math.random

local function bytes(n)
  local list = {}
  for i = 1, n do list[i] = string.char(random(0, 255)) end
  return table.concat(list)
end

---A register of four bytes, in 16-bit code with a prefix: near to sense, or anything.
local function set(wide, register)
  local value = random(3) == 1 and random(0, 0xffffffff) or random(0, 0x20000)
  return (wide and "" or "\x66") .. ("<BI4"):pack(0xb8 + register, value)
end

local ACCESSES <const> = { "\xee", "\xef", "\xec", "\xed", "\xf3\x6e", "\xf3\x6f", "\xf3\x6c",
                           "\xf3\x6d", "\x66\xef", "\x66\xed", "\xcd\x40", "\xf4", "\xfb", "\xfa",
                           "\x0f\xa2", "\x0f\x32", "\x0f\x30", "\x88\x07", "\x8a\x07", "\xf3\xaa" }

---Registers, then an access.
local function access(wide)
  local parts = {}
  for _ = 1, random(0, 3) do parts[#parts + 1] = set(wide, ({ 0, 1, 3, 6, 7 })[random(5)]) end
  parts[#parts + 1] = (wide and "\x66" or "") .. ("<BI2"):pack(0xba, PORTS[random(#PORTS)])
  parts[#parts + 1] = ACCESSES[random(#ACCESSES)]
  return table.concat(parts)
end

local function guest(mode)
  if random(2) == 1 then return bytes(random(1, 200)) end
  local parts = {}
  for i = 1, random(1, 12) do parts[i] = access(mode ~= "real") end
  return table.concat(parts) .. (random(3) == 1 and bytes(20) or "\xf4")
end

local function machine(mode)
  local pic = random(2) == 1
  local vm = assert(kvm.vm{
    mode = mode, echo = false, irqchip = pic and "pic" or "none",
    console = random(2) == 1 and "uart" or "hypercall",
    unhandled = random(4) == 1 and "fault" or "ignore", disks = pic and { { size = "64K" } } or nil,
    limits = { exits = 300, seconds = 0.02, output = 20000 } })
  vm.console:send(bytes(20))
  vm.console:eof()
  return vm
end

---@return string reason
local function run(vm, code)
  assert(vm:load{ bytes = code })
  local reason, info = vm:run()
  if not FINE[reason or ""] then
    error(("%s: %s"):format(reason, type(info) == "table" and (info.text) or info))
  end
  return reason
end

local function run_mode(mode)
  local ends, failed = {}, 0
  local vm
  for i = 1, COUNT do
    math.randomseed(SEED, i)
    if i % AT_ONCE == 1 then
      if vm then vm:close() end
      vm = machine(mode)
    else
      assert(vm:reset())
    end
    local code = guest(mode)
    local ok, reason = pcall(run, vm, code)
    if not ok then
      failed = failed + 1
      print(("%s guest %d of seed %d: %s"):format(mode, i, SEED, reason))
      reason = "failed"
    end
    ends[reason] = (ends[reason] or 0) + 1
  end
  vm:close()
  return ends, failed
end

local NAMES <const> = { "halt", "exit", "limit", "deadline", "shutdown", "fault", "failed" }
local bad = 0
print(("%-10s %7s" .. (" %9s"):rep(#NAMES)):format("mode", "guests", table.unpack(NAMES)))
for _, mode in ipairs{ "real", "protected", "paged", "long" } do
  local ends, failed = run_mode(mode)
  local row = {}
  for i, name in ipairs(NAMES) do row[i] = ends[name] or 0 end
  print(("%-10s %7d" .. (" %9d"):rep(#NAMES)):format(mode, COUNT, table.unpack(row)))
  bad = bad + failed
end
os.exit(bad == 0 and 0 or 1, true)
