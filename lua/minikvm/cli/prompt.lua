-- prompt.lua - the interactive prompt: lua's (Lua 5.4 manual, section 7), with history.
--
-- A line is a short command (cli/commands.lua), or tried as an expression, whose values are
-- printed, tables with what is in them; else it is a statement, which continues on further lines
-- while Lua finds it incomplete. On a terminal lines are edited, and Tab completes. History is kept
-- in $MINIKVM_HISTORY or ~/.minikvm_history, best effort, and not at all when MINIKVM_HISTORY is
-- empty. Ctrl-C at the prompt drops the line. Runs in the coroutine of interpreter.lua.

local G <const> = _G
local getenv, load, pcall, select, tostring, type = os.getenv, load, pcall, select, tostring, type
local gsub, sub, stdout, pack, unpack = string.gsub, string.sub, io.stdout, table.pack, table.unpack

local M = {}

local function history_path()
  local chosen, home = getenv "MINIKVM_HISTORY", getenv "HOME"
  if chosen then return chosen ~= "" and chosen or nil end
  return home and home .. "/.minikvm_history"
end

local last ---@type string?  what was remembered

---@return string|false|nil line  false: dropped, nil: there are no more
local function read(host, first)
  local prompt = G[first and "_PROMPT" or "_PROMPT2"]
  if prompt == nil then prompt = first and "> " or ">> " end
  local line = host.read_line(tostring(prompt))
  if line and line ~= "" and line ~= last then
    last = line
    host.remember(line)
  end
  return line
end

---The function of a statement that begins with this line; nil, why not. No reason: it was dropped.
local function compile(host, text)
  local chunk = load("return " .. text, "=stdin")
  while not chunk do
    local why
    chunk, why = load(text, "=stdin")
    if chunk then break end
    if sub(why, -5) ~= "<eof>" then return nil, why end
    local more = read(host, false)
    if not more then return nil, more == nil and why or nil end
    text = text .. "\n" .. more
  end
  return chunk
end

---Prints values, tables with what is in them, which may run code of the user's (__tostring).
local function print_texts(show, ...)
  local values = pack(...)
  for i = 1, values.n do
    local kind = type(values[i])
    if kind == "table" or kind == "userdata" then values[i] = show.text(values[i]) end
  end
  G.print(unpack(values, 1, values.n))
end

---Prints the results of a call; says why it failed.
local function print_results(host, call, show, ok, ...)
  if ok and select("#", ...) == 0 then return end
  local message = ...
  if ok then ok, message = call(print_texts, show, ...) end
  if not ok then host.say(message) end
end

---The short commands, where the module is there; Tab and `help` come with them.
local function open_commands(host, call)
  if not package.loaded["minikvm.core"] then return nil end
  local ok, commands = call(G.require, "minikvm.cli.commands")
  local fine, complete = call(G.require, "minikvm.cli.complete")
  if not ok or not fine then return nil end
  if G.help == nil then G.help = commands.help_function end
  host.complete_with(function(line, text, characters)
    local stop = utf8.offset(line, characters + 1) or #line + 1
    return complete.words(sub(line, 1, stop - 1), text, commands)
  end)
  return commands
end

---What a command says: text that is no value. What is wrong is told without a traceback.
local function run_command(host, call, show, command)
  local ok, done, text = call(pcall, command)
  if not ok then
    host.say(done) -- interrupted
  elseif not done then
    host.say(tostring(text))
  elseif text ~= nil then
    print_results(host, call, show, true, text)
  end
end

---Reads, runs and prints until the end of input.
---@param host minikvm.host
---@param call fun(f: any, ...): boolean, ...  as interpreter.lua's
function M.run(host, call)
  host.open_editor(history_path())
  local show, commands = host.part "cli.show"(), open_commands(host, call)
  while true do
    if commands then run_command(host, call, show, commands.news) end
    local line = read(host, true)
    if line == nil then break end
    local command, chunk, why = line and commands and commands.find(line), nil, nil
    if command then
      run_command(host, call, show, command)
    elseif line then
      chunk, why = compile(host, (gsub(line, "^=", "return ")))
    end
    if chunk then
      print_results(host, call, show, call(chunk))
    elseif why then
      host.say(why)
    end
  end
  stdout:write "\n"
  stdout:flush()
end

return M
