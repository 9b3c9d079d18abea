-- safe_script.lua - what a script of minikvm --safe can reach of Lua and minikvm: what is listed in
-- allowed.lua. Its globals are made of that list, and methods that are in none are refused. The
-- parts of minikvm keep Lua's own globals, where nothing opens a file any more, for kernels without
-- Landlock.

local allowed = require "minikvm.cli.allowed"
local class = require "minikvm.class"
local core = require "minikvm.core"
local options = require "minikvm.options"
local strict = require "minikvm.strict"

local loadfile = loadfile

local M = {}

-- ---- what a script gets of minikvm ----

local function copy_of(library, names)
  local copy = {}
  for name in pairs(names) do copy[name] = library[name] end
  return copy
end

local function refusal(what)
  return function() error(what .. " is not there with --safe", 2) end
end

local function restrict_methods(kind, methods)
  local list = allowed.METHODS[kind] or {}
  if allowed.INTERNAL[kind] then return end
  for name, method in pairs(methods) do
    if not list[name] and type(method) == "function" then
      methods[name] = refusal(("%s:%s"):format(kind, name))
    end
  end
end

---Takes from every kind of object the methods that are not listed, also when more of minikvm is
---loaded later.
local function restrict_objects()
  local function restrict()
    for kind, meta in pairs(debug.getregistry()) do
      if type(kind) == "string" and kind:find "^minikvm%." and type(meta) == "table"
         and type(meta.methods) == "table" then
        restrict_methods(kind:sub(9), meta.methods)
      end
    end
    for _, made in ipairs(class.made) do restrict_methods(made.name:sub(9), made.methods) end
  end
  local load_part, loaded = require, package.loaded
  function _G.require(name)
    local there = loaded[name]
    if there then return there end
    local part = load_part(name)
    restrict()
    return part
  end
  restrict()
end

---A copy without metatables: what is checked is what is used. nil when it is no table.
local function plain(value)
  if type(value) ~= "table" then return nil end
  local copy = {}
  for key, field in next, value do copy[key] = field end
  return copy
end

---minikvm's own parts open no files any more either, whoever may have told them a path. A font for
---pictures of the screen is read before.
local function lock_files()
  pcall(function() require("minikvm.console.font").default() end)
  function io.open(path)
    return nil, ("%s: files cannot be opened with --safe"):format(tostring(path)), 13
  end
  function core.write_file(path)
    return nil, path .. ": files cannot be written with --safe", "EACCES"
  end
  function core.open_disk(o)
    return nil, ("%s: disks cannot be opened with --safe"):format(o.path or "a disk"), "EACCES"
  end
  function core.open_stream(path)
    return nil, path .. ": files cannot be written with --safe", "EACCES"
  end
  function core.net_tap(_, name)
    return nil, ("tap %s: the host's network cannot be used with --safe"):format(name), "EACCES"
  end
  for _, name in ipairs{ "popen", "lines", "input", "output", "tmpfile" } do
    io[name] = refusal("io." .. name)
  end
  for _, name in ipairs{ "execute", "remove", "rename", "tmpname", "getenv", "setlocale" } do
    os[name] = refusal("os." .. name)
  end
  _G.loadfile, _G.dofile, package.loadlib = refusal "loadfile", refusal "dofile", refusal "loadlib"
end

local function given(what, grants, name, option, level)
  if type(name) ~= "string" then
    error(("%s: expected a name given by %s, got a %s"):format(what, option, type(name)), level + 1)
  end
  local names = {}
  for i, grant in ipairs(grants or {}) do
    if grant.name == name then return grant end
    names[i] = grant.name
  end
  error(("%s: no %q was given by %s%s"):format(what, name, option,
                                              options.hint(name, names, "%q")), level + 1)
end

---vm:load by name, or of bytes; modules and the initrd the same.
local function restrict_load(guests)
  local vm = core.methods "minikvm.vm"
  local load_image = vm.load
  local function module_of(module)
    local m = plain(module)
    if not m then return given("vm:load", guests, module, "--guest", 3).path end
    if m.path ~= nil then m.path = given("vm:load", guests, m.path, "--guest", 3).path end
    return m
  end
  function vm.load(self, source, opts)
    local how = plain(opts) or opts
    local image = plain(source) or given("vm:load", guests, source, "--guest", 2).path
    local list = type(how) == "table" and plain(how.modules)
    if list then
      how.modules = {}
      for i = 1, #list do how.modules[i] = module_of(list[i]) end
    end
    if type(how) == "table" and how.initrd ~= nil then how.initrd = module_of(how.initrd) end
    return load_image(self, image, how)
  end
end

---A plain copy of options of which none is one that is not there here; what no option is, is found
---later.
local function checked(what, opts, known)
  local copy = plain(opts)
  for key in pairs(copy or {}) do
    if type(key) == "string" and not known[key] and options.schemas[what][key] then
      error(("%s: option '%s' is not there with --safe"):format(what, key), 3)
    end
  end
  return copy
end

local function limited_vm(kvm)
  return function(opts) return kvm.vm(checked("kvm.vm", opts, allowed.VM_OPTIONS) or opts) end
end

---A policy's rules, none of which says more than was granted.
local function narrowed(rules, grant)
  local list = {}
  for i, rule in ipairs(rules) do
    local copy = plain(rule) or rule
    local verdict = type(copy) == "table" and copy[2]
    if allowed.GRANTS["shared-rw"][verdict] and not allowed.GRANTS[grant.verdict][verdict] then
      error(("kvm.files: rule %d says %q, but --files gives %s for %s"):format(i, verdict,
        grant.name, grant.verdict), 3)
    end
    list[i] = copy
  end
  return list
end

local function limited_files(kvm, grants)
  require "minikvm.vm.files" -- its options
  return function(opts)
    local copy = checked("kvm.files", opts, allowed.FILES_OPTIONS)
    if not copy or copy.root == nil then return kvm.files(copy or opts) end
    local grant = given("kvm.files", grants, copy.root, "--files", 2)
    copy.root = grant.path
    local rules = plain(copy.rules)
    if rules then copy.rules = narrowed(rules, grant) end
    return kvm.files(copy)
  end
end

local function safe_module(kvm, opts)
  local module = copy_of(kvm, allowed.MODULE)
  for name in pairs(kvm) do module[name] = module[name] or refusal("kvm." .. name) end
  module.vm = limited_vm(kvm)
  module.files = limited_files(kvm, opts.files)
  return strict.module(module, "kvm")
end

-- ---- what it gets of Lua ----

---Only what is inside the program: require itself would look for a file, too.
local function embedded(name)
  if not package.preload[name] then return nil end
  local device = name:match "^minikvm%.devices%.(.+)$"
  local names = device and allowed.DEVICES[device]
  if names then return strict.module(copy_of(require(name), names), "devices." .. device) end
  local abi = name == "minikvm.abi" and require(name)
  return abi and strict.module(copy_of(abi, abi), name) or nil
end

---Lua files beside the script, and minikvm.
local function requirer(env, module, folder)
  local loaded = { minikvm = module }
  return function(name)
    if type(name) ~= "string" then error("require: expected a name", 2) end
    if loaded[name] ~= nil then return loaded[name] end
    loaded[name] = embedded(name)
    if loaded[name] then return loaded[name] end
    if name:find "^minikvm" or name:find "[^%w_.]" or ("." .. name .. "."):find("..", 1, true) then
      error(("require: module '%s' is not there with --safe: there are minikvm, minikvm.abi, "
        .. "minikvm.devices.NAME and Lua files beside the script"):format(name), 2)
    end
    local path = folder .. name:gsub("%.", "/") .. ".lua"
    local chunk, why = loadfile(path, "t", env)
    if not chunk then error(why, 2) end
    local value = chunk(name, path)
    loaded[name] = value == nil and true or value
    return loaded[name]
  end
end

---Text alone, and not as a method of strings either: what is no bytecode cannot harm Lua.
local function forbid_bytecode()
  string.dump = nil
  getmetatable("").__metatable = "locked" -- its __index is the table that minikvm itself uses
end

local function environment(module, folder)
  local env = {}
  for name in pairs(allowed.GLOBALS) do env[name] = _G[name] end
  for name, list in pairs(allowed.LIBRARIES) do env[name] = copy_of(_G[name], list) end
  env._G = env
  local exit = os.exit
  function env.os.exit(code) exit(code) end -- the state stays: guests may still run
  function env.load(chunk, name, _, ...)
    if select("#", ...) > 0 then return load(chunk, name, "t", (...)) end
    return load(chunk, name, "t", env)
  end
  env.require = requirer(env, module, folder)
  return env
end

---Modules are those inside the program.
local function forbid_modules()
  package.path, package.cpath = "", ""
  for i = #package.searchers, 2, -1 do package.searchers[i] = nil end
end

---Takes from this process what a script is not to have, and loads it.
---@param opts table  of minikvm --safe
---@param path string  of the script
---@param folder string  where it lies, with a slash at the end
---@param rest string[]  its arguments
---@return function? chunk  nil, why
---@return string? why
function M.load(opts, path, folder, rest)
  local kvm = require "minikvm"
  forbid_modules()
  forbid_bytecode()
  local module = safe_module(kvm, opts)
  restrict_objects()
  restrict_load(opts.guest)
  local env = environment(module, folder)
  env.arg = { [0] = path, table.unpack(rest) }
  local chunk, why = loadfile(path, "t", env)
  if chunk then lock_files() end
  return chunk, why
end

return M
