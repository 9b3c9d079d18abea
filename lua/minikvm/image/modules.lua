-- image/modules.lua - modules of a Linux kernel out of its modules tree (/lib/modules/VERSION), in
-- the order in which they can be loaded.
--
-- Which files there are is in the tree's modules.order, what is built into the kernel in
-- modules.builtin (Documentation/kbuild/kbuild.rst), what a module needs in its section .modinfo:
-- "depends" what it cannot do without, "softdep" what it asks for when it runs (modprobe.d(5)), by
-- names that modules.alias explains (depmod(8)). Files may be compressed, as distributions do.

local core = require "minikvm.core"
local elf = require "minikvm.image.elf"
local plan = require "minikvm.image.plan"
local sources = require "minikvm.image.source"
local symbols = require "minikvm.image.symbols"

local refuse = plan.refuse

local M = {}

local MODULE_MAX <const> = 64 << 20 -- bytes
local NOT_FOUND <const> = 127 -- the status of a shell

---A module's name as the kernel has it: "-" counts as "_".
local function name_of(path)
  return (path:match "([^/]+)%.ko[%w.]*$" or path):gsub("-", "_")
end

---Paths by name, of modules.order or modules.builtin.
local function read_list(tree, file)
  local list = {}
  for line in sources.read_file(tree .. "/" .. file):gmatch "[^\n]+" do
    list[name_of(line)] = line
  end
  return list
end

-- ---- what a module needs ----

---The text of section .modinfo: NAME=VALUE, each ended by a NUL.
local function modinfo(path, bytes)
  local source = sources.of_bytes(path, bytes)
  elf.header(source)
  local at, size, kind = symbols.section(source, ".modinfo")
  if not at or kind == symbols.NOBITS then
    refuse(source, "ENOEXEC", "it is no kernel module, or is cut short: it has no section .modinfo")
  end
  return source:read(at, size)
end

---All values of a name in .modinfo.
local function values(info, name)
  local list = {}
  for value in ("\0" .. info):gmatch("%f[^%z]" .. name .. "=(%Z*)") do list[#list + 1] = value end
  return list
end

---Adds the names in a softdep's value: "pre: a b post: c".
local function add_soft(needs, value)
  local list = needs.before
  for word in value:gmatch "%S+" do
    if word == "pre:" or word == "post:" then
      list = word == "pre:" and needs.before or needs.after
    else
      list[#list + 1] = name_of(word)
    end
  end
end

---@return { depends: string[], before: string[], after: string[] }  names of modules
local function read_needs(info)
  local needs = { depends = {}, before = {}, after = {} }
  for _, value in ipairs(values(info, "depends")) do
    for name in value:gmatch "[^,]+" do needs.depends[#needs.depends + 1] = name_of(name) end
  end
  for _, value in ipairs(values(info, "softdep")) do add_soft(needs, value) end
  return needs
end

-- ---- files ----

---Programs that unpack to standard output, by ending; their Debian packages.
local UNPACKERS <const> = { [".xz"] = { "xz", "xz-utils" }, [".zst"] = { "zstd", "zstd" } }

---What a program unpacks.
local function unpack_by(program, package, path)
  local named = { name = path }
  local pipe <close> = assert(io.popen(("exec %s -dcq '%s' 2>/dev/null"):format(
    program, path:gsub("'", "'\\''")), "r"))
  local bytes = pipe:read(MODULE_MAX + 1) or ""
  local ok, _, status = pipe:close()
  if #bytes > MODULE_MAX then
    refuse(named, "EFBIG", "unpacked it is more than %d bytes", MODULE_MAX)
  elseif status == NOT_FOUND then
    refuse(named, "ENOENT", "it is compressed, and there is no %s (Debian: apt-get install %s)",
           program, package)
  elseif not ok then
    refuse(named, "EBADMSG", "%s cannot unpack it: it is damaged", program)
  end
  return bytes
end

---The bytes of a module, which a distribution may have compressed.
local function read_module(path)
  if core.file_size(path) then return sources.read_file(path, MODULE_MAX) end
  for ending, unpacker in pairs(UNPACKERS) do
    if core.file_size(path .. ending) then
      return unpack_by(unpacker[1], unpacker[2], path .. ending)
    end
  end
  local packed = path .. ".gz"
  if not core.file_size(packed) then return sources.read_file(path) end -- says what is missing
  return core.inflate(sources.read_file(packed, MODULE_MAX), MODULE_MAX)
    or refuse({ name = packed }, "EBADMSG", "it is damaged, or more than %d bytes", MODULE_MAX)
end

-- ---- which, in which order ----

---Names of modules by alias, of those that need no pattern; none in a tree without such a list.
local function read_aliases(tree)
  local list = {}
  if not core.file_size(tree .. "/modules.alias") then return list end
  for alias, name in sources.read_file(tree .. "/modules.alias"):gmatch "alias (%S+) (%S+)" do
    list[name_of(alias)] = list[name_of(alias)] or name_of(name)
  end
  return list
end

---The module that a softdep means, whose name may be an algorithm's; nil when the tree has none.
local function find_soft(have, aliases, name)
  local plain = name:gsub("^crypto_", "")
  for _, candidate in ipairs{ name, aliases[name] or name, plain, plain .. "_generic" } do
    if have[candidate] then return candidate end
  end
end

---The modules asked for and what they need, each after what it needs.
---@param tree string  such as /lib/modules/6.1.0-18-amd64
---@param wanted string[]
---@return { name: string, bytes: string }[]  raises what plan.refuse() raises
function M.load(tree, wanted)
  local order, builtin = read_list(tree, "modules.order"), read_list(tree, "modules.builtin")
  local aliases, list, seen = read_aliases(tree), {}, {}
  local add
  local function add_soft_ones(names)
    for _, name in ipairs(names) do
      local found = find_soft(order, aliases, name)
      if found then add(found) end
    end
  end
  function add(name)
    if seen[name] or builtin[name] then return end
    seen[name] = true
    if not order[name] then
      refuse({ name = tree }, "ENOENT", "it has no module %q", name)
    end
    local path = tree .. "/" .. order[name]
    local bytes = read_module(path)
    local needs = read_needs(modinfo(path, bytes))
    add_soft_ones(needs.before)
    for _, needed in ipairs(needs.depends) do add(needed) end
    list[#list + 1] = { name = name, bytes = bytes }
    add_soft_ones(needs.after)
  end
  for _, name in ipairs(wanted) do add(name_of(name)) end
  return list
end

return M
