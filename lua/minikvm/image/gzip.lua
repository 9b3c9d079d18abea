-- image/gzip.lua - kernels that are packed as a whole, as boot loaders unpack them: RFC 1952. At
-- most 64 MiB, packed and unpacked.

local core = require "minikvm.core"
local plan = require "minikvm.image.plan"

local M = {}

local MOST <const>, LEAST <const> = 64 << 20, 18 -- bytes; of header and trailer

---What is in it. Its last four bytes say how much that is.
---@return string
function M.unpack(source)
  if source.size < LEAST or source.size > MOST then
    plan.refuse(source, "EFBIG", "gzip: %d bytes are not %d to %d (format=\"flat\" loads them as "
      .. "they are)", source.size, LEAST, MOST)
  end
  local packed = source:read(0, source.size)
  local size = ("<I4"):unpack(packed, -4)
  local bytes = 0 < size and size <= MOST and core.inflate(packed, size) or nil
  if bytes and #bytes == size then return bytes end
  plan.refuse(source, "ENOEXEC", "gzip: damaged, cut short, or more than %d bytes (format=\"flat\" "
    .. "loads it as it is)", MOST)
end

return M
