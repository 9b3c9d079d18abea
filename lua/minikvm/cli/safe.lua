-- safe.lua - minikvm --safe: a script that gets the guests and directories named on the command
-- line, and nothing else of the host.
--
-- The script has a process of its own, in a jail (src/jail), whose parent ends it when its time is
-- up (src/lua/parent.c). What it can reach of Lua and minikvm is listed in allowed.lua: its globals
-- are made of that list, and methods that are in none are refused. The parts of minikvm keep Lua's
-- own globals, where nothing opens a file any more, for kernels without Landlock. Docs:
-- docs/limits.md.

local core = require "minikvm.core"
local allowed = require "minikvm.cli.allowed"
local args = require "minikvm.cli.args"
local class = require "minikvm.class"
local complain = require("minikvm.cli.say").complain
local jail = require "minikvm.jail"
local options = require "minikvm.options"
local strict = require "minikvm.strict"

local loadfile = loadfile

local M = {}

-- ---- the command line ----

local function named(text, what)
  local name, path = text:match "^([%w_.-]+)=(.+)$"
  if not name then return nil, ("expected NAME=%s, got %q"):format(what, text) end
  return { name = name, path = path }
end

local function parse_guest(text) return named(text, "PATH") end

local function parse_files(text)
  local grant, why = named(text, "DIR or NAME=DIR:VERDICT")
  if not grant then return nil, why end
  local path, verdict = grant.path:match "^(.+):([%a-]+)$"
  if verdict and not allowed.GRANTS[verdict] then
    return nil, ("verdict %q is none of ro, cow, rw, shared-rw"):format(verdict)
  end
  grant.path, grant.verdict = path or grant.path, verdict or "ro"
  return grant
end

M.spec = {
  program = "minikvm --safe",
  summary = "Runs a script that gets nothing of the host but what is named here.",
  options = {
    { "--guest", "-g", value = "NAME=PATH", type = parse_guest, repeatable = true,
      help = "an image that vm:load may load by this name" },
    { "--files", "-f", value = "NAME=DIR[:VERDICT]", type = parse_files, repeatable = true,
      help = "a directory that kvm.files may have as root by this name, for ro (the default), cow,"
        .. " rw or shared-rw" },
    { "--seconds", "-s", value = "SEC", type = "duration",
      help = "time of the script, its runs included (60)" },
    { "--handler", value = "SEC", type = "duration", help = "time of one call of a handler (2)" },
    { "--memory", "-m", value = "SIZE", type = "size",
      help = "memory of the script's process, with its guests' RAM and their snapshots (256M)" },
    { "--disk", value = "SIZE", type = "size", help = "what guests may write into files, all in all"
        .. " (none, or 64M where --files grants more than ro)" },
    { "--policy", value = "FILE", help = "a policy file, which the command line must keep to: its"
        .. " images and files are granted by their names, and its limits are the most" },
    { "--jail", value = "LEVEL", default = "best", type = { "best", "strict" },
      help = "walls of the kernel's around the process: --jail=strict refuses to run where one is"
        .. " missing, best (the default) says so" },
  },
  rest = { key = "script", value = "script.lua", min = 1,
           help = "the script; what follows it are its arguments" },
  notes = "Exit status: 0; 1 when the script failed or its time or memory was up; that of os.exit;"
    .. "\n2 wrong command line; 128 + N when signal N ended its process.",
}

---Where the script stands: the first word that is neither an option nor an option's value.
local function split(argv)
  local takes_value = {}
  for _, option in ipairs(M.spec.options) do
    for i = 1, 2 do
      if option[i] then takes_value[option[i]] = not option.default end
    end
  end
  local i = 1
  while argv[i] and argv[i]:sub(1, 1) == "-" and argv[i] ~= "-" and argv[i] ~= "--" do
    i = i + (takes_value[argv[i]] and 2 or 1)
  end
  if argv[i] == "--" then i = i + 1 end
  return table.move(argv, 1, math.min(i, #argv), 1, {}), table.move(argv, i + 1, #argv, 1, {})
end

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

-- ---- the whole ----

local ALL <const> = jail.READ | jail.WRITE | jail.CHANGE

---What may be done with a directory that --files grants.
local function access_of(grant)
  local shared = grant.verdict == "shared-rw"
  return jail.READ | jail.LINK | jail.OPTIONAL | (shared and jail.WRITE | jail.CHANGE or 0)
end

---The process keeps what is named on the command line, the script's folder, and the one for private
---files of guests.
local function enter_jail(opts, folder, private)
  local read <const> = jail.READ | jail.LINK | jail.OPTIONAL
  local list, allow = { opts.script[1], read }, jail.HANDLERS
  local function add(path, access) list[#list + 1], list[#list + 2] = path, access end
  if folder ~= "/" then add(folder, read) end
  for _, guest in ipairs(opts.guest or {}) do add(guest.path, read) end
  for _, grant in ipairs(opts.files or {}) do
    add(grant.path, access_of(grant))
    allow = allow | jail.FILES
  end
  if private then
    add(private, jail.READ | jail.WRITE | jail.CHANGE | jail.LINK)
    allow = allow | jail.FILES
  end
  local report, why = core.jail(opts.jail or "best", allow, list)
  if report and report.missing then complain("--safe", "not there: " .. report.missing) end
  return report ~= nil, why
end

local LIMITS <const> = { "memory", "disk", "seconds", "handler" }

---What a policy file grants, and the most that the command line can say.
---@return true?
---@return string? why
local function apply_policy(opts)
  local rules <const> = require "minikvm.policy"
  local policy, why = rules.read(opts.policy)
  if not policy then return nil, why end
  for _, entry in ipairs(opts.guest or {}) do
    local ok, problem = rules.allows(policy, entry.path, jail.READ)
    if not ok then return nil, problem end
  end
  for _, grant in ipairs(opts.files or {}) do
    local ok, problem = rules.allows(policy, grant.path, access_of(grant) & ALL)
    if not ok then return nil, problem end
  end
  for _, key in ipairs(LIMITS) do
    if opts[key] and policy[key] and opts[key] > policy[key] then
      return nil, ("--%s %s: %s gives %s at most"):format(key, opts[key], policy.path, policy[key])
    end
    opts[key] = opts[key] or policy[key]
  end
  if #policy.gdb + #policy.tap > 0 then
    return nil, policy.path .. ": gdb and taps are not there with --safe"
  end
  opts.guest, opts.files = opts.guest or {}, opts.files or {}
  for _, image in ipairs(policy.image) do
    if image.name then table.insert(opts.guest, image) end
  end
  for _, grant in ipairs(policy.files) do table.insert(opts.files, grant) end
  opts.jail = opts.jail or policy.level
  return true
end

local function failed(why)
  complain("--safe", why)
  return 1
end

---Bytes that guests may write into files.
local function disk_of(opts)
  local writes = false
  for _, grant in ipairs(opts.files or {}) do writes = writes or grant.verdict ~= "ro" end
  return opts.disk or writes and 64 << 20 or 0
end

local function run_script(opts, rest, private)
  local kvm, path = require "minikvm", opts.script[1]
  local folder = path:match "^(.*/)" or "./"
  local inside, problem = enter_jail(opts, folder, private)
  if not inside then return failed(problem) end
  forbid_modules()
  forbid_bytecode()
  local module = safe_module(kvm, opts)
  restrict_objects()
  restrict_load(opts.guest)
  local env = environment(module, folder)
  env.arg = { [0] = path, table.unpack(rest) }
  local chunk, why = loadfile(path, "t", env)
  if not chunk then return failed(why) end
  lock_files()
  core.begin_time()
  chunk(table.unpack(rest))
  return 0
end

---Carries out the command line behind --safe. Errors of the script are raised.
---@param argv string[]
---@return integer status
function M.main(argv)
  local own, rest = split(argv)
  local opts, status = args.handle(M.spec, own)
  if not opts then return status end
  if opts.policy then
    local ok, why = apply_policy(opts)
    if not ok then return args.complain(M.spec, "--policy: " .. why) end
  end
  local disk <const> = disk_of(opts)
  local child, result = core.supervise(opts.seconds or 60, opts.memory or 256 << 20, disk > 0,
                                       opts.handler or 2)
  if child == nil then return failed(result) end
  if not child then return result end
  core.limit_files(disk)
  return run_script(opts, rest, result)
end

return M
