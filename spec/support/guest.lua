-- guest.lua - what the specs share: whether VMs can run here, guests and what they must do.

local kvm = require "minikvm"
local options = require "minikvm.options"

local M = {}

local probe = kvm.probe()

---Skips the current block of specs, saying why, where VMs cannot run: true when it did.
---@param pending function  busted's, which is a global of spec files only
function M.without_kvm(pending)
  if probe.ok then return false end
  pending("needs KVM: " .. probe.why)
  return true
end

M.host = probe

---A VM whose output does not go to stdout.
function M.vm(opts)
  local o = { echo = false }
  for key, value in pairs(opts or {}) do o[key] = value end
  return assert(kvm.vm(o))
end

---The bytes of machine code written as hexadecimal digits; a ';' starts a comment, as in assembly.
---@param listing string
function M.bytes(listing)
  local digits = listing:gsub(";[^\n]*", ""):gsub("%s", "")
  assert(digits:find "^%x+$" and #digits % 2 == 0, "not a listing in hexadecimal")
  return (digits:gsub("%x%x", function(h) return string.char(tonumber(h, 16)) end))
end

-- Accesses to ports as machine code, for guests that are a list of them.

---OUT of 1, 2 or 4 bytes: mov dx, port; mov al/ax/eax, value; out dx, al/ax/eax
function M.out(port, value, size)
  local dx = string.pack("<BI2", 0xba, port)
  if size == 4 then return dx .. string.pack("<I2I4I2", 0xb866, value, 0xef66) end
  if size == 2 then return dx .. string.pack("<BI2B", 0xb8, value, 0xef) end
  return dx .. string.pack("<BBB", 0xb0, value, 0xee)
end

---IN of 1, 2 or 4 bytes, kept at `address`: mov dx, port; xor eax, eax; in al/ax/eax, dx;
---mov [address], eax
function M.into(address, port, size)
  local read = size == 4 and "\x66\xed" or size == 2 and "\xed" or "\xec"
  return string.pack("<BI2", 0xba, port) .. "\x66\x31\xc0" .. read
    .. string.pack("<I2I2", 0xa366, address)
end

---A hypercall: mov ebx, argument; mov dx, 0x500; mov al, number; out dx, al
function M.call(number, argument)
  return string.pack("<I2I4", 0xbb66, argument or 0) .. M.out(0x500, number)
end

---A VM whose guest does these things, then HLT.
---@param parts string[]  of out(), into(), call() and bytes()
function M.program(parts, opts)
  local vm = M.vm(opts)
  local code = table.concat(parts) .. "\xf4"
  for cpu = 0, (opts and opts.cpus or 1) - 1 do
    assert(vm:load({ bytes = code }, { cpu = cpu }))
  end
  return vm
end

---Runs a VM to its end, which is near.
function M.run(vm)
  return vm:run{ deadline = 20 }
end

---The message of the error that fn raises, which it has to.
function M.message(fn, ...)
  local ok, why = pcall(fn, ...)
  assert(not ok, "no error was raised")
  return why
end

---A VM that holds this machine code.
---@param listing string  hexadecimal digits, with comments
function M.code(listing, opts)
  local vm = M.vm(opts)
  for cpu = 0, (opts and opts.cpus or 1) - 1 do
    assert(vm:load({ bytes = M.bytes(listing) }, { cpu = cpu }))
  end
  return vm
end

---A VM with one of the guests in guests/.
function M.guest(name, opts)
  local vm = M.vm(opts)
  assert(vm:load(("guests/%s.bin"):format(name)))
  return vm
end

local function read_file(path)
  local file = io.open(path, "rb")
  if not file then return nil end
  local text = file:read "a"
  file:close()
  return text
end

M.read_file = read_file

local function number(text) return tonumber(text) and text, "expected a number, got " .. text end

-- What the headers of an .expect may be, by folder; the specs of the folders say what they mean.
local COMMON <const> = { reason = { "halt", "exit", "shutdown", "deadline", "limit", "fault",
                                    "any" },
                         code = number, exits = number }
local HEADERS <const> = {
  real = { deadline = number, output = { "any" } },
  prot = { deadline = number, mode = "string", irqchip = "string", memory = "size",
           keys = "string", needs = "string", host = { "native" } },
  boot = { image = "string", memory = "size", framebuffer = "string" },
  long = { irqchip = "string", device = { "edu" }, files = "string", maxfile = "size",
           maxbytes = "size", output = { "pattern" }, host = { "native" } },
}
for _, headers in pairs(HEADERS) do
  for name, rule in pairs(COMMON) do headers[name] = rule end
end

---Reads the text of an .expect: header fields by name, and the output in `output_text`. Raises for
---a header that nobody knows, with the nearest that there is.
---@param where string  for messages: the file's name
---@param folder "real"|"prot"|"long"|"boot"
function M.parse_expectation(where, folder, text)
  local head, body = text:match "^(.-\n)\n(.*)$"
  if not head then head, body = text, "" end
  local fields = {}
  for line in head:gmatch "[^\n]+" do
    local key, value = line:match "^(%w+): *(.*)$"
    if not key then error(("%s: expected NAME: VALUE, got %q"):format(where, line), 0) end
    if fields[key] then error(("%s: header '%s' is there twice"):format(where, key), 0) end
    fields[key] = value
  end
  fields = options.check(where, fields, HEADERS[folder], -1)
  fields.output_text = body
  return fields
end

---Reads guests/NAME.expect, and what is typed from guests/NAME.in into `input`.
function M.expectation(name)
  local path = ("guests/%s.expect"):format(name)
  local fields = M.parse_expectation(path, name:match "^%w+", assert(read_file(path)))
  fields.input = read_file(("guests/%s.in"):format(name))
  return fields
end

return M
