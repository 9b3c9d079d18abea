-- image/cpio.lua - archives that Linux unpacks as its first file system: format "newc", as
-- Documentation/driver-api/early-userspace/buffer-format.rst of Linux describes it; compressed on
-- demand (gzip, RFC 1952).
--
-- The same entries give the same bytes: no times, no owners, numbers in the order of the names.

local core = require "minikvm.core"

local M = {}

M.NAME_MAX, M.PATH_MAX = 255, 4095 -- Linux: bytes of a component, of a whole name
M.FILE_MAX = 0xffffffff -- the format's sizes have 8 hexadecimal digits
M.TRAILER = "TRAILER!!!"
local TYPES <const> = { file = 0x8000, directory = 0x4000, link = 0xa000, c = 0x2000, b = 0x6000 }
local GZIP_HEAD <const> = "\x1f\x8b\x08\0\0\0\0\0\0\xff" -- deflate, no time, unknown system
local ZLIB_HEAD <const>, ZLIB_TAIL <const> = 2, 4 -- RFC 1950: around the deflate stream
M.GZIP_MAX = 64 << 20

---@class minikvm.cpio.entry
---@field name string  relative, without "." and ".."
---@field type "file"|"directory"|"link"|"c"|"b"
---@field mode integer  permissions
---@field data string?  of a file; where a link leads
---@field major integer?  of a device
---@field minor integer?

local function pad(text)
  return text .. ("\0"):rep(-#text % 4)
end

---@param number integer  the inode's
local function encode(number, e)
  local data = e.data or ""
  local head = ("070701" .. ("%08X"):rep(13)):format(number, TYPES[e.type] | e.mode, 0, 0,
    e.type == "directory" and 2 or 1, 0, #data, 0, 0, e.major or 0, e.minor or 0, #e.name + 1, 0)
  return pad(head .. e.name .. "\0"), pad(data)
end

---The archive of a list of entries, in their order.
---@param entries minikvm.cpio.entry[]
---@return string
function M.pack(entries)
  local parts = {}
  for i, e in ipairs(entries) do
    parts[2 * i - 1], parts[2 * i] = encode(i, e)
  end
  parts[#parts + 1] = encode(0, { name = M.TRAILER, type = "file", mode = 0 })
  return table.concat(parts)
end

---Compressed bytes, GZIP_MAX of them at the most; nil when memory ran out.
---@param bytes string
---@return string?
function M.gzip(bytes)
  local stream = core.deflate(bytes)
  if not stream then return nil end
  return GZIP_HEAD .. stream:sub(ZLIB_HEAD + 1, -ZLIB_TAIL - 1)
    .. ("<I4I4"):pack(core.crc32(bytes), #bytes & 0xffffffff)
end

return M
