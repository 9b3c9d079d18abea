-- base64.lua - bytes as base64 (RFC 4648, section 4).

local M = {}

local ALPHABET <const> = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"

local pairs_of ---@type table<integer, string>  two characters by 12 bits

local function prepare()
  pairs_of = {}
  for n = 0, 4095 do
    local high, low = (n >> 6) + 1, (n & 63) + 1
    pairs_of[n] = ALPHABET:sub(high, high) .. ALPHABET:sub(low, low)
  end
end

---@param bytes string
---@return string
function M.encode(bytes)
  if not pairs_of then prepare() end
  local parts, whole = {}, #bytes - #bytes % 3
  for i = 1, whole, 3 do
    local a, b, c = bytes:byte(i, i + 2)
    parts[#parts + 1] = pairs_of[a << 4 | b >> 4] .. pairs_of[(b & 15) << 8 | c]
  end
  local a, b = bytes:byte(whole + 1, #bytes)
  if b then
    parts[#parts + 1] = pairs_of[a << 4 | b >> 4] .. pairs_of[(b & 15) << 8]:sub(1, 1) .. "="
  elseif a then
    parts[#parts + 1] = pairs_of[a << 4] .. "=="
  end
  return table.concat(parts)
end

return M
