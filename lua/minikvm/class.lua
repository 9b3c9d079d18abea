-- class.lua - kinds of objects that are made in Lua.
--
-- What a script gets is an object, never its metatable, not even as a field of the object: a
-- finalizer set there would run where nothing can end it (docs/limits.md, --safe).

---@param name string  "minikvm.screen": what getmetatable(object) answers
---@return table methods
---@return table metatable  for setmetatable(), and for metamethods
return function(name)
  local methods = {}
  return methods, { __index = methods, __name = name, __metatable = name }
end
