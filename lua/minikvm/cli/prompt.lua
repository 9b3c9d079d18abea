-- prompt.lua - the interactive prompt: lua's (Lua 5.4 manual, section 7), with history.
--
-- A line is tried as an expression first, its values are printed; else it is a statement, which
-- continues on further lines while Lua finds it incomplete. On a terminal lines are edited. History
-- is kept in $MINIKVM_HISTORY or ~/.minikvm_history, best effort, and not at all when
-- MINIKVM_HISTORY is empty. Ctrl-C at the prompt drops the line. Runs in the coroutine of
-- interpreter.lua.

local G <const> = _G
local getenv, load, select, tostring = os.getenv, load, select, tostring
local gsub, sub, stdout = string.gsub, string.sub, io.stdout

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

---Prints the results of a call; says why it failed.
local function show(host, call, ok, ...)
  if ok and select("#", ...) == 0 then return end
  local message = ...
  if ok then ok, message = call(G.print, ...) end
  if not ok then host.say(message) end
end

---Reads, runs and prints until the end of input.
---@param host minikvm.host
---@param call fun(f: any, ...): boolean, ...  as interpreter.lua's
function M.run(host, call)
  host.open_editor(history_path())
  while true do
    local line = read(host, true)
    if line == nil then break end
    local chunk, why
    if line then chunk, why = compile(host, (gsub(line, "^=", "return "))) end
    if chunk then show(host, call, call(chunk)) elseif why then host.say(why) end
  end
  stdout:write "\n"
  stdout:flush()
end

return M
