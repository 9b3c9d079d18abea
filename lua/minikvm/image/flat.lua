-- image/flat.lua - images without headers: bytes as they are, and a PC's boot sector.
--
-- A boot sector is loaded as a PC's BIOS does it (BIOS Boot Specification 1.01, section 6.5.1): the
-- first sector at 0x7c00, CS:IP = 0:0x7c00, the drive in DL. There is no BIOS that it could call.

local plan = require "minikvm.image.plan"

local M = {}

local SECTOR <const>, BOOT_AT <const> = 512, 0x7c00
local HARD_DISK <const>, FLOPPY <const> = 0x80, 0
---Bytes of a whole floppy disk of each common format.
local FLOPPIES <const> = { [368640] = true, [737280] = true, [1228800] = true, [1474560] = true,
                           [2949120] = true }

local function flat(source, want)
  return { segments = { { at = want.at, linear = want.at, offset = 0, file_bytes = source.size,
                          mem_bytes = source.size } },
           entry = want.bits == 16 and 0 or want.at }
end

local function boot(source, want)
  if want.bits ~= 16 then
    plan.refuse(source, "EINVAL", "a boot sector starts in real mode: %s", plan.as_mode "real")
  elseif source.head:sub(511, 512) ~= "\x55\xaa" then
    plan.refuse(source, "ENOEXEC", "not a boot sector: no signature 0x55 0xaa in bytes 510 and 511")
  end
  return { segments = { { at = BOOT_AT, linear = BOOT_AT, offset = 0, file_bytes = SECTOR,
                          mem_bytes = SECTOR } },
           entry = BOOT_AT, cs = 0, regs = { edx = FLOPPIES[source.size] and FLOPPY or HARD_DISK } }
end

function M.segments(source, want, format)
  return (format == "boot" and boot or flat)(source, want)
end

return M
