-- blk.lua - virtio's block device over kvm.disk: an image, or memory, as a disk of Linux's
-- virtio_blk.
--
--   vm.pci:attach(blk.new{ path = "disk.img" })
--
-- Virtual I/O Device 1.2, 5.2. What the guest writes stays in a layer that belongs to snapshots,
-- restores and forks, or with `write = true` goes to the file. A request that cannot be done, or
-- lies behind the end of the disk, is answered as an I/O error. Handlers run on the vCPU's thread
-- under the Lua lock; a request is done in pieces.

local disks = require "minikvm.device.disk"
local kvm = require "minikvm"
local options = require "minikvm.options"

local M = {}

local SECTOR <const>, HEADER <const> = 512, 16
local PIECE <const>, MOST <const> = 1 << 20, 64 << 20 -- bytes at once; of a request
local SEG_MAX <const>, READ_ONLY <const>, BLK_SIZE <const> = 1 << 2, 1 << 5, 1 << 6
local FLUSH <const>, DISCARD <const>, WRITE_ZEROES <const> = 1 << 9, 1 << 13, 1 << 14
local IN <const>, OUT <const>, DO_FLUSH <const>, GET_ID <const> = 0, 1, 4, 8
local DO_DISCARD <const>, DO_ZERO <const> = 11, 13
local OK <const>, IO_ERROR <const>, UNSUPPORTED <const> = 0, 1, 2
local SEGMENTS <const> = 254 -- of 256 entries, without header and status
local RANGES <const> = 64 -- of a discard

---Where `bytes` from a sector on are; nil when they are not all on the disk.
local function place(disk, sector, bytes)
  local size = disk:size()
  if bytes % SECTOR ~= 0 or bytes > MOST or math.ult(size // SECTOR, sector) then return end
  local at = sector * SECTOR
  return bytes <= size - at and at or nil
end

local function read(disk, buffer, sector)
  local bytes = buffer.writable - 1
  local at = place(disk, sector, bytes)
  if not at then return IO_ERROR end
  for done = 0, bytes - 1, PIECE do
    local piece = disk:read(at + done, math.min(PIECE, bytes - done))
    if not piece then return IO_ERROR end
    assert(buffer:write(piece))
  end
  return OK
end

local function write(disk, buffer, sector)
  local bytes = buffer.readable - HEADER
  local at = place(disk, sector, bytes)
  if not at then return IO_ERROR end
  for done = 0, bytes - 1, PIECE do
    local piece = buffer:read(math.min(PIECE, bytes - done))
    if not disk:write(at + done, piece) then return IO_ERROR end
  end
  return OK
end

local ZEROS <const> = ("\0"):rep(PIECE)

local function zero(disk, at, bytes)
  for done = 0, bytes - 1, PIECE do
    local piece = ZEROS:sub(1, math.min(PIECE, bytes - done))
    if not disk:write(at + done, piece) then return IO_ERROR end
  end
  return OK
end

---Ranges of sectors that are to read as zeros, or whose contents are of no use.
local function ranges(disk, buffer)
  local list = buffer:read()
  if #list % 16 ~= 0 or #list > RANGES * 16 then return IO_ERROR end
  local status = OK
  for i = 1, #list, 16 do
    local sector, count = ("<I8I4"):unpack(list, i)
    local at = place(disk, sector, count * SECTOR)
    status = status == OK and (at and zero(disk, at, count * SECTOR) or IO_ERROR) or status
  end
  return status
end

local handlers <const> = {
  [IN] = read, [OUT] = write, [DO_DISCARD] = ranges, [DO_ZERO] = ranges,
  [DO_FLUSH] = function(disk) return disk:flush() and OK or IO_ERROR end,
  [GET_ID] = function(_, buffer)
    buffer:write(("minikvm"):sub(1, buffer.writable - 1))
    return OK
  end,
}

local WRITES <const> = { [OUT] = true, [DO_DISCARD] = true, [DO_ZERO] = true }

local function serve(d, buffer, read_only)
  local kind, sector = ("<I4xxxxI8"):unpack(buffer:read(HEADER))
  local fn = handlers[kind]
  if not fn then return UNSUPPORTED end
  if read_only and WRITES[kind] then return IO_ERROR end
  return fn(d.own.disk, buffer, sector)
end

---A request without room for a header and a status is no request.
local function on_buffer(read_only)
  return function(d, _, buffer)
    if buffer.readable < HEADER or buffer.writable < 1 then
      return buffer:reject "a request has a header of 16 bytes and a status"
    end
    local status = serve(d, buffer, read_only)
    d.state.requests = d.state.requests + 1
    if status ~= OK then d.state.failed = d.state.failed + 1 end
    buffer:put(buffer.writable - 1, string.char(status))
    buffer:done()
  end
end

local function config(d)
  local most = MOST // SECTOR
  return ("<I8I4I4I4I4I8BBI2I4I4I4I4I4B"):pack(d.own.disk:size() // SECTOR, 0, SEGMENTS, 0, SECTOR,
    0, 0, 0, 1, most, RANGES, 1, most, RANGES, 0)
end

---Describes a disk, for vm.pci:attach(). d.state has `requests` and `failed`.
---  path, write, size, bytes, limit  as for kvm.disk: each device opens its own
---  read_only  true: the guest cannot write
---@param opts table
---@return minikvm.definition
function M.new(opts)
  local o = options.check("blk.new", opts, M.OPTIONS)
  local read_only = o.read_only or false
  o.read_only = nil
  return kvm.virtio{
    name = "blk", id = 2, class = 0x010000, queues = 1,
    features = SEG_MAX | BLK_SIZE | FLUSH | (read_only and READ_ONLY or DISCARD | WRITE_ZEROES),
    config = config, on_buffer = on_buffer(read_only),
    attach = function(d)
      local disk, why = kvm.disk(o)
      if not disk then error(why, 0) end
      d.own.disk = d:use_disk(disk)
    end,
    reset = function(d) d.state.requests, d.state.failed = 0, 0 end,
  }
end

M.OPTIONS = { read_only = "boolean" }
for key, rule in pairs(disks.OPTIONS) do M.OPTIONS[key] = rule end

return M
