-- The sub-commands of the minikvm program: run, test, doctor, completion, --safe, --help,
-- --version; what is said about a wrong command line of its interpreter.
--
-- main() is called by the program (interpreter.lua) and returns the process's exit status.

local args = require "minikvm.cli.args"
local options = require "minikvm.options"
local run = require "minikvm.cli.run"
local style = require "minikvm.cli.style"

local M = {}

local USAGE = 2

-- For the other commands, and for scripts.
M.attempt, M.conclude = run.attempt, run.conclude

local HELP = [==[
usage: minikvm [options] [script [args]]     a Lua 5.4 interpreter with the module "minikvm"
       minikvm run [options] guest.bin ...   runs guest images; more: minikvm run --help
       minikvm prompt [options] file ...     looks at images and snapshots, step by step; more:
                                             minikvm prompt --help
       minikvm linux [options]               Linux in a VM; more: minikvm linux --help
       minikvm test [options] path ...       runs spec files; more: minikvm test --help
       minikvm --safe [options] script.lua   a script that gets nothing of the host but what is
                                             named; more: minikvm --safe --help
       minikvm new KIND NAME                 a folder to begin a project from: a kernel, a
                                             device, tests; more: minikvm new --help
       minikvm doctor                        can this host run VMs, and what to do if not
       minikvm completion bash|zsh|fish      prints what makes the shell complete these words
       minikvm --help | --version

Options of the interpreter, as of lua:
  -e stat   execute string 'stat', with the module in the global "kvm"
  -i        enter interactive mode after executing 'script'
  -l mod    require library 'mod' into global 'mod'
  -l g=mod  require library 'mod' into global 'g'
  -v        show version information
  -E        ignore environment variables
  -W        turn warnings on
  --        stop handling options
  -         stop handling options and execute stdin
Without arguments on a terminal: a prompt, with the module in the global "kvm". A script called
"run", "prompt", "linux", "test", "new", "doctor" or "completion" is started as ./run.
]==]

local function version_text(host)
  return ("minikvm %s, %s"):format(host.version or require("minikvm")._VERSION or "?", _VERSION)
end

-- What the interpreter takes (interpreter.lua), for completions.
local INTERPRETER <const> = {
  program = "minikvm", summary = "A Lua 5.4 interpreter with the module minikvm.",
  options = {
    { "-e", value = "STAT", help = "execute this string" },
    { "-l", value = "MOD", help = "require this library" },
    { "-i", help = "interactive mode after the script" },
    { "-v", help = "show version information" },
    { "-E", help = "ignore environment variables" },
    { "-W", help = "turn warnings on" },
    { "--safe", help = "a script that gets only what is named" },
    { "--version", help = "show the version" },
  },
}

local DOCTOR = {
  program = "minikvm doctor",
  summary = "Tells whether this host can run virtual machines, and what to do if not.",
  options = { { "--json", help = "the same as one JSON object (docs/json.md)" } },
  notes = "Exit status: 0 when it can, 1 when it cannot.",
}

local function doctor(argv, host)
  local opts, status = args.handle(DOCTOR, argv)
  if not opts then return status end
  return require("minikvm.cli.doctor").run(host.doctor, nil, opts.json)
end

local function print_and_succeed(text)
  io.stdout:write(text)
  return 0
end

local SHELLS <const> = { bash = true, zsh = true, fish = true }

local COMPLETION <const> = {
  program = "minikvm completion",
  summary = "Prints a script for a shell, which then completes minikvm's commands and options.",
  options = {},
  rest = { key = "shell", value = "bash|zsh|fish", choices = { "bash", "zsh", "fish" },
           min = 1, max = 1, help = "the shell" },
  notes = "bash: source <(minikvm completion bash). zsh: minikvm completion zsh >_minikvm, in a"
    .. "\nfolder of $fpath. fish: minikvm completion fish >~/.config/fish/completions/minikvm.fish",
}

local function completion(argv)
  local opts, status = args.handle(COMPLETION, argv)
  if not opts then return status end
  local shell = opts.shell[1]
  if not SHELLS[shell] then
    local why = ("no completions for %q: there are bash, zsh and fish"):format(shell)
    return args.complain(COMPLETION, why)
  end
  local specs = M.specs()
  specs.minikvm = nil
  return print_and_succeed(args.completion(shell, INTERPRETER, specs))
end

---The descriptions (args.lua) of the commands, by name; "minikvm" is the interpreter's.
---@return table<string, minikvm.args.spec>
function M.specs()
  local run_options = require "minikvm.cli.run_options"
  return { minikvm = INTERPRETER, run = run_options.spec, prompt = run_options.prompt_spec,
           linux = require("minikvm.cli.linux").spec,
           test = require("minikvm.test.runner").spec, new = require("minikvm.cli.new").spec,
           doctor = DOCTOR, completion = COMPLETION }
end

---What --help of a command prints.
---@param name string  as in specs()
---@return string
function M.help(name)
  return name == "minikvm" and HELP or args.help(M.specs()[name])
end

local WORDS <const> = require("minikvm.cli.interpreter").commands

local COMMANDS = {
  run = function(argv, host) return run.main(argv, host) end,
  prompt = function(argv, host) return run.main(argv, host, true) end,
  doctor = doctor,
  completion = completion,
  linux = function(argv, host) return require("minikvm.cli.linux").main(argv, host) end,
  test = function(argv) return require("minikvm.test.runner").main(argv) end,
  new = function(argv) return require("minikvm.cli.new").main(argv) end,
  ["--safe"] = function(argv) return require("minikvm.cli.safe").main(argv) end,
  ["--help"] = function() return print_and_succeed(style.wrap(HELP, style.columns())) end,
  ["-h"] = function() return print_and_succeed(style.wrap(HELP, style.columns())) end,
  ["--version"] = function(_, host) return print_and_succeed(version_text(host) .. "\n") end,
}

-- ---- the interpreter's command line (interpreter.lua) ----

local USAGE_TEXT <const> = [==[
usage: %s [-e stat] [-l mod] [-l g=mod] [-i] [-v] [-E] [-W] [--] [-]
       [script [args]]
       %s run [options] guest.bin ... | prompt [options] file ... | linux [options] |
       test [options] path ... | new KIND NAME | --safe [options] script | doctor |
       completion bash|zsh|fish | --help | --version
]==]

---Says on stderr what is wrong with an option of the interpreter. Returns the exit status.
---@param program string  as it was called
---@param option string
---@return integer
function M.usage_error(program, option)
  local known = { "--help", "--version", "--safe" }
  local what = ("unrecognized option '%s'%s"):format(option, options.hint(option, known))
  if option:find "^%-[el]" then
    what = ("'%s' needs argument"):format(option)
  end
  io.stderr:write(program, ": ", what, "\n", USAGE_TEXT:format(program, program))
  return USAGE
end

---What a newcomer may have meant by a file that does not load as a script.
---@param program string  as it was called
---@param name string
function M.hint(program, name)
  local file = io.open(name, "rb")
  if file then
    file:close()
    if not name:find "%.bin$" and not name:find "%.elf$" then return end
    io.stderr:write(("%s: a guest image runs with '%s run %s'\n"):format(program, program, name))
    return
  end
  local meant = options.nearest(name, WORDS)
  if not meant then return end
  io.stderr:write(("%s: did you mean '%s %s'?\n"):format(program, program, meant))
end

---Carries out a command line whose first word is a sub-command.
---@param argv string[]
---@param host? { terminal: boolean?, version: string?, doctor: minikvm.doctor.host? }  what the
---program knows: stdin is a terminal; its version
---@return integer status  for the process
---@return function? leave  there is to be a prompt, then this
function M.main(argv, host)
  local command = COMMANDS[argv[1]]
  if not command then
    io.stderr:write(("minikvm: unknown command %q%s\n"):format(
      argv[1] or "", options.hint(argv[1] or "", WORDS)))
    return USAGE
  end
  return command(table.move(argv, 2, #argv, 1, {}), host or {})
end

return M
