-- folder.lua - folders that are made where they are not there yet, by LuaFileSystem, which may not
-- be installed.

local M = {}

---@return table? lfs
---@return string? why
function M.lfs()
  local found, lfs = pcall(require, "lfs")
  if found then return lfs end
  return nil, "LuaFileSystem is not installed (Debian: lua-filesystem)"
end

---@param path string
---@return true? made  or it is there; nil, "path: why"
---@return string? why
function M.make(path)
  local lfs = require "lfs"
  local made, why = lfs.mkdir(path)
  local mode = not made and lfs.attributes(path, "mode")
  if made or mode == "directory" then return true end
  return nil, ("%s: %s"):format(path, mode and "it is no folder" or why)
end

---The same with those above it.
---@param path string
---@return true? made
---@return string? why
function M.make_all(path)
  for at in path:gmatch "()/" do
    if at > 1 then M.make(path:sub(1, at - 1)) end
  end
  return M.make(path)
end

return M
