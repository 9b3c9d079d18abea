-- handle.lua - kinds of handles whose objects are kept in Lua; to scripts they are like those of the
-- core (src/lua/object.c).

local class = require "minikvm.class"
local options = require "minikvm.options"
local strict = require "minikvm.strict"

local KIND <const> = "minikvm.handle"

local M = {}

---A kind of them. remove() is done once, to-be-closed variables do it too.
---@param what string  for messages: "listener"
---@param fields string[]  of its objects; with "hits" those count
---@param remove fun(handle: table)  takes off again what the handle stands for
---@param count? fun(handle: table): integer  its hits until it is removed, if no field has them
---@return fun(handle: table): table make  makes a table one of the kind, and returns it
function M.kind(what, fields, remove, count)
  local Handle, meta = class(KIND)
  strict.seal(Handle, meta, what, table.move(fields, 1, #fields, 2, { "removed" }))

  function Handle:remove()
    options.self(what .. ":remove", self, KIND)
    if self.removed then return end
    if count then self.hits = self.hits end
    remove(self)
    self.removed = true
  end

  if count then
    function meta.__index(handle, key)
      if key ~= "hits" then return Handle[key] end
      local open, hits = pcall(count, handle)
      return open and hits or 0
    end
  end

  ---Nothing is left to take off when the VM is closed already.
  function meta:__close() pcall(Handle.remove, self) end

  function meta:__tostring()
    local facts = {}
    if self.hits then facts[1] = ("%d %s"):format(self.hits, self.hits == 1 and "hit" or "hits") end
    if self.removed then facts[#facts + 1] = "removed" end
    return facts[1] and ("%s (%s)"):format(KIND, table.concat(facts, ", ")) or KIND
  end

  return function(handle)
    handle.removed = false
    return setmetatable(handle, meta)
  end
end

return M
