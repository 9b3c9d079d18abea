-- image/initrd.lua - kvm.initrd: the first file system of a Linux guest, made from a table.
--
-- What is misuse raises; a file of the host that cannot be used is nil, text, code.

local core = require "minikvm.core"
local cpio = require "minikvm.image.cpio"
local elf = require "minikvm.image.elf"
local options = require "minikvm.options"
local plan = require "minikvm.image.plan"
local modules = require "minikvm.image.modules"
local sources = require "minikvm.image.source"

local M = {}

local INTERP <const> = 3 -- a program header's type
local MODE_FILE <const>, MODE_DIRECTORY <const>, MODE_NODE <const>, MODE_LINK <const> =
  tonumber("755", 8), tonumber("755", 8), tonumber("600", 8), tonumber("777", 8)
local MODE_MAX <const> = tonumber("7777", 8)
local MINOR_MAX <const>, MAJOR_MAX <const> = 0xfffff, 0xfff -- Linux: dev_t has 12 and 20 bits

-- ---- names ----

---A name in the archive, tidied; nil and what is wrong with it.
---@param name any
---@return string?
---@return string? why
function M.tidy(name)
  if type(name) ~= "string" then
    return nil, ("expected a path, got a %s"):format(type(name))
  end
  local function bad(why) return nil, ("path %q: %s"):format(name, why) end
  if name:find "%z" then return bad "it has a NUL in it" end
  if name:sub(1, 1) == "/" then return bad "give it relative to the root: without '/' in front" end
  local parts = {}
  for part in name:gmatch "[^/]+" do
    if part == ".." then return bad "'..' leads out of the archive" end
    if #part > cpio.NAME_MAX then return bad "a component is longer than 255 bytes" end
    if part ~= "." then parts[#parts + 1] = part end
  end
  local tidied = table.concat(parts, "/")
  if tidied == "" then return bad "it names nothing" end
  if tidied == cpio.TRAILER then return bad "it is what ends an archive" end
  if #tidied > cpio.PATH_MAX then return nil, "a path is longer than 4095 bytes" end
  return tidied
end

local function blame(format, ...)
  core.blame("kvm.initrd: " .. format:format(...))
end

---Adds an entry; `what` it comes from, for messages.
local function add(tree, what, name, entry)
  local tidied, why = M.tidy(name)
  if not tidied then blame("%s: %s", what, why) end
  if tree[tidied] then
    blame("%s: path %q is there twice: %s has it, too", what, tidied, tree[tidied].what)
  end
  entry.name, entry.what = tidied, what
  tree[tidied] = entry
end

---Adds the directories that names need; raises when one of them is something else.
local function add_parents(tree)
  for _, name in ipairs(options.keys(tree)) do
    for slash in name:gmatch "()/" do
      local parent = name:sub(1, slash - 1)
      local there = tree[parent]
      if not there then
        tree[parent] = { name = parent, type = "directory", mode = MODE_DIRECTORY }
      elseif there.type ~= "directory" then
        blame("%s: path %q needs a directory %q, which is a %s of %s", tree[name].what, name,
              parent, there.type, there.what)
      end
    end
  end
end

-- ---- what the table may hold ----

---Keys in an order of their own, so that the first mistake is always the same one.
local function sorted(map)
  local keys = {}
  for key in pairs(map) do keys[#keys + 1] = key end
  table.sort(keys, function(a, b) return tostring(a) < tostring(b) end)
  return keys
end

local function a_table(what)
  return function(value)
    if type(value) == "table" then return value end
    return nil, ("expected %s, got a %s"):format(what, type(value))
  end
end

local FILE <const> = options.declare("kvm.initrd.files", {
  path = "string", bytes = "string", mode = "permissions",
})

---A string, a function or { path= | bytes=, mode= } as { path=|bytes=|make=, mode= }.
local function check_file(where, value)
  if type(value) == "string" then return { path = value } end
  if type(value) == "function" then return { make = value } end
  if type(value) ~= "table" then
    core.blame(("%s: expected a path of the host, { bytes = ... } or a function, got a %s"):format(
      where, type(value)))
  end
  local file = options.check(where, value, FILE)
  if (file.path == nil) == (file.bytes == nil) then
    core.blame(("%s: give either 'path' or 'bytes'"):format(where))
  end
  return file
end

---The bytes of a file; raises a refusal.
local function contents(where, file)
  if file.path then
    return sources.read_file(file.path, cpio.FILE_MAX)
  elseif file.bytes then
    return file.bytes
  end
  local bytes = file.make()
  if type(bytes) ~= "string" then
    core.blame(("%s: its function returned a %s, not a string"):format(where, type(bytes)))
  end
  return bytes
end

local function add_files(tree, files)
  for _, name in ipairs(sorted(files)) do
    local tidied, why = M.tidy(name)
    if not tidied then blame("files: %s", why) end
    local where = ("kvm.initrd: files[%q]"):format(name)
    local file = check_file(where, files[name])
    add(tree, "files", name, { type = "file", mode = file.mode or MODE_FILE,
                               data = contents(where, file) })
  end
end

local function add_directories(tree, list)
  for _, key in ipairs(sorted(list)) do
    local value, name, mode = list[key], key, MODE_DIRECTORY
    if math.type(key) == "integer" then name = value else mode = value end
    options.argument("kvm.initrd", ("directories[%q]"):format(tostring(name)), mode, "permissions")
    add(tree, "directories", name, { type = "directory", mode = mode })
  end
end

local function in_range(value, most)
  return math.type(value) == "integer" and value >= 0 and value <= most
end

local function add_nodes(tree, nodes)
  for _, name in ipairs(sorted(nodes)) do
    local n = nodes[name]
    if type(n) ~= "table" or (n[1] ~= "c" and n[1] ~= "b") or not in_range(n[2], MAJOR_MAX)
       or not in_range(n[3], MINOR_MAX) or (n.mode and not in_range(n.mode, MODE_MAX)) then
      blame("nodes[%q]: expected { \"c\" or \"b\", major, minor, mode = permissions }",
            tostring(name))
    end
    add(tree, "nodes", name, { type = n[1], mode = n.mode or MODE_NODE, major = n[2],
                               minor = n[3] })
  end
end

local function add_links(tree, links)
  for _, name in ipairs(sorted(links)) do
    local target = links[name]
    if type(target) ~= "string" or target == "" or target:find "%z" or #target > cpio.PATH_MAX then
      blame("links[%q]: expected the path that it leads to", tostring(name))
    end
    add(tree, "links", name, { type = "link", mode = MODE_LINK, data = target })
  end
end

-- ---- modules, busybox ----

local MODULES <const> = options.declare("kvm.initrd.modules", { from = "string" })

---Modules in lib/modules, and the order in which to load them in lib/modules/order.
local function add_modules(tree, list)
  local wanted, rest = {}, {}
  for key, value in pairs(list) do
    if math.type(key) == "integer" then wanted[key] = value else rest[key] = value end
  end
  local from = options.check("kvm.initrd: modules", rest, MODULES).from
  for i, name in ipairs(wanted) do
    if type(name) ~= "string" then
      blame("modules[%d]: expected a name, got a %s", i, type(name))
    end
  end
  if not from then blame "modules: 'from' is missing: the modules tree, /lib/modules/VERSION" end
  local names = {}
  for i, m in ipairs(modules.load(from, wanted)) do
    names[i] = m.name .. "\n"
    add(tree, "modules", ("lib/modules/%s.ko"):format(m.name),
        { type = "file", mode = MODE_FILE, data = m.bytes })
  end
  add(tree, "modules", "lib/modules/order", { type = "file", mode = MODE_FILE,
                                              data = table.concat(names) })
end

local function find_busybox()
  for folder in (os.getenv "PATH" or "/bin:/usr/bin"):gmatch "[^:]+" do
    if core.file_size(folder .. "/busybox") then return folder .. "/busybox" end
  end
  plan.refuse({ name = "busybox" }, "ENOENT",
              "there is none in PATH (Debian: apt-get install busybox-static)")
end

---Raises unless a program needs no libraries.
local function check_static(path, bytes)
  local source = sources.of_bytes(path, bytes)
  for _, kind in elf.program_headers(source, elf.header(source)) do
    if kind == INTERP then
      plan.refuse(source, "ENOEXEC", "it needs shared libraries, which are not there: take a "
        .. "static one (Debian: apt-get install busybox-static)")
    end
  end
end

local function add_busybox(tree, value)
  local path = value == true and find_busybox() or value
  local bytes = sources.read_file(path, cpio.FILE_MAX)
  check_static(path, bytes)
  add(tree, "busybox", "bin/busybox", { type = "file", mode = MODE_FILE, data = bytes })
  add(tree, "busybox", "bin/sh", { type = "link", mode = MODE_LINK, data = "busybox" })
end

-- ---- the whole ----

local INITRD <const> = options.declare("kvm.initrd", {
  files = a_table "a table of files by path", directories = a_table "a list of directories",
  nodes = a_table "a table of device nodes by path", links = a_table "a table of links by path",
  modules = a_table "a list of modules", init = "string", gzip = "boolean", agent = "boolean",
  busybox = function(value)
    if type(value) == "boolean" or type(value) == "string" then return value end
    return nil, ("expected true or a path, got a %s"):format(type(value))
  end,
})

---@param o table  checked options
---@return minikvm.cpio.entry[]  in the order of their names: a directory before what is in it
local function entries(o)
  local tree, list = {}, {}
  if o.init then
    add(tree, "init", "init", { type = "file", mode = MODE_FILE, data = o.init })
  end
  if o.busybox then add_busybox(tree, o.busybox) end
  add_files(tree, o.files or {})
  add_directories(tree, o.directories or {})
  add_nodes(tree, o.nodes or {})
  add_links(tree, o.links or {})
  if o.modules then add_modules(tree, o.modules) end
  add_parents(tree)
  for _, name in ipairs(options.keys(tree)) do list[#list + 1] = tree[name] end
  return list
end

---See kvm.initrd in lua/minikvm/init.lua.
function M.make(opts)
  local o = options.check("kvm.initrd", opts, INITRD)
  if o.agent then require("minikvm.linux.rootfs").add_agent(o) end
  local ok, list = pcall(entries, o)
  if not ok then
    if type(list) == "table" and list.text then return nil, list.text, list.code end
    error(list, 0)
  end
  local archive = cpio.pack(list)
  if not o.gzip then return archive end
  if #archive > cpio.GZIP_MAX then
    return nil, ("kvm.initrd: %d bytes are too many to compress: leave gzip out"):format(#archive),
           "EFBIG"
  end
  local packed = cpio.gzip(archive)
  if packed then return packed end
  return nil, "kvm.initrd: compressing: not enough memory", "ENOMEM"
end

return M
