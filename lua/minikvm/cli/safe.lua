-- safe.lua - minikvm --safe: a script that gets the guests and directories named on the command
-- line, and nothing else of the host.
--
-- The script runs with globals of its own, made here. What it can reach is listed, never what it
-- cannot: a function or method that is in no list is refused. The parts of minikvm keep Lua's own
-- globals, where nothing opens a file any more; the string functions behind ("x"):find and so on
-- are replaced for all. Docs: docs/limits.md.

local core = require "minikvm.core"
local args = require "minikvm.cli.args"
local jail = require "minikvm.jail"
local options = require "minikvm.options"

local loadfile = loadfile

local M = {}

local function words(text)
  local set = {}
  for word in text:gmatch "%S+" do set[word] = true end
  return set
end

---Methods of any object that a script may call; those that are left out reach files of the host.
M.METHODS = words [[
  vm load run start wait stop reset close irq trace screen symbol_at address_of place_of
  pause resume attach detach registers backtrace locals
  stats add_cpu snapshot restore fork regs sregs translate walk nmi interrupt disassemble size
  read write u8 u16 u32 u64 cstring fill find hexdump on override const latch sink fifo source match
  define send sendline eof text on_line echo expect forbid after every remove type press
  audit directory usage tap on_unhandled doorbell expect_exits try_expect take put set get hide has
  vendor interact exit open seek set_sregs regions flush written devices enable enabled
  lost routing_table crash linux told profile coverage
]]

---The module's functions that a script may call.
M.FUNCTIONS = words "vm files wait sleep probe disassemble device pci virtio"

---What is known and refused: it reaches files or the network, takes memory that nobody counts, or
---is of a Lua state without these limits.
M.REFUSED = words [[
  gdb break_at wait_break watch step step_over blocks add push sweep calls leads
  worker jail signal limit initrd disk load_snapshot load_symbols input output log save receive map
]]

---Options of kvm.vm and kvm.files that a script may use.
local VM_OPTIONS = words [[
  name memory cpus mode limits unhandled coalesce echo trace page_size map_size map_base irqchip
  console files assist cmdline cpuid stats map_io pci
]]
local FILES_OPTIONS = words "root rules max_open max_bytes max_file max_files audit decide"

---What --files grants, and the verdicts that a policy of the script may have with it.
local GRANTS = {
  ro = words "deny ro", cow = words "deny ro cow", rw = words "deny ro cow rw",
  ["shared-rw"] = words "deny ro cow rw shared-rw",
}

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
  if verdict and not GRANTS[verdict] then
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
    { "--memory", "-m", value = "SIZE", type = "size", help = "memory of the script (64M)" },
    { "--jail", value = "LEVEL", default = "best", type = { "best", "strict" },
      help = "walls of the kernel's around the process: --jail=strict refuses to run where one is"
        .. " missing, best (the default) says so" },
  },
  rest = { key = "script", value = "script.lua", min = 1,
           help = "the script; what follows it are its arguments" },
  notes = "Exit status: 0; 1 when the script failed or its time or memory was up; that of os.exit;"
    .. "\n2 wrong command line.",
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

local function refusal(what)
  return function() error(what .. " is not there with --safe", 2) end
end

---Takes from every kind of object the methods that are not listed.
local function restrict_methods()
  require "minikvm.vm.snapshot" -- whose methods would be there again if it were loaded later
  for kind, meta in pairs(debug.getregistry()) do
    if type(kind) == "string" and kind:find "^minikvm%." and type(meta) == "table"
       and type(meta.methods) == "table" then
      for name in pairs(meta.methods) do
        if not M.METHODS[name] then
          meta.methods[name] = refusal(("%s:%s"):format(kind:sub(9), name))
        end
      end
    end
  end
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
  function core.open_spool(path)
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

---A plain copy of options of which all are known.
local function checked(what, opts, known)
  local copy = plain(opts)
  for key in pairs(copy or {}) do
    if type(key) == "string" and not known[key] then
      error(("%s: option '%s' is not there with --safe"):format(what, key), 3)
    end
  end
  return copy
end

local function limited_vm(kvm)
  return function(opts) return kvm.vm(checked("kvm.vm", opts, VM_OPTIONS) or opts) end
end

---A policy's rules, none of which says more than was granted.
local function narrowed(rules, grant)
  local list = {}
  for i, rule in ipairs(rules) do
    local copy = plain(rule) or rule
    local verdict = type(copy) == "table" and copy[2]
    if GRANTS["shared-rw"][verdict] and not GRANTS[grant.verdict][verdict] then
      error(("kvm.files: rule %d says %q, but --files gives %s for %s"):format(i, verdict,
        grant.name, grant.verdict), 3)
    end
    list[i] = copy
  end
  return list
end

local function limited_files(kvm, grants)
  return function(opts)
    local copy = checked("kvm.files", opts, FILES_OPTIONS)
    if not copy or copy.root == nil then return kvm.files(copy or opts) end
    local grant = given("kvm.files", grants, copy.root, "--files", 2)
    copy.root = grant.path
    local rules = plain(copy.rules)
    if rules then copy.rules = narrowed(rules, grant) end
    return kvm.files(copy)
  end
end

local function safe_module(kvm, opts)
  local module = { _VERSION = kvm._VERSION }
  for name, value in pairs(kvm) do
    if type(value) == "function" then
      module[name] = M.FUNCTIONS[name] and value or refusal("kvm." .. name)
    end
  end
  module.vm = limited_vm(kvm)
  module.files = limited_files(kvm, opts.files)
  return module
end

-- ---- what it gets of Lua ----

local function copy_of(library, without)
  local copy = {}
  for name, value in pairs(library) do
    if not (without and without[name]) then copy[name] = value end
  end
  return copy
end

---These loop over what a table says its length is: in Lua, so that they can be ended.
local function bounded_table()
  local T = copy_of(table)
  function T.insert(t, ...)
    local n, count = #t + 1, select("#", ...)
    if count == 1 then
      t[n] = (...)
      return
    elseif count ~= 2 then
      error("wrong number of arguments to 'insert'", 2)
    end
    local at, value = ...
    at = math.tointeger(at) or error("bad argument #2 to 'insert' (integer expected)", 2)
    if at < 1 or at > n then error("bad argument #2 to 'insert' (position out of bounds)", 2) end
    for i = n, at + 1, -1 do t[i] = t[i - 1] end
    t[at] = value
  end
  function T.remove(t, at)
    local n = #t
    if at == nil then at = n end
    at = math.tointeger(at) or error("bad argument #2 to 'remove' (integer expected)", 2)
    if n + 1 ~= at and not (at == n or at >= 1 and at <= n + 1) then
      error("bad argument #2 to 'remove' (position out of bounds)", 2)
    end
    local value = t[at]
    for i = at, n - 1 do t[i] = t[i + 1] end
    t[math.max(at, at <= n and n or at)] = nil
    return value
  end
  function T.move(from, first, last, at, to)
    to = to or from
    if last >= first then
      if at > last or at <= first or to ~= from then
        for i = 0, last - first do to[at + i] = from[first + i] end
      else
        for i = last - first, 0, -1 do to[at + i] = from[first + i] end
      end
    end
    return to
  end
  return T
end

local function bounded_string()
  for name, fn in pairs(require "minikvm.cli.strings") do string[name] = fn end
  getmetatable("").__metatable = "locked" -- its __index is the table that minikvm itself uses
  string.dump = nil -- ("").dump
  return copy_of(string)
end

---Only what is inside the program: require itself would look for a file, too.
local function embedded(name)
  return (name == "minikvm.abi" or name:find "^minikvm%.devices%.") and package.preload[name]
end

---Lua files beside the script, and minikvm.
local function requirer(env, module, folder)
  local loaded = { minikvm = module }
  return function(name)
    if type(name) ~= "string" then error("require: expected a name", 2) end
    if loaded[name] ~= nil then return loaded[name] end
    if embedded(name) then
      loaded[name] = copy_of(require(name))
      return loaded[name]
    end
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

---setmetatable and getmetatable of tables that are the script's own. Those of minikvm's objects are
---out of reach, and none gets a finalizer: that would run when the script's time is over.
local function own_metatables(env)
  local own = setmetatable({}, { __mode = "k" })
  local real = debug.getmetatable
  function env.getmetatable(value)
    local meta = real(value)
    if meta == nil or own[meta] then return getmetatable(value) end
    return "locked"
  end
  function env.setmetatable(t, meta)
    if type(meta) == "table" and rawget(meta, "__gc") ~= nil then
      error("setmetatable: finalizers (__gc) are not there with --safe", 2)
    end
    if real(t) ~= nil and not own[real(t)] then error("cannot change a protected metatable", 2) end
    setmetatable(t, meta)
    if meta then own[meta] = true end
    return t
  end
end

local function environment(module, folder)
  local env = {}
  for name in pairs(words [[assert error ipairs pairs next select tonumber tostring type rawequal
    rawlen rawget rawset pcall xpcall print warn _VERSION]]) do
    env[name] = _G[name]
  end
  env._G = env
  env.math, env.utf8, env.coroutine = copy_of(math), copy_of(utf8), copy_of(coroutine)
  env.table, env.string = bounded_table(), bounded_string()
  local exit = os.exit
  env.os = { time = os.time, clock = os.clock, date = os.date, difftime = os.difftime,
             exit = function(code) exit(code) end }
  own_metatables(env)
  function env.load(chunk, name, _, ...)
    if select("#", ...) > 0 then return load(chunk, name, "t", (...)) end
    return load(chunk, name, "t", env)
  end
  function env.collectgarbage(what)
    if what == nil or what == "collect" or what == "count" or what == "step" then
      return collectgarbage(what)
    end
    error(("collectgarbage: %q is not there with --safe"):format(tostring(what)), 2)
  end
  env.require = requirer(env, module, folder)
  return env
end

-- ---- the whole ----

---What may be done with a directory that --files grants.
local function access_of(grant)
  local shared = grant.verdict == "shared-rw"
  return jail.READ | jail.LINK | jail.OPTIONAL | (shared and jail.WRITE | jail.CHANGE or 0)
end

---The process keeps what is named on the command line, and the script's folder.
local function enter_jail(opts, folder)
  local read <const> = jail.READ | jail.LINK | jail.OPTIONAL
  local list, allow = { opts.script[1], read }, jail.HANDLERS
  local function add(path, access) list[#list + 1], list[#list + 2] = path, access end
  if folder ~= "/" then add(folder, read) end
  for _, guest in ipairs(opts.guest or {}) do add(guest.path, read) end
  for _, grant in ipairs(opts.files or {}) do
    add(grant.path, access_of(grant))
    allow = allow | jail.FILES
  end
  local done, why = jail.add_private(list)
  local report = done
  if done then report, why = core.jail(opts.jail or "best", allow, list) end
  if not report then error("--safe: " .. why, 0) end
  if report.missing then
    io.stderr:write("minikvm: --safe: not there: ", report.missing, "\n")
  end
end

---Carries out the command line behind --safe. Errors of the script are raised.
---@param argv string[]
---@return integer status
function M.main(argv)
  local own, rest = split(argv)
  local opts, status = args.handle(M.spec, own)
  if not opts then return status end
  local kvm, path = require "minikvm", opts.script[1]
  local folder = path:match "^(.*/)" or "./"
  enter_jail(opts, folder)
  local module = safe_module(kvm, opts)
  restrict_methods()
  restrict_load(opts.guest)
  local env = environment(module, folder)
  env.arg = { [0] = path, table.unpack(rest) }
  local chunk, why = loadfile(path, "t", env)
  if not chunk then error(why, 0) end
  lock_files()
  kvm.limit{ memory = opts.memory or "64M" }
  core.end_after(opts.seconds or 60, opts.handler or 2)
  chunk(table.unpack(rest))
  return 0
end

return M
