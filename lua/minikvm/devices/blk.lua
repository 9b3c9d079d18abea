-- blk.lua - virtio's block device over kvm.disk: an image, or memory, as a disk of Linux's
-- virtio_blk.
--
--   vm.pci:attach(blk.new{ path = "disk.img" })
--
-- Virtual I/O Device 1.2, 5.2. What the guest writes stays in a layer that belongs to snapshots,
-- restores and forks, or with `write = true` goes to the file. Requests are served in C
-- (src/dev/blk.h), by threads of the device's; one that cannot be done, or lies behind the end of
-- the disk, is answered as an I/O error. Here is what the driver is told of the disk.

local core = require "minikvm.core"
local disks = require "minikvm.device.disk"
local kvm = require "minikvm"
local options = require "minikvm.options"
local virtio = require "minikvm.device.virtio"

local M = {}

local SECTOR <const> = 512
local SEG_MAX <const>, READ_ONLY <const>, BLK_SIZE <const> = 1 << 2, 1 << 5, 1 << 6
local FLUSH <const>, DISCARD <const>, WRITE_ZEROES <const> = 1 << 9, 1 << 13, 1 << 14
local SEGMENTS <const> = 254 -- of 256 entries, without header and status
local MOST <const> = (64 << 20) // SECTOR -- sectors of a range of a discard
local RANGES <const> = 64 -- of one

local function engine_of(d) return d.own.virtio.core end

---struct virtio_blk_config (5.2.4).
local function config(d)
  return ("<I8I4I4I4I4I8BBI2I4I4I4I4I4B"):pack(d.disks[1]:size() // SECTOR, 0, SEGMENTS, 0, SECTOR,
    0, 0, 0, 1, MOST, RANGES, 1, MOST, RANGES, 1)
end

---The options of the disk, and whether it is only read.
local function split(opts)
  local o = {}
  for key, value in pairs(opts) do
    if key ~= "read_only" then o[key] = value end
  end
  return o, opts.read_only or false
end

---For kvm.vm's option: a list of paths, and of options.
---@return table[]?
---@return string? why
function M.check_list(value)
  if type(value) ~= "table" then
    return nil, "expected a list of paths, or of options of blk.new"
  end
  local list = {}
  for i, entry in ipairs(value) do
    list[i] = type(entry) == "string" and { path = entry } or entry
    if type(list[i]) ~= "table" then
      return nil, ("[%d]: expected a path, or options of blk.new"):format(i)
    end
    options.check(("kvm.vm: disks[%d]"):format(i), list[i], M.OPTIONS)
  end
  if #list == 0 then return nil, "expected a list of paths, or of options of blk.new" end
  return list
end

---@param vm minikvm.vm
---@param list table[]  that check_list() has seen
---@return boolean? done  nil, why, code when one cannot be opened
---@return string? why
---@return string? code
function M.attach_list(vm, list)
  for _, opts in ipairs(list) do
    local disk, why, code = kvm.disk((split(opts)))
    if not disk then return nil, why, code end
    disk:close() -- the device opens its own
    vm.pci:attach(M.new(opts))
  end
  return true
end

local function counts(d)
  local requests, failed, failure = core.blk_counts(engine_of(d))
  return { requests = requests, failed = failed, failure = failure }
end

---What d.state shows: `requests`, `failed`, `failure`.
local function counters(d, state)
  return setmetatable(state, { __index = function(_, key) return counts(d)[key] end })
end

---Describes a disk, for vm.pci:attach(). d.state has `requests`, how many of them `failed`, and the
---`failure` of the last of those, a sentence.
---  path, write, size, bytes, limit  as for kvm.disk: each device opens its own
---  read_only  true: the guest cannot write
---@param opts table
---@return minikvm.definition
function M.new(opts)
  local o, read_only = split(options.check("blk.new", opts, M.OPTIONS))
  return virtio.define_in({
    name = "blk", id = 2, class = 0x010000, queues = 1,
    features = SEG_MAX | BLK_SIZE | FLUSH | (read_only and READ_ONLY or DISCARD | WRITE_ZEROES),
    config = config,
    attach = function(d)
      local disk, why = kvm.disk(o)
      if not disk then error(why, 0) end
      core.blk_set_disk(engine_of(d), d:use_disk(disk), read_only)
    end,
    reset = function(d)
      counters(d, d.state)
      core.blk_set_counts(engine_of(d), 0, 0)
    end,
    save = counts,
    load = function(d, state)
      d.state = counters(d, {})
      core.blk_set_counts(engine_of(d), state.requests, state.failed, state.failure)
    end,
  }, "blk.new", core.blk_new)
end

M.OPTIONS = options.declare("blk.new", { read_only = "boolean" }, disks.OPTIONS)

return require("minikvm.strict").module(M, "devices.blk")
