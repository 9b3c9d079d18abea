-- image/modules.lua - modules of a Linux kernel out of its modules tree (/lib/modules/VERSION), in
-- the order in which they can be loaded.
--
-- Which files there are is in the tree's modules.order, what is built into the kernel in
-- modules.builtin (Documentation/kbuild/kbuild.rst), what a module needs in its section .modinfo.
-- Modules that only a "softdep" names are not taken along.

local core = require "minikvm.core"
local elf = require "minikvm.image.elf"
local plan = require "minikvm.image.plan"

local refuse, inside = plan.refuse, plan.inside

local M = {}

local MODULE_MAX <const> = 64 << 20 -- bytes
local SECTION_NAME_AT <const> = 62 -- in an ELF64 header: e_shstrndx
local NOBITS <const> = 8 -- the type of a section that has no bytes in the file

---The bytes of a regular file; raises what plan.refuse() raises.
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
  local file, problem = io.open(path, "rb")
  if not file then error({ text = problem, code = "EIO" }, 0) end
  local bytes, failed = file:read "a"
  file:close()
  if not bytes then refuse(named, "EIO", "%s", failed) end
  return bytes
end

---A module's name as the kernel has it: "-" counts as "_".
local function name_of(path)
  return (path:match "([^/]+)%.ko[%w.]*$" or path):gsub("-", "_")
end

---Paths by name, of modules.order or modules.builtin.
local function read_list(tree, file)
  local list = {}
  for line in M.read_file(tree .. "/" .. file):gmatch "[^\n]+" do
    list[name_of(line)] = line
  end
  return list
end

-- ---- what a module needs ----

---The text of section .modinfo: NAME=VALUE, each ended by a NUL.
local function modinfo(path, bytes)
  local source = { name = path, size = #bytes, head = bytes:sub(1, plan.HEAD) }
  local h = elf.header(source)
  local size, names = h.class.section, ("<I2"):unpack(bytes, SECTION_NAME_AT + 1)
  local function damaged() refuse(source, "ENOEXEC", "it is no kernel module, or is cut short") end
  if h.class.bits ~= 64 or h.shentsize ~= size or names >= h.shnum
     or not inside(h.shoff, h.shnum * size, #bytes) then
    damaged()
  end
  local function section(i)
    local name, kind, _, _, offset, length = ("<I4I4I8I8I8I8"):unpack(bytes, h.shoff + i * size + 1)
    if kind == NOBITS then return name, "" end
    if not inside(offset, length, #bytes) then damaged() end
    return name, bytes:sub(offset + 1, offset + length)
  end
  local _, texts = section(names)
  for i = 0, h.shnum - 1 do
    local name, content = section(i)
    if texts:sub(name + 1, name + 9) == ".modinfo\0" then return content end
  end
  refuse(source, "ENOEXEC", "it is no kernel module: it has no section .modinfo")
end

---@return string bytes
---@return string[] names  of the modules that it needs
local function read_module(path)
  local bytes, names = M.read_file(path, MODULE_MAX), {}
  local list = ("\0" .. modinfo(path, bytes)):match "%zdepends=(%Z*)" or ""
  for name in list:gmatch "[^,]+" do names[#names + 1] = name_of(name) end
  return bytes, names
end

-- ---- which, in which order ----

---The file of a module, which a distribution may have compressed.
local function path_of(tree, line)
  local path = tree .. "/" .. line
  if core.file_size(path) then return path end
  for _, ending in ipairs{ ".xz", ".zst", ".gz" } do
    if core.file_size(path .. ending) then
      refuse({ name = path .. ending }, "EOPNOTSUPP", "it is compressed: unpack it first, to %s",
             path)
    end
  end
  return path -- the message about a missing file names this one
end

---The modules asked for and what they need, each after what it needs.
---@param tree string  such as /lib/modules/6.1.0-18-amd64
---@param wanted string[]
---@return { name: string, bytes: string }[]  raises what plan.refuse() raises
function M.load(tree, wanted)
  local order, builtin = read_list(tree, "modules.order"), read_list(tree, "modules.builtin")
  local list, seen = {}, {}
  local function add(name)
    if seen[name] or builtin[name] then return end
    seen[name] = true
    if not order[name] then
      refuse({ name = tree }, "ENOENT", "it has no module %q", name)
    end
    local bytes, needs = read_module(path_of(tree, order[name]))
    for _, needed in ipairs(needs) do add(needed) end
    list[#list + 1] = { name = name, bytes = bytes }
  end
  for _, name in ipairs(wanted) do add(name_of(name)) end
  return list
end

return M
