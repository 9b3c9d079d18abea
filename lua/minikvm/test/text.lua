-- text.lua - texts of tests and guests, which may hold any bytes, for reports.

local M = {}

---What XML 1.0 allows: characters as of section 2.2, in UTF-8.
local function is_character(code)
  return code >= 0x20 and code <= 0xd7ff or code == 9 or code == 10 or code == 13
    or code >= 0xe000 and code <= 0xfffd or code >= 0x10000 and code <= 0x10ffff
end

---Text as UTF-8 and without what XML cannot hold: such bytes appear as \xHH.
---@param text string
---@return string
function M.legal(text)
  local parts, at = {}, 1
  local function show(from, to)
    return (text:sub(from, to):gsub(".", function(c) return ("\\x%02x"):format(c:byte()) end))
  end
  while at <= #text do
    local good = text:match("^[\t\n\r -~]+", at)
    if good then
      parts[#parts + 1], at = good, at + #good
    else
      local next_at = utf8.len(text, at, at) and utf8.offset(text, 2, at)
      if next_at and is_character(utf8.codepoint(text, at)) then
        parts[#parts + 1] = text:sub(at, next_at - 1)
      else
        next_at = next_at or at + 1
        parts[#parts + 1] = show(at, next_at - 1)
      end
      at = next_at
    end
  end
  return table.concat(parts)
end

---The two ends of something long, and what is missing between them.
---@param first string
---@param missing integer  bytes
---@param last string
---@return string
function M.between(first, missing, last)
  return ("%s\n[... %d bytes left out ...]\n%s"):format(first, missing, last)
end

---A text of which the middle is left out when it is too long.
---@param text string
---@param most integer  bytes that are kept
---@return string
function M.cut(text, most)
  if #text <= most then return text end
  local half = most // 2
  return M.between(text:sub(1, half), #text - 2 * half, text:sub(-half))
end

return M
