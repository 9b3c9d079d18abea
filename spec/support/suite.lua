-- suite.lua - small suites of spec files in a folder of their own, for the specs of the runner.

local lfs = require "lfs"
local program = require "support.program"
local support = require "support.guest"

local M = {}

---@class suite
---@field folder string
local Suite = {}
Suite.__index = Suite

---Makes the files of a table, path -> text, and the folders they need.
---@param files table<string, string>
---@return suite
function M.new(files)
  local self = setmetatable({ folder = program.folder() }, Suite)
  for path, text in pairs(files) do self:write(path, text) end
  return self
end

function Suite:write(path, text)
  for at in path:gmatch "()/" do lfs.mkdir(self.folder .. "/" .. path:sub(1, at - 1)) end
  local file = assert(io.open(self.folder .. "/" .. path, "wb"))
  file:write(text)
  file:close()
end

---The text of one of its files; nil when there is none.
function Suite:read(path)
  return support.read_file(self.folder .. "/" .. path)
end

---Runs `minikvm test` in it. In the words, D stands for the folder; without a path it is all of it.
---@param words? string
---@return { status: integer, out: string, err: string, last: string }
function Suite:test(words)
  words = words or ""
  if not words:find "%f[%w]D%f[%W]" then words = words .. " D" end
  words = words:gsub("%f[%w]D%f[%W]", self.folder)
  local r = program.run(("P test --artefacts %s/kept %s"):format(self.folder, words))
  r.out = r.out:gsub(self.folder:gsub("%p", "%%%0") .. "/", "")
  r.last = ("\n" .. r.out):match "^.*\n([^\n]*)\n$"
  return r
end

---All files below a folder of it, sorted.
function Suite:files(path)
  local found = {}
  local function collect(at)
    for name in lfs.dir(self.folder .. "/" .. at) do
      local inner = at .. "/" .. name
      if not name:find "^%.%.?$" then
        if lfs.attributes(self.folder .. "/" .. inner, "mode") == "directory" then
          collect(inner)
        else
          found[#found + 1] = inner
        end
      end
    end
  end
  if lfs.attributes(self.folder .. "/" .. path) then collect(path) end
  table.sort(found)
  return found
end

function Suite:remove()
  os.execute("rm -rf " .. self.folder)
end

Suite.__close = Suite.remove

return M
