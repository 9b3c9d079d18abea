-- image/source.lua - where the bytes of an image come from: a string, or a file, which stays open
-- for its VM when it is large (src/lua/load.c). A VM that is made from another one opens it again.

local core = require "minikvm.core"
local planner = require "minikvm.image.plan"

local refuse = planner.refuse

local M = {}

local KEPT_MAX <const> = 1 << 20
local PIECE <const> = 64 << 20 -- of what is read at once: a script can be interrupted in between

---The result of a function of the core; raises what it returns instead.
function M.check(source, result, why, code)
  if result then return result end
  refuse(source, code, "%s", why)
end

local check = M.check

---Methods of sources. `file` is a number of core.image_open.
local source_methods = {}
source_methods.__index = source_methods

---Opens the file again for a VM that was made from another one, if it is still the same.
local function reopen(s)
  local file = s.path and core.image_open(s.vm, s.path)
  if not file then return end
  if core.image_identity(s.vm, file) == s.identity then
    s.file = file
  else
    core.image_close(s.vm, file)
  end
end

---Whether somebody wrote to its file since it was opened.
function source_methods:is_changed()
  return self.file and core.image_identity(self.vm, self.file) ~= self.identity
end

function source_methods:read(offset, bytes)
  if self.bytes then return self.bytes:sub(offset + 1, offset + bytes) end
  if not self.file and self.inherited and self.vm.state ~= "closed" then reopen(self) end
  if not self.file or self.vm.state == "closed" then
    refuse(self, "ESTALE", "its file is closed")
  elseif self:is_changed() then
    refuse(self, "ESTALE", "the file was written to since it was loaded: load it again")
  end
  return check(self, core.image_read(self.vm, self.file, offset, bytes))
end

---Puts a part of it into RAM.
function source_methods:put(vm, at, offset, bytes)
  while bytes > 0 do
    local n = math.min(bytes, PIECE)
    check(self, core.image_put(vm, at, self.bytes or self.file, offset, n))
    at, offset, bytes = at + n, offset + n, bytes - n
  end
end

function source_methods:close()
  if self.file and self.vm.state ~= "closed" then core.image_close(self.vm, self.file) end
  self.file = nil
end

---@return minikvm.image.source
function M.new(vm, given)
  local s = setmetatable({ name = given.path or given.name or "image", text = given.text,
                           bytes = given.bytes, vm = vm }, source_methods)
  if s.bytes then
    s.size = #s.bytes
  else
    local file, size, code = core.image_open(vm, given.path)
    if not file then error({ text = size, code = code }, 0) end
    s.file, s.size = file, size
    s.identity, s.path = core.image_identity(vm, file)
  end
  if s.size == 0 then
    s:close()
    refuse(s, "EINVAL", "the image is empty")
  end
  return s
end

---The bytes of a regular file of the host; raises what refuse() raises.
---@param path string
---@param most integer?  bytes
---@return string
function M.read_file(path, most)
  local named = { name = path }
  if path:find "%z" then refuse(named, "EINVAL", "a path of the host has no NUL in it") end
  local size, why, code = core.file_size(path)
  if not size then error({ text = why, code = code }, 0) end
  if most and size > most then
    refuse(named, "EFBIG", "%d bytes are too many: %d at the most", size, most)
  end
  local file <close>, problem = io.open(path, "rb")
  if not file then error({ text = problem, code = "EIO" }, 0) end
  local bytes, failed = file:read(size > 0 and size or "a") -- room for so many is made before
  if failed then refuse(named, "EIO", "%s", failed) end
  return bytes or ""
end

---Bytes that were read by someone else, to be looked into.
---@return minikvm.image.source
function M.of_bytes(name, bytes)
  return setmetatable({ name = name, bytes = bytes, size = #bytes,
                        head = bytes:sub(1, planner.HEAD) }, source_methods)
end

---Takes small files into memory; what a file begins with.
function M.read_start(s)
  if s.file and s.size <= KEPT_MAX then
    s.bytes = s:read(0, s.size)
    s:close()
  end
  s.head = s.size <= planner.HEAD and s.bytes or s:read(0, math.min(s.size, planner.HEAD))
end

---An image as another VM has it: its file is opened there when it is needed.
function M.inherited(image, vm)
  local s = image.source
  if s.bytes or not s.path then return image end
  local heir = setmetatable({ inherited = true, vm = vm }, source_methods)
  for _, key in ipairs{ "name", "path", "size", "head", "start", "identity", "symbols", "dwarf" } do
    heir[key] = s[key]
  end
  return { source = heir, plan = image.plan }
end

---A file opened to be looked into, for image/saved.lua and image/symbol_file.lua; raises what
---refuse() raises.
---@return minikvm.image.source
function M.open(vm, path)
  local source = M.new(vm, { path = path })
  local ok, problem = pcall(M.read_start, source)
  if ok then return source end
  source:close()
  error(problem, 0)
end

return M
