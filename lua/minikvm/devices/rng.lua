-- rng.lua - virtio's entropy device: fills a driver's buffers with random bytes.
--
--   vm.pci:attach(rng.new())
--
-- Virtual I/O Device 1.2, 5.4. The host's random numbers, unless `bytes` gives others.

local core = require "minikvm.core"
local kvm = require "minikvm"
local options = require "minikvm.options"

local M = {}

local MOST <const> = 65536 -- of a buffer: less than it has room for is right

local OPTIONS <const> = options.declare("rng.new", { bytes = "function" })

---@param opts? { bytes: (fun(n: integer): string)? }  bytes: gives n of them
---@return minikvm.definition
function M.new(opts)
  local bytes = options.check("rng.new", opts, OPTIONS).bytes or core.random
  return kvm.virtio{ name = "rng", id = 4, queues = { 8 }, on_buffer = function(_, _, buffer)
    assert(buffer:write(bytes(math.min(buffer.writable, MOST))))
    buffer:done()
  end }
end

return require("minikvm.strict").module(M, "devices.rng")
