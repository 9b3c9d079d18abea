-- interpreter.lua - the program's command line, where it is lua's: options, LUA_INIT, scripts, the
-- prompt (Lua 5.4 manual, section 7).
--
-- Messages and statuses are lua's, except that a wrong option exits with 2, a failing script on
-- stdin with 1. When the first argument is the name of a sub-command, the arguments go to
-- cli/init.lua; a script of such a name runs as ./run. Runs in a coroutine of its own (src/main.c):
-- what it yields is called on the main thread, with a traceback and with Ctrl-C. It loads no other
-- part of the module unless it needs one, and uses what Lua's libraries hold when it is loaded,
-- whatever scripts do to them later.

local G <const> = _G
local find, sub = string.find, string.sub
local error, ipairs, load, loadfile = error, ipairs, load, loadfile
local rawget, type, warn = rawget, type, warn
local getenv, loaded, stdout, unpack = os.getenv, package.loaded, io.stdout, table.unpack

---call(f, ...) -> true, results; or false, the message with traceback, whether it was Ctrl-C
local call <const> = coroutine.yield

local OK <const>, FAILED <const>, INTERRUPTED <const> = 0, 1, 130

local M = {}

---The first arguments that cli/init.lua serves.
M.commands = { "run", "prompt", "linux", "test", "new", "doctor", "completion", "--safe", "--help",
               "--version", "-h" }

---What the program knows, and C does for this part.
---@class minikvm.host
---@field argv table<integer, string>  from 0
---@field program string  as it was called
---@field copyright string  Lua's
---@field version string  minikvm's
---@field terminal boolean  stdin is one
---@field say fun(...: string)  [program,] message: to stderr
---@field part fun(name: string): function  the chunk of a part
---@field ignore_environment fun()
---@field open_editor fun(history?: string)
---@field read_line fun(prompt: string): string|false|nil
---@field remember fun(line: string)
---@field complete_with fun(fn: fun(line: string, text: string, last: integer): string[])

---@type minikvm.host
local host

---Says why a call failed; true when it did not.
local function succeeded(ok, message)
  if not ok then host.say(host.program, message) end
  return ok
end

local function run_chunk(chunk, message)
  if not chunk then return succeeded(false, message) end
  return succeeded(call(chunk))
end

local function print_version()
  stdout:write(host.copyright, "\nminikvm ", host.version, "\n")
  stdout:flush()
end

-- ---- options ----

---@class minikvm.interpreter.options
---@field script integer?  its index in argv
---@field actions string[][]  letter and value of -e, -l and -W, in the order given
---@field interactive boolean?
---@field version boolean?
---@field execute boolean?
---@field no_env boolean?

---One option, whose value may be attached. Returns its last index; nil when it is wrong.
local function read_option(o, argv, i)
  local option = argv[i]
  local letter, value = sub(option, 2, 2), sub(option, 3)
  if letter == "e" or letter == "l" then
    if value == "" then
      i, value = i + 1, argv[i + 1]
      if not value or sub(value, 1, 1) == "-" then return nil end
    end
    o.execute = o.execute or letter == "e"
    o.actions[#o.actions + 1] = { letter, value }
    return i
  end
  o.interactive = o.interactive or option == "-i"
  o.version = o.version or option == "-i" or option == "-v"
  o.no_env = o.no_env or option == "-E"
  if option == "-W" then o.actions[#o.actions + 1] = { letter } end
  return find(option, "^%-[ivEW]$") and i
end

---@return minikvm.interpreter.options
---@return string? wrong  the option that is
local function read_options(argv)
  local o, i = { actions = {} }, 1
  while argv[i] and find(argv[i], "^%-.") do
    if argv[i] == "--" then
      i = i + 1
      break
    end
    local last = read_option(o, argv, i)
    if not last then return o, argv[i] end
    i = last + 1
  end
  o.script = argv[i] and i
  return o
end

---arg[0] is the script (the program when there is none), options have negative indices.
local function set_arg(argv, script)
  local arg = {}
  for i = 0, #argv do arg[i - (script or 0)] = argv[i] end
  G.arg = arg
end

-- ---- modules ----

----l mod, -l global=mod
local function require_into_global(spec)
  local equals = find(spec, "=", 1, true)
  local ok, module = call(G.require, equals and sub(spec, equals + 1) or spec)
  if ok then G[equals and sub(spec, 1, equals - 1) or spec] = module end
  return succeeded(ok, module)
end

---The module in the global "kvm", unless that is taken: for the prompt, and for -e that names it.
local function offer_module()
  return G.kvm ~= nil or require_into_global "kvm=minikvm"
end

---A function of one of the sub-commands' parts, "minikvm.cli" and those below.
---@return boolean ok
---@return any ...
local function call_cli(part, name, ...)
  loaded["minikvm.cli.interpreter"] = M -- this chunk, not another one of the same source
  local ok, cli = call(G.require, "minikvm") -- brings the parts written in Lua
  if ok then ok, cli = call(G.require, part) end
  if not ok then return false, cli end
  return call(cli[name], ...)
end

-- ---- what there is to run ----

local function act(action)
  local letter, value = action[1], action[2]
  if letter == "W" then
    warn "@on"
    return true
  elseif letter == "l" then
    return require_into_global(value)
  end
  if find(value, "kvm", 1, true) and not offer_module() then return false end
  return run_chunk(load(value, "=(command line)"))
end

local function run_init()
  for _, name in ipairs{ "LUA_INIT_5_4", "LUA_INIT" } do
    local code = getenv(name)
    if code and sub(code, 1, 1) == "@" then return run_chunk(loadfile(sub(code, 2))) end
    if code then return run_chunk(load(code, "=" .. name)) end
  end
  return true
end

local function script_arguments()
  local arg, list = G.arg, {}
  if type(arg) ~= "table" then error("'arg' is not a table", 0) end
  for i = 1, #arg do list[i] = rawget(arg, i) end
  return unpack(list, 1, #arg)
end

local function run_script(argv, script)
  local name = argv[script]
  local from_stdin = name == "-" and argv[script - 1] ~= "--"
  local chunk, message = loadfile(not from_stdin and name or nil)
  if chunk then return succeeded(call(chunk, script_arguments())) end
  host.say(host.program, message)
  if not from_stdin then succeeded(call_cli("minikvm.cli", "hint", host.program, name)) end
  return false
end

---@param o minikvm.interpreter.options
local function interpret(o)
  local nothing = not (o.script or o.execute or o.version)
  local prompt = (o.interactive or nothing and host.terminal) and host.part "cli.prompt"()
  if not o.no_env and not run_init() then return FAILED end
  for _, action in ipairs(o.actions) do
    if not act(action) then return FAILED end
  end
  if o.script and not run_script(host.argv, o.script) then return FAILED end
  if nothing and not host.terminal then return run_chunk(loadfile()) and OK or FAILED end
  if nothing then print_version() end
  if prompt then
    offer_module()
    prompt.run(host, call)
  end
  return OK
end

---A sub-command; `leave` is called after the prompt that the command asks for.
local function run_command()
  local run = host.argv[1] == "run" -- which starts in less time so
  local words = table.move(host.argv, run and 2 or 1, #host.argv, 1, {})
  local part = run and "minikvm.cli.run" or "minikvm.cli"
  local ok, status, leave = call_cli(part, "main", words, host)
  if not ok and leave then return INTERRUPTED end -- the user knows: no traceback
  if not succeeded(ok, status) then return FAILED end
  if leave then
    host.part "cli.prompt"().run(host, call)
    succeeded(call(leave))
  end
  return status
end

local function is_command(word)
  for _, command in ipairs(M.commands) do
    if command == word then return true end
  end
  return false
end

---Carries the program's command line out.
---@param from minikvm.host
---@return integer status  for the process
function M.main(from)
  host = from
  local argv = host.argv
  local command = is_command(argv[1])
  local o, wrong = {}, nil
  if not command then o, wrong = read_options(argv) end
  if o.version and not wrong then print_version() end
  if o.no_env then host.ignore_environment() end
  set_arg(argv, not wrong and o.script)
  if command then return run_command() end
  if not wrong then return interpret(o) end
  local ok, status = call_cli("minikvm.cli", "usage_error", host.program, wrong)
  return succeeded(ok, status) and status or FAILED
end

return M
