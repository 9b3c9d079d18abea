-- files.lua - the file port: request blocks, the byte protocol, copies, and many VMs at once.
--
-- Files lie below TMPDIR (/tmp). Name a folder on a file system with reflink (xfs, btrfs) in
-- BENCH_REFLINK to measure copies there too.

local kvm = require "minikvm"
local report = require "report"
local now = require "minikvm.core".now

local ROUNDS <const>, PIECE <const>, CALLS <const>, BYTES <const> = 9, 64 << 10, 1024, 10000
local MB <const> = 1e6
local BLOCK_PORT <const>, BYTE_PORT <const> = 0x27c, 0x278
local READ <const>, WRITE <const> = 1, 2
local OP_OPEN <const>, OP_READ <const>, OP_WRITE <const> = 1, 3, 4

local function shell(format, ...)
  assert(os.execute(format:format(...)), format)
end

local temporary = os.getenv "TMPDIR" or "/tmp"
local root = ("%s/minikvm-bench-%x"):format(temporary, math.random(0))
shell("mkdir -p '%s'", root)
shell("head -c %d /dev/zero > '%s/data'", PIECE * CALLS * 2, root)
shell("head -c 100000000 /dev/urandom > '%s/big'", root)
shell("head -c 1000000 /dev/urandom > '%s/little'", root)

---mov dx, port; mov eax, block; out dx, eax: the OPEN; then the call at `block2`, `count` times.
local function calls(count)
  return ("<BI2 I2I4I2 I2I4 I2I4 I2I2I2 B"):pack(0xba, BLOCK_PORT, 0xb866, 0x1000, 0xef66,
    0xb866, 0x1100, 0xb966, count, 0xef66, 0x4966, 0xfa75, 0xf4)
end

local function block(op, flags, count, address)
  return ("<I4I4i4I4i8i8i8"):pack(op, flags, 0, count, address, 0, 0)
end

---A VM that opens a file and then reads or writes it by pieces.
local function worker(policy, op, name, count)
  local vm = assert(kvm.vm{ files = policy, echo = false, coalesce = false })
  assert(vm:load{ bytes = calls(count) })
  vm.memory:write(0x1000, block(OP_OPEN, op == OP_READ and READ or WRITE, #name, 0x1200))
  vm.memory:write(0x1200, name)
  vm.memory:write(0x1100, block(op, 0, PIECE, 0x20000))
  return vm
end

local function check(vm, reason, info)
  assert(reason == "halt", info.text)
  local result = ("<i8"):unpack(vm.memory:read(0x1120, 8))
  assert(result == PIECE, result)
end

local function policy(opts)
  local o = { root = root, max_bytes = "64G", max_file = "4G" }
  for key, value in pairs(opts or {}) do o[key] = value end
  return assert(kvm.files(o))
end

local shared, own = policy{ rules = { { "*", "ro" } } }, policy()

local function block_rate(op, name)
  local vm <close> = worker(op == OP_READ and shared or own, op, name, CALLS)
  local reason, info = vm:run()
  check(vm, reason, info)
  return PIECE * CALLS / info.seconds / MB
end

---The same without a guest: what the page cache itself gives.
local function dd(arguments)
  local from = now()
  shell("dd bs=%d count=%d %s status=none", PIECE, CALLS, arguments)
  return PIECE * CALLS / (now() - from) / MB
end

report.title(("files: request blocks of 64 KiB, %d rounds, median and quartiles"):format(ROUNDS))
local rates = report.interleave(ROUNDS, {
  { name = "read", run = function() return block_rate(OP_READ, "data") end },
  { name = "dd from a file", run = function()
    return dd(("if='%s/data' of=/dev/null"):format(root))
  end },
  { name = "write", run = function() return block_rate(OP_WRITE, "own") end },
  { name = "dd to a file", run = function()
    local rate = dd(("if=/dev/zero of='%s/dd'"):format(root))
    os.remove(root .. "/dd")
    return rate
  end },
})
report.line("read", rates.read, "MB/s", 1, -200)
report.line("write to a new file", rates.write, "MB/s", 1, -200)
report.line("read, as a multiple of dd", report.ratios(rates.read, rates["dd from a file"]), "x", 1)
report.line("write, as a multiple of dd", report.ratios(rates.write, rates["dd to a file"]), "x", 1)

-- The byte protocol: one WRITE of BYTES bytes, an OUT each. In processor time, which other programs
-- do not disturb; the bare loop runs the same guest with a port nobody serves.

local function byte_code(port)
  local head = ""
  for byte in ("<BBs1 Bi4i4"):pack(1, WRITE, "f", OP_WRITE, 0, BYTES):gmatch "." do
    head = head .. "\xb0" .. byte .. "\xee" -- mov al, byte; out dx, al
  end
  return ("<BI2"):pack(0xba, port) .. head
    .. ("<I2I4 BB BI2I2 B"):pack(0xb966, BYTES, 0xb0, 0x78, 0xee, 0x4966, 0xfb75, 0xf4)
end

local HEAD <const> = 4 + 9

local function bare_seconds()
  local path <const> = root .. "/image"
  local file = assert(io.open(path, "wb"))
  file:write(byte_code(0x80))
  file:close()
  local busy = report.numbers(("%s exits '%s' %d"):format(report.bare, path, HEAD + BYTES))[1]
  return busy / (HEAD + BYTES)
end

local function byte_seconds()
  local vm <close> = assert(kvm.vm{ files = own, echo = false, coalesce = false })
  assert(vm:load{ bytes = byte_code(BYTE_PORT) })
  local from = os.clock()
  local reason, info = vm:run()
  local busy = os.clock() - from
  assert(reason == "halt" and info.exits == HEAD + BYTES + 1, info.text)
  assert(vm.files:usage().bytes == BYTES)
  return busy / (HEAD + BYTES)
end

report.title(("files: byte protocol, a WRITE of %d bytes"):format(BYTES))
local costs = report.interleave(ROUNDS, {
  { name = "bare", run = bare_seconds },
  { name = "byte", run = byte_seconds },
})
report.line("a bare exit", costs.bare, "us", 1e6)
report.line("a byte", costs.byte, "us", 1e6)
report.line("a byte, as a multiple of a bare exit", report.ratios(costs.byte, costs.bare), "x", 1,
            1.1)

-- Copies

---Seconds of the OPEN that copies `name`.
local function copy_seconds(p, name)
  local vm <close> = worker(p, OP_WRITE, name, 1)
  vm.memory:write(0x1100, block(0, 0, 0, 0)) -- an operation that is none: only the OPEN counts
  local reason, info = vm:run()
  assert(reason == "halt" and ("<i8"):unpack(vm.memory:read(0x1020, 8)) == 0, info.text)
  return info.seconds
end

local function cp_seconds(folder)
  local from = now()
  shell("cp --reflink=never '%s/big' '%s/copy'", folder, folder)
  local seconds = now() - from
  os.remove(folder .. "/copy")
  return seconds
end

local cow = policy{ rules = { { "*", "cow" } } }
report.title "files: copy-on-write of 100 MB, no reflink"
local copies = report.interleave(ROUNDS, {
  { name = "cp", run = function() return cp_seconds(root) end },
  { name = "cow", run = function() return copy_seconds(cow, "big") end },
})
report.line("cp", copies.cp, "ms", 1e3)
report.line("the OPEN that copies", copies.cow, "ms", 1e3)
report.line("as a multiple of cp", report.ratios(copies.cow, copies.cp), "x", 1, 1.2)

local reflink = os.getenv "BENCH_REFLINK"
if reflink then
  local folder = ("%s/minikvm-bench-%x"):format(reflink, math.random(0))
  shell("mkdir -p '%s' && cp '%s/big' '%s/little' '%s' && sync", folder, root, root, folder)
  local p = policy{ root = folder, private = folder .. "/own", rules = { { "*", "cow" } } }
  report.title "files: copy-on-write with reflink"
  local links = report.interleave(ROUNDS, {
    { name = "little", run = function() return copy_seconds(p, "little") end },
    { name = "big", run = function() return copy_seconds(p, "big") end },
  })
  report.line("1 MB", links.little, "ms", 1e3)
  report.line("100 MB", links.big, "ms", 1e3)
  report.line("100 MB, as a multiple of 1 MB", report.ratios(links.big, links.little), "x", 1, 3)
  shell("rm -rf '%s'", folder)
end

-- Many at once. Rates depend on what else the machine does; processor time a megabyte does not:
-- while it stays the same, rates grow with the processors.

local rates_of = {}

---Notes the rate of `count` VMs that read at once; returns their processor time a megabyte.
local function together(name, count)
  local vms = {}
  for i = 1, count do vms[i] = worker(shared, OP_READ, "data", CALLS * 2) end
  local from, busy = now(), os.clock()
  for _, vm in ipairs(vms) do vm:start() end
  for i, r in ipairs(kvm.wait(vms)) do check(vms[i], r.reason, r.info) end
  local total = count * PIECE * CALLS * 2 / MB
  rates_of[name] = rates_of[name] or {}
  table.insert(rates_of[name], total / (now() - from))
  busy = os.clock() - busy
  for _, vm in ipairs(vms) do vm:close() end
  return busy / total
end

---The same for one VM while 15 others have stopped in the middle of a command.
local function beside_stalled()
  local stalled = {}
  for i = 1, 15 do
    stalled[i] = assert(kvm.vm{ files = shared, echo = false, coalesce = false, irqchip = "pic" })
    -- OUT of the operation WRITE and no more, then sti, hlt: waits for an interrupt
    assert(stalled[i]:load{ bytes = "\xba\x78\x02\xb0\x04\xee\xfb\xf4" })
    stalled[i]:start()
  end
  kvm.sleep(0.02)
  local busy = together("stalled", 1)
  for _, vm in ipairs(stalled) do vm:close() end
  return busy
end

local COUNTS <const> = { 1, 2, 4, 16 }
report.title(("files: VMs that read at once, on %d processors"):format(
  report.numbers("nproc")[1]))
local cases = { { name = "stalled", run = beside_stalled } }
for _, count in ipairs(COUNTS) do
  cases[#cases + 1] = { name = count, run = function() return together(count, count) end }
end
local many = report.interleave(ROUNDS, cases)
for _, count in ipairs(COUNTS) do
  report.line(("%d VMs together"):format(count), rates_of[count], "MB/s", 1)
end
report.line("one beside 15 that stalled", rates_of.stalled, "MB/s", 1)
report.line("16 VMs, as a multiple of one", report.ratios(rates_of[16], rates_of[1]), "x", 1)
print "  processor time a megabyte, as a multiple of one VM's:"
report.line("2 VMs", report.ratios(many[2], many[1]), "x", 1, 1.3)
report.line("16 VMs", report.ratios(many[16], many[1]), "x", 1, 1.3)
report.line("one beside 15 that stalled", report.ratios(many.stalled, many[1]), "x", 1, 1.1)

shell("rm -rf '%s'", root)
report.finish()
