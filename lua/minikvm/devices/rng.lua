-- rng.lua - virtio's entropy device: fills a driver's buffers with random bytes.
--
--   vm.pci:attach(rng.new())
--
-- Virtual I/O Device 1.2, 5.4. The host's /dev/urandom, unless `bytes` gives others.

local kvm = require "minikvm"
local options = require "minikvm.options"

local M = {}

local MOST <const> = 65536 -- of a buffer: less than it has room for is right

local function urandom(n)
  local file <close> = assert(io.open("/dev/urandom", "rb"))
  return file:read(n)
end

---@param opts? { bytes: (fun(n: integer): string)? }  bytes: gives n of them
---@return minikvm.definition
function M.new(opts)
  local bytes = options.check("rng.new", opts, { bytes = "function" }).bytes or urandom
  return kvm.virtio{ name = "rng", id = 4, queues = { 8 }, on_buffer = function(_, _, buffer)
    assert(buffer:write(bytes(math.min(buffer.writable, MOST))))
    buffer:done()
  end }
end

return M
