-- cli/commands.lua - short commands at the prompt, beside Lua: step, next, break, x …
--
-- A line is a command when its first word is one, no global of the user's has that name, and what
-- follows does not make it Lua: "x 0x1000" is a command, "x = 1", "x(1)" and "x.y" are not. They
-- work on the VM in the global vm. Each is a function of the VM and the rest of the line that
-- returns a text, or nothing; what is wrong is raised.

local look = require "minikvm.cli.commands_look"
local run = require "minikvm.cli.commands_run"

local M = {}

-- ---- the list ----

---name, other names, arguments, what it does, what Tab completes, whether Enter repeats it
local COMMANDS <const> = {
  { "step", "s", args = "[N]", help = "one instruction, or N", fn = run.step, again = true },
  { "next", "n", args = "[N]", help = "the same, but calls at once", fn = run.next,
    again = true },
  { "continue", "c", "run", args = "", help = "run until something stops it; Ctrl-C does",
    fn = run.continue },
  { "until", "u", args = "WHERE", help = "run until that is reached", fn = run.run_until,
    tab = { "symbols" } },
  { "break", "b", args = "[WHERE [if CONDITION]]", tab = { "symbols" }, fn = run.add_break,
    help = "stop there; without a place, the list. The condition is Lua: cpu.rax == 1" },
  { "watch", args = "WHERE [BYTES] [w|r|x]", tab = { "symbols" }, fn = run.add_watch,
    help = "stop when these bytes (4) are written, read or executed" },
  { "delete", "d", args = "[N ...]", help = "breakpoints and watches with these numbers, or all",
    fn = run.delete },
  { "where", "w", args = "[WHERE]", help = "function, line and instruction, here or there",
    fn = look.where, tab = { "symbols" } },
  { "backtrace", "bt", args = "", help = "who called whom", fn = look.backtrace },
  { "locals", args = "", help = "variables of the function, where there is DWARF",
    fn = look.locals },
  { "registers", "r", args = "", help = "registers", fn = look.registers },
  { "disassemble", "dis", args = "[WHERE] [N]", help = "N (8) instructions", fn = look.disassemble,
    tab = { "symbols" } },
  { "x", args = "WHERE [BYTES]", help = "memory at a linear address: x rsp, x table+16 64",
    fn = look.examine, tab = { "symbols", "globals" } },
  { "cpu", args = "[N]", help = "the vCPU that commands are about", fn = look.choose_cpu },
  { "trace", args = "FILE [calls] [instructions]", fn = run.trace, tab = { "files" },
    help = "exits, interrupts … into a file, from now on (vm:trace); off ends it" },
  { "help", "h", args = "[TOPIC]", help = "this; or on a topic: help vm:run. In Lua: help(vm.run)",
    free = true },
}

local by_name = {}
for _, command in ipairs(COMMANDS) do
  for _, name in ipairs(command) do by_name[name] = command end
end

local function overview()
  local lines = { "Commands, beside Lua; an empty line repeats step and next:" }
  for _, c in ipairs(COMMANDS) do
    local names = table.concat(c, ", ") .. (c.args ~= "" and " " .. c.args or "")
    if #names > 26 then
      lines[#lines + 1] = "  " .. names
      names = ""
    end
    lines[#lines + 1] = ("  %-27s %s"):format(names, c.help)
  end
  lines[#lines + 1] = "WHERE: 0x1000, main, main+4, kernel.c:12, an expression with registers.\n"
    .. "Topics: kvm, vm, cpu, memory, ports, console, snapshot …: help vm, help vm:run, help(vm)"
  return table.concat(lines, "\n")
end

---What `help WORDS` or help(value) says.
---@param topic any  nil: the commands
---@return string
function M.help(topic)
  if topic == nil or topic == "" then return overview() end
  local c = type(topic) == "string" and by_name[topic]
  if c then
    return ("%s %s\n  %s"):format(table.concat(c, ", "), c.args, c.help)
  end
  local text, why = require("minikvm.cli.help").of(topic)
  if not text then error(why, 0) end
  return text
end

function by_name.help.fn(_, rest) return M.help(rest) end

---Names of commands, for completion: of several for one the first.
---@return string[]
function M.names()
  local names = {}
  for i, command in ipairs(COMMANDS) do names[i] = command[1] end
  return names
end

-- ---- lines ----

---Command, and the rest of the line; nil when it is Lua.
local function parse(line)
  local name, rest = line:match "^%s*([%a]+)%s*(.-)%s*$"
  local command = name and by_name[name]
  if not command or rest:find "^[%(%.:=%[,]" then return nil end
  local taken = rawget(_G, name)
  if taken ~= nil and name ~= "next" and taken ~= M.help_function then return nil end
  if line:find "^%s*[%a]+['\"{]" then return nil end
  return command, rest
end

---What Tab completes behind a command; nil when it is none.
---@return string[]?
function M.arguments(line)
  local command = parse(line)
  return command and (command.tab or {})
end

local last ---@type function?  what an empty line repeats

---The function of a line that is a command; nil when it is Lua. What it returns is printed.
---@param line string
---@return (fun(): any)?
function M.find(line)
  if line:find "^%s*$" then return last end
  local command, rest = parse(line)
  last = nil
  if not command then return nil end
  local function call() return command.fn(command.free or look.vm(), rest) end
  if command.again then last = call end
  return call
end

M.news = run.news

---The global `help` at the prompt: prints what there is to say of a value.
function M.help_function(topic)
  local ok, text = pcall(M.help, topic)
  local stream <const> = ok and io.stdout or io.stderr
  stream:write(text, "\n")
end

return M
