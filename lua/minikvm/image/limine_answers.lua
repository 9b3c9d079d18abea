-- image/limine_answers.lua - the answers to a kernel's requests: Limine boot protocol, PROTOCOL.md,
-- "Feature List" and "File Structure".
--
-- Left unanswered, as the protocol says for what is not there: MP (there is no MADT), SMBIOS, EFI,
-- TPM, device tree, IOMMU; RSDP when there is none; bootloader performance, Flanterm's parameters,
-- entropy. The answer to the Module feature has revision 0: modules that the kernel names itself
-- are not loaded.

local core = require "minikvm.core"
local plan = require "minikvm.image.plan"

local refuse = plan.refuse

local M = {}

M.HHDM = 0xffff800000000000
local HHDM <const> = M.HHDM
local REQUEST <const>, RESPONSE <const> = 48, 40 -- bytes before a request's own fields; offset
local STACK_MIN <const>, STACK_MAX <const> = 65536, 1 << 36
local PAGE <const> = 4096
local FIRMWARE_BIOS <const>, FOUR_LEVELS <const>, RGB <const> = 0, 0, 1

local function id(a, b) return ("<i8i8"):pack(a, b) end

M.FRAMEBUFFER = id(0x9d5827dcd881dd75, 0xa3148604f6fab11b)
M.FILE = id(0xad97e90e83f1ed67, 0x31eb5d1c5ff23b69)
local STACK_SIZE <const> = id(0x224ef0460a8e8926, 0xe1cb0fc25f46ea3d)

-- ---- what answers point to ----

---Appends bytes on a boundary of 8; returns their address in the higher half.
local function put(context, bytes)
  local at = context.at + context.size
  local padded = bytes .. ("\0"):rep(-#bytes & 7)
  context.parts[#context.parts + 1] = padded
  context.size = context.size + #padded
  return HHDM + at
end

local function text(context, what, value)
  return put(context, plan.terminated(context.source, what, value))
end

---A list of pointers to structures.
local function pointers(context, list)
  local addresses = {}
  for i, bytes in ipairs(list) do addresses[i] = ("<i8"):pack(put(context, bytes)) end
  return put(context, table.concat(addresses))
end

---A field of a request.
local function field(context, request, offset)
  if request.room < offset + 8 then
    refuse(context.source, "ENOEXEC", "Limine: the request at 0x%x is cut off by the end of its "
      .. "segment", request.address)
  end
  return context.made.executable:u64(request.address + offset)
end

local function command_line(context)
  context.line = context.line
    or text(context, "the command line", context.want.cmdline or "")
  return context.line
end

---A struct limine_file; nothing is known of disks.
local function file(context, m, string_at)
  local path = text(context, "a module's path", "/" .. m.source.name:gsub("^/+", ""))
  return ("<i8i8i8i8i8"):pack(0, HHDM + m.at, m.source.size, path, string_at) .. ("\0"):rep(72)
end

-- ---- the features, by name; each returns the response behind its revision, and the revision ----

local function bootloader_info(context)
  return ("<i8i8"):pack(text(context, "", "minikvm"), text(context, "", core.version))
end

local function executable_cmdline(context) return ("<i8"):pack(command_line(context)) end

local function firmware_type() return ("<i8"):pack(FIRMWARE_BIOS) end

local function stack_size() return "" end

local function hhdm() return ("<i8"):pack(HHDM) end

local COLOURS <const> = ("BBBBBBB"):pack(RGB, 8, 16, 8, 8, 8, 0) -- model; size and shift of each

local function framebuffer(context)
  local f = context.made.framebuffer
  if not f then return nil end
  local mode = ("<i8i8i8I2"):pack(f.pitch, f.width, f.height, 32) .. COLOURS
  local modes = pointers(context, { mode })
  return ("<i8i8"):pack(1, pointers(context, {
    ("<i8i8i8i8I2"):pack(HHDM + f.at, f.width, f.height, f.pitch, 32) .. COLOURS .. ("\0"):rep(7)
      .. ("<i8i8i8i8"):pack(0, 0, 1, modes) })), 1
end

local function paging_mode(context, request)
  local least, most = FOUR_LEVELS, field(context, request, REQUEST)
  if request.revision ~= 0 then
    most, least = field(context, request, REQUEST + 8), field(context, request, REQUEST + 16)
  end
  if math.ult(most, least) then
    refuse(context.source, "ENOEXEC", "Limine: Paging Mode feature: max_mode %u is below "
      .. "min_mode %u", most, least)
  elseif least ~= FOUR_LEVELS then
    refuse(context.source, "EOPNOTSUPP", "Limine: Paging Mode feature: min_mode %u: there is "
      .. "paging with four levels only (0)", least)
  end
  return ("<i8"):pack(FOUR_LEVELS)
end

local function memory_map(context)
  local entries = {}
  for i, r in ipairs(context.map) do entries[i] = ("<i8i8i8"):pack(r[1], r[2] - r[1], r[3]) end
  return ("<i8i8"):pack(#entries, pointers(context, entries))
end

local function entry_point(context, request)
  context.entry = field(context, request, REQUEST)
  return ""
end

local function executable_file(context)
  for _, m in ipairs(context.made.modules) do
    if m.source.kernel then
      return ("<i8"):pack(put(context, file(context, m, command_line(context))))
    end
  end
end

local function module(context)
  local files = {}
  for _, m in ipairs(context.made.modules) do
    if not m.source.kernel then
      local string_at = text(context, "a module's text", m.source.given_text or "")
      files[#files + 1] = file(context, m, string_at)
    end
  end
  if #files == 0 then return nil end
  return ("<i8i8"):pack(#files, pointers(context, files))
end

---Physical in base revision 3 alone.
local function rsdp(context)
  local found = context.rsdp
  if not found then return nil end
  return ("<i8"):pack(context.made.limine.revision == 3 and found.at or HHDM + found.at)
end

local function date_at_boot(context)
  return context.want.now and ("<i8"):pack(context.want.now)
end

local function executable_address(context)
  local executable = context.made.executable
  return ("<i8i8"):pack(context.made.base, executable.low + executable.slide)
end

local function tsc_frequency(context)
  return context.features.tsc_hz and ("<i8"):pack(context.features.tsc_hz)
end

local FEATURES <const> = {
  [id(0xf55038d8e2a1202f, 0x279426fcf5f59740)] = bootloader_info,
  [id(0x4b161536e598651e, 0xb390ad4a2f1f303a)] = executable_cmdline,
  [id(0x8c2f75d90bef28a8, 0x7045a4688eac00c3)] = firmware_type,
  [STACK_SIZE] = stack_size,
  [id(0x48dcf1cb8ad2b852, 0x63984e959a98244b)] = hhdm,
  [M.FRAMEBUFFER] = framebuffer,
  [id(0x95c1a0edab0944cb, 0xa4e5cb3842f7488a)] = paging_mode,
  [id(0x67cf3d9d378a806f, 0xe304acdfc50c3c62)] = memory_map,
  [id(0x13d86c035a1cd3e1, 0x2b0caa89d8f3026a)] = entry_point,
  [M.FILE] = executable_file,
  [id(0x3e7e279702be32af, 0xca1c4f3bd1280cee)] = module,
  [id(0xc5e77b6b397e7b43, 0x27637845accdcf3c)] = rsdp,
  [id(0x502746e184c088aa, 0xfbc5ec83e6327893)] = date_at_boot,
  [id(0x71ba76863cc55f63, 0xb2644a48c516a487)] = executable_address,
  [id(0x10f2ee1d87d195e4, 0xf747a2b78f6ddb31)] = tsc_frequency,
}

---Bytes of the stack: what the kernel asks for, 64 KiB at least, whole pages.
function M.stack_size(context)
  local request = context.made.limine.by_id[STACK_SIZE]
  if not request then return STACK_MIN end
  local size = field(context, request, REQUEST)
  if math.ult(STACK_MAX, size) then
    refuse(context.source, "EFBIG", "Limine: Stack Size feature: stack_size 0x%x is more than RAM "
      .. "can be", size)
  end
  return math.max((size + PAGE - 1) & -PAGE, STACK_MIN)
end

---A quadword over what was loaded of the kernel.
local function patch(made, address, value)
  return { at = made.base + address - made.executable.low, bytes = ("<i8"):pack(value) }
end

---What relocations and the base revision change in the kernel.
local function kernel_patches(made)
  local list, found = {}, made.limine
  for address, value in pairs(made.executable.words) do
    list[#list + 1] = patch(made, address, value)
  end
  if found.base then
    list[#list + 1] = patch(made, found.base + 8, found.revision)
    list[#list + 1] = patch(made, found.base + 16, 0) -- it is supported
  end
  return list
end

---All answers as they are from a physical address on; what is to be changed in the kernel; the
---entry that it asks for.
---@return string bytes
---@return { at: integer, bytes: string }[] patches
---@return integer? entry
function M.make(context, at)
  context.at, context.size, context.parts, context.line, context.entry = at, 0, {}, nil, nil
  local patches = kernel_patches(context.made)
  for _, request in ipairs(context.made.limine.requests) do
    local answer = FEATURES[request.id]
    local fields, revision
    if answer then fields, revision = answer(context, request) end
    if fields then
      local response = put(context, ("<i8"):pack(revision or 0) .. fields)
      patches[#patches + 1] = patch(context.made, request.address + RESPONSE, response)
    end
  end
  return table.concat(context.parts), patches, context.entry
end

return M
