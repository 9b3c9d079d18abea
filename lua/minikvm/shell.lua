-- shell.lua - words of a command line for sh.

local M = {}

---A word as sh takes it for one.
---@param word string
---@return string
function M.quote(word)
  if word:find "^[%w%-=/._,:+@]+$" then return word end
  return "'" .. word:gsub("'", "'\\''") .. "'"
end

---A command line of these words.
---@param argv string[]
---@return string
function M.line(argv)
  local words = {}
  for i, word in ipairs(argv) do words[i] = M.quote(word) end
  return table.concat(words, " ")
end

return M
