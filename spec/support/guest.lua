-- guest.lua - what the specs share: whether VMs can run here, guests and what they must do.

local kvm = require "minikvm"

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

---A VM that holds these bytes of machine code.
---@param code string  bytes, or their hexadecimal digits
function M.code(code, opts)
  local vm = M.vm(opts)
  if code:find "^[%x%s]+$" then
    code = code:gsub("%s", ""):gsub("%x%x", function(h) return string.char(tonumber(h, 16)) end)
  end
  assert(vm:load{ bytes = code })
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

---Reads guests/NAME.expect: header fields by name, and the output in `output_text`.
function M.expectation(name)
  local text = assert(read_file(("guests/%s.expect"):format(name)))
  local head, body = text:match "^(.-\n)\n(.*)$"
  if not head then head, body = text, "" end
  local fields = { output_text = body, input = read_file(("guests/%s.in"):format(name)) }
  for key, value in head:gmatch "(%w+): *([^\n]*)\n" do fields[key] = value end
  return fields
end

return M
