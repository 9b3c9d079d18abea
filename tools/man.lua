-- man.lua - a manual page, from what makes the help texts of the command line.
--
--   minikvm tools/man.lua minikvm|run|linux|test VERSION
--
-- Its format is that of man(7). Of minikvm(1) itself the help text is the page.

local cli = require("minikvm") and require "minikvm.cli"

local PAGES <const> = { "minikvm", "run", "linux", "test" }

local name, version = arg[1], arg[2] or ""
local spec = assert(cli.specs()[name], "no such command")

---Text as troff takes it: no line of it is a request, no character an escape.
local function plain(text)
  return (("\n" .. text):gsub("\\", "\\e"):gsub("%-", "\\-"):gsub("\n([.'])", "\n\\&%1"):sub(2))
end

local function bold(text) return "\\fB" .. plain(text) .. "\\fR" end

local function page_of(command) return command == "minikvm" and command or "minikvm-" .. command end

local function write_options()
  for _, option in ipairs(spec.options) do
    local names = { bold(option[1]), option[2] and bold(option[2]) }
    local value = option.value and " \\fI" .. plain(option.value) .. "\\fR" or ""
    io.write(".TP\n", table.concat(names, ", "), value, "\n", plain(option.help), "\n")
  end
  io.write(".TP\n", bold "--help", ", ", bold "-h", "\nshow this help\n")
end

local summary = spec.summary:gsub("\n", " ")
io.write((".TH %s 1 \"\" \"minikvm %s\" \"User Commands\"\n"):format(page_of(name):upper(),
                                                                   version))
local first = summary:match "^(.-)%.%f[%s\0]" or summary
io.write(".SH NAME\n", plain(page_of(name)), " \\- ",
         plain(first:sub(1, 1):lower() .. first:sub(2)), "\n")
if name == "minikvm" then
  io.write(".SH DESCRIPTION\n.nf\n", plain(cli.help(name)), ".fi\n")
else
  local usage = cli.help(name):match "^usage: (.-)\n\n":gsub("\n +", "\n    ")
  io.write(".SH SYNOPSIS\n.nf\n", plain(usage), "\n.fi\n")
  io.write(".SH DESCRIPTION\n", plain(summary), "\n")
  if spec.rest then
    io.write(".TP\n\\fI", plain(spec.rest.value), "\\fR\n", plain(spec.rest.help or ""), "\n")
  end
  io.write ".SH OPTIONS\n"
  write_options()
  if spec.notes then io.write(".SH NOTES\n", plain((spec.notes:gsub("\n", " "))), "\n") end
end
local others = {}
for _, page in ipairs(PAGES) do
  if page ~= name then others[#others + 1] = bold(page_of(page)) .. "(1)" end
end
io.write(".SH SEE ALSO\n", table.concat(others, ", "), ", ", bold "lua5.4", "(1)\n")
