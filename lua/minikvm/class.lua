-- class.lua - kinds of objects that are made in Lua.
--
-- What a script gets is an object, never its metatable, not even as a field of the object.

local M = { made = {} } -- made: the methods of each kind so far, in a list; for --safe

---@param name string  "minikvm.screen": what getmetatable(object) answers
---@return table methods
---@return table metatable  for setmetatable(), and for metamethods
function M.new(name)
  local methods = {}
  M.made[#M.made + 1] = { name = name, methods = methods }
  return methods, { __index = methods, __name = name, __metatable = name }
end

return setmetatable(M, { __call = function(_, name) return M.new(name) end })
