-- disk.lua - kvm.disk: what a guest's disk holds; and disks as a part of a device's state.
--
-- A disk (src/lua/disk.c) belongs to one device, which reads and writes it when its guest asks, and
-- is closed with it. What guests write stays in a layer in memory, which snapshots, restores and
-- forks share; or goes to the file, which is then not a part of snapshots.

local core = require "minikvm.core"
local options = require "minikvm.options"

local M = {}

local LIMIT <const> = 1 << 30
local SECTOR <const> = 512
local SIZE_MAX <const> = 1 << 62

---Those of kvm.disk, for options.check().
M.OPTIONS = options.declare("kvm.disk", {
  path = "text", write = "boolean", size = "size", bytes = "string", limit = "size",
})

---What is wrong with options that are right each by itself; nil when nothing is.
local function conflict(o)
  if o.path and (o.size or o.bytes) then
    return "options 'size' and 'bytes' are for a disk without 'path'"
  elseif o.write and not o.path then
    return "option 'write' is for a file: give its 'path'"
  elseif not o.path and not o.size and (o.bytes or "") == "" then
    return "give 'path', an image, or the 'size' or 'bytes' of a disk in memory"
  elseif o.size and (o.size % SECTOR ~= 0 or o.size > SIZE_MAX) then
    return ("option 'size': %d bytes are not whole sectors of 512"):format(o.size)
  elseif o.size and o.bytes and #o.bytes > o.size then
    return ("options 'bytes' and 'size': %d bytes do not fit into %d"):format(#o.bytes, o.size)
  end
end

---Opens an image, or makes a disk in memory.
---  path   the image: a file, or a block device; its last sector is filled up with zeros
---  write  true: what guests write goes to the file; else it stays in memory, and the file as it is
---  size   without path: bytes, all zero, sectors of 512
---  bytes  without path: what it begins with
---  limit  how many bytes written may be in memory (1G); then writing fails
---@param opts { path: string?, write: boolean?, size: integer|string|nil, bytes: string?,
---  limit: integer|string|nil }
---@return minikvm.disk? disk  or nil, "path: why", "ENAME"
---@return string? why
---@return string? code
function M.open(opts)
  local o = options.check("kvm.disk", opts, M.OPTIONS)
  local wrong = conflict(o)
  if wrong then core.blame("kvm.disk: " .. wrong) end
  o.limit, o.size = o.limit or LIMIT, o.size or o.bytes and #o.bytes
  return core.open_disk(o)
end

-- ---- a device's ----

---For options: a disk.
M.check = options.object("minikvm.disk", "a disk of kvm.disk")

---A disk becomes a part of the device: closed, reset and saved with it.
---@param d minikvm.device
---@param disk minikvm.disk
---@return minikvm.disk
function M.use(d, disk)
  options.argument("device:use_disk", "disk", disk, M.check)
  core.disk_join(disk, d.vm)
  d.disks[#d.disks + 1] = disk
  return disk
end

---For options: a list of disks.
function M.check_list(list)
  if type(list) ~= "table" then return nil, "expected a list of disks" end
  for _, disk in ipairs(list) do
    local ok, why = M.check(disk)
    if not ok then return nil, why end
  end
  return list
end

---Back to what they held when they were opened.
function M.reset(d)
  for _, disk in ipairs(d.disks) do core.disk_put(disk, nil) end
end

function M.close(d)
  for _, disk in ipairs(d.disks) do disk:close() end
end

---What a snapshot keeps of a device's disks: as values, and their layers into a list.
---@param d minikvm.device
---@param layers table
---@return { size: integer, sum: integer?, layered: boolean }[]
function M.save(d, layers)
  local list = {}
  for i, disk in ipairs(d.disks) do
    local layer = core.disk_layer(disk)
    local sum = layer and core.disk_sum(disk)
    if layer then layers[#layers + 1] = layer end
    list[i] = { size = disk:size(), sum = sum or nil, layered = layer ~= nil }
  end
  return list
end

local function misfit(d, i, saved, disk)
  if type(saved) ~= "table" then return ("the disks of device %q are damaged"):format(d.name) end
  local what = ("disk %d of device %q "):format(i, d.name)
  local layered = core.disk_layer(disk) ~= nil
  if saved.size ~= disk:size() then
    return what .. ("had %s bytes, it has %d"):format(tostring(saved.size), disk:size())
  elseif saved.layered ~= layered then
    return what .. (layered and "wrote to its file then" or "writes to its file now")
  end
  local sum, why = nil, nil
  if layered and saved.sum then sum, why = core.disk_sum(disk) end
  if why then return what .. ("cannot be read: %s"):format(why) end
  if sum ~= saved.sum then
    return what .. "is another image now, or was written to: what the guest wrote does not fit it"
  end
end

---Why saved disks are not those of a device; nil when they are.
---@param d minikvm.device
---@param saved table?
---@return string?
function M.misfit(d, saved)
  saved = type(saved) == "table" and saved or {}
  if #saved ~= #d.disks then
    return ("device %q had %d disks, it has %d"):format(d.name, #saved, #d.disks)
  end
  for i, disk in ipairs(d.disks) do
    local why = misfit(d, i, saved[i], disk)
    if why then return why end
  end
end

---Gives the disks back what they held, taking layers off the list.
---@param d minikvm.device
---@param layers table
function M.load(d, layers)
  for _, disk in ipairs(d.disks) do
    if core.disk_layer(disk) then core.disk_put(disk, table.remove(layers, 1)) end
  end
end

return M
