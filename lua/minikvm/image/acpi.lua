-- image/acpi.lua - the RSDP that a script has put where a PC's BIOS has it, for kernels that are
-- told of it: ACPI Specification 6.5, section 5.2.5.1 (0xe0000 to 0xfffff, on boundaries of 16) and
-- 5.2.5.3 (its structure).

local M = {}

M.FIRST, M.END = 0xe0000, 0x100000
local SIGNATURE <const> = "RSD PTR "
local OLD_SIZE <const>, NEW_SIZE <const> = 20, 36

local function sum(bytes)
  local total = 0
  for i = 1, #bytes do total = total + bytes:byte(i) end
  return total & 0xff
end

---The one that begins at a place of the bytes, when its checksums are right.
local function check(bytes, at)
  local old = bytes:sub(at, at + OLD_SIZE - 1)
  if #old < OLD_SIZE or sum(old) ~= 0 then return nil end
  local revision = old:byte(16)
  if revision < 2 then return { revision = revision, bytes = old } end
  local new = bytes:sub(at, at + NEW_SIZE - 1)
  if #new < NEW_SIZE or ("<I4"):unpack(new, 21) < NEW_SIZE or sum(new) ~= 0 then return nil end
  return { revision = revision, bytes = new }
end

---The RSDP in a VM's memory; nil when there is none.
---@param vm minikvm.vm
---@return { at: integer, revision: integer, bytes: string }?
function M.find(vm)
  if not vm.memory:has(M.FIRST, M.END - M.FIRST) then return nil end
  local bytes, at = vm.memory:read(M.FIRST, M.END - M.FIRST), 1
  while true do
    at = bytes:find(SIGNATURE, at, true)
    if not at then return nil end
    local found = at % 16 == 1 and check(bytes, at)
    if found then
      found.at = M.FIRST + at - 1
      return found
    end
    at = at + 1
  end
end

return M
