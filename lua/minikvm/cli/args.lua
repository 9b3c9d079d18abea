-- args.lua - command lines by table: one description gives a parser of argparse, with its usage
-- line, help and shell completions, and messages that name what is wrong and what was meant.
--
-- A description:
--   { program = "minikvm run", summary = "Runs guest images.",
--     options = {
--       { "--memory", "-m", value = "SIZE", type = "size", help = "RAM of each VM" },
--       { "--limit", value = "WHAT=N", repeatable = true, help = "…" },       -- a list of values
--       { "--guest", "-g", value = "IMAGE", many = true, help = "…" },        -- -g a b c, a list
--       { "--trace", help = "…" },                                            -- a flag
--     },
--     rest = { key = "guests", value = "guest.bin", min = 1, max = 4, help = "…" },
--     notes = "More text at the end of the help." }
-- `type` is "string" (default), "integer" (0x too), "size", "seconds", "duration" (seconds above
-- 0), a list of words, or a function text -> value or nil, message. Results are keyed by the long
-- name, "-" replaced by "_". The parser is LuaRocks' and Debian's argparse, which the build embeds;
-- it is loaded for command lines that have options.

local options = require "minikvm.options"
local style = require "minikvm.cli.style"

local M = {}

local WIDTH <const>, NARROW <const> = 80, 60 -- columns; from here on help is beside options
local HELP <const> = { "--help", "-h" }
local NOTHING <const> = { key = "", value = "argument", max = 0 } -- as `rest`

-- ---- values ----

local TYPES = {
  string = function(text) return text end,
  size = options.size,
  integer = function(text)
    local number = options.to_integer(text)
    if number then return number end
    return nil, ("expected an integer, got %q"):format(text)
  end,
  seconds = function(text)
    local number = tonumber(text)
    if number and number >= 0 and number < math.huge then return number end
    return nil, ("expected seconds (a number, 0 or more), got %q"):format(text)
  end,
  duration = function(text)
    local number = tonumber(text)
    if number and number > 0 and number < 1e9 then return number end
    return nil, ("expected seconds (a number above 0), got %q"):format(text)
  end,
}

local function one_of(text, words)
  for _, word in ipairs(words) do
    if text == word then return text end
  end
  return nil, ("expected %s, got %q%s"):format(table.concat(words, " or "), text,
                                               options.hint(text, words, "%q"))
end

---What argparse calls for each value of an option; its message gets the option's name.
local function converter(option)
  local kind = option.type or "string"
  return function(text)
    local value, why
    if type(kind) == "table" then
      value, why = one_of(text, kind)
    else
      value, why = (TYPES[kind] or kind)(text)
    end
    if value == nil then return nil, ("%s: %s"):format(option[1], why) end
    return value
  end
end

-- ---- the parser ----

---Adds an option. Choices are for completions only: converter() has the better message. So is how
---much there may be of the rest, for texts: check_rest() names what is missing or too much.
local function add_option(parser, option, to_show)
  local added = parser:option(option[1]):description(option.help or "")
  if option[2] then added:name(option[2]) end
  if not option.value then return added:args(0) end
  added:argname(option.value):convert(converter(option)):args(option.many and "+" or 1)
  if to_show and type(option.type) == "table" then added:choices(option.type) end
  if option.many or option.repeatable then
    added:count("*"):action(option.many and "concat" or "append"):init(nil)
  else
    added:count("0-1"):overwrite(false)
  end
end

local function add_rest(parser, rest, to_show)
  local argument = parser:argument(rest.value):argname(rest.names or rest.value)
  argument:description(rest.help or "")
  local min, max = rest.min or 0, to_show and rest.max
  local range = max and (min == max and min or ("%d-%d"):format(min, max))
  argument:args(range or to_show and min > 0 and "+" or "*")
  argument:target(rest.key)
  if to_show and rest.choices then argument:choices(rest.choices) end
  return argument
end

---Fills a parser, or a command of one.
---@param to_show boolean?  for texts, not to parse
local function fill(parser, spec, to_show)
  local columns = to_show and math.min(WIDTH, style.columns() or WIDTH) or WIDTH
  parser:usage_max_width(columns):help_max_width(columns):add_help(false)
  if columns < NARROW then
    parser:usage_margin(2):help_usage_margin(1):help_description_margin(4)
  end
  if spec.summary then parser:description((spec.summary:gsub("\n", " "))) end -- it wraps lines
  if spec.notes then parser:epilog((spec.notes:gsub("\n", " "))) end
  for _, option in ipairs(spec.options) do add_option(parser, option, to_show) end
  parser:flag(table.concat(HELP, " ")):description "show this help"
    :action(function() error{ help = true } end)
  if spec.rest or not to_show then add_rest(parser, spec.rest or NOTHING, to_show) end
  return parser
end

---@param spec minikvm.args.spec
local function make_parser(spec, to_show)
  local parser = fill(require "minikvm.cli.argparse"(spec.program), spec, to_show)
  function parser.error(_, message) error{ message = message } end
  return parser
end

---A completion script for a program with sub-commands, by argparse; its commands do not take the
---program's own options, and instead of a command there may be a file (which bash and fish know).
---@param shell "bash"|"zsh"|"fish"
---@param root minikvm.args.spec
---@param commands table<string, minikvm.args.spec>
---@return string
function M.completion(shell, root, commands)
  local parser = fill(require "minikvm.cli.argparse"(root.program), root, true)
  for _, name in ipairs(options.keys(commands)) do
    fill(parser:command(name), commands[name], true)
  end
  local text = parser["get_" .. shell .. "_complete"](parser)
  text = text:gsub('opts="%$opts ', 'opts="'):gsub("options=%(%s+%$options\n", "options=(\n")
  return (text:gsub('(_describe "command" commands\n)', "%1  _files\n"))
end

-- ---- parsing ----

local function index_options(spec)
  local by_name, names = {}, {}
  local function add(option)
    for i = 1, 2 do
      if option[i] then
        by_name[option[i]] = option
        names[#names + 1] = option[i]
      end
    end
  end
  for _, option in ipairs(spec.options) do add(option) end
  add(HELP)
  return by_name, names
end

---The option that a word names, "--name=value" and "-nvalue" too; whether its value is in it.
local function match_option(by_name, word)
  local long = word:match "^(%-%-[^=]+)"
  local name = long or word:sub(1, 2)
  return by_name[name], name, #word > #name
end

---The words as argparse wants them: a value that begins with "-" becomes a part of its option's
---word.
---nil and a message for an option that nobody knows.
local function prepare(spec, argv)
  local by_name, names = index_options(spec)
  local words, i = {}, 1
  while argv[i] and argv[i] ~= "--" do
    local word = argv[i]
    local option, name, whole = match_option(by_name, word)
    if word:sub(1, 1) == "-" and word ~= "-" and not option then
      return nil, ("unknown option '%s'%s"):format(name, options.hint(name, names))
    end
    local value = argv[i + 1]
    if option and option.default then
      word = whole and word or word .. "=" .. option.default
    elseif option and option.value and not whole and value and value:find "^%-."
       and value ~= "--" and not match_option(by_name, value) then
      word, i = word .. (#name > 2 and "=" or "") .. value, i + 1
    end
    words[#words + 1], i = word, i + 1
  end
  table.move(argv, i, #argv, #words + 1, words)
  return words, by_name
end

-- argparse's messages, and what they are here; an option's %2 is what its value is called.
local MESSAGES <const> = {
  { "^option '(.-)' requires .*argument", "%1 needs a value: %1 %2" },
  { "^option '(.-)' must be used at most 1 time", "%1 is given twice" },
  { "^option '(.-)' does not take arguments", "%1 takes no value" },
}

local function translate(message, by_name)
  for _, entry in ipairs(MESSAGES) do
    local name = message:match(entry[1])
    if name then
      local option = by_name[name] or {}
      local parts = { ["%1"] = entry[2]:find "twice" and option[1] or name,
                      ["%2"] = option.value or "" }
      return (entry[2]:gsub("%%%d", parts))
    end
  end
  return message
end

local function check_rest(rest, words)
  local min, max = rest.min or 0, rest.max or math.huge
  if #words > max then
    if max == 0 or rest.names then return ("unexpected argument %q"):format(words[max + 1]) end
    return ("at most %d %s can be given, got %d"):format(max, rest.value, #words)
  elseif #words < min then
    return (rest.names and rest.names[#words + 1] or rest.value) .. " is missing"
  end
end

---Words without an option among them are the rest; nil when there is one, or no word.
local function plain(spec, argv)
  for _, word in ipairs(argv) do
    if word:sub(1, 1) == "-" then return nil end
  end
  return argv[1] and { [(spec.rest or NOTHING).key] = table.move(argv, 1, #argv, 1, {}) }
end

---What argparse makes of the words; nil and a message when they are wrong.
local function parse_options(spec, argv)
  local words, by_name = prepare(spec, argv)
  if not words then return nil, by_name end
  local parser = make_parser(spec)
  local fine, result = pcall(parser.parse, parser, words)
  if fine then return result end
  if type(result) ~= "table" then error(result, 0) end
  if result.help then return { help = true } end
  return nil, translate(result.message, by_name)
end

---Parses a command line. `result.help` is true when --help was among it (nothing is checked then).
---@param spec minikvm.args.spec
---@param argv string[]
---@return table? result
---@return string? message
function M.parse(spec, argv)
  local result, why = plain(spec, argv)
  if not result then result, why = parse_options(spec, argv) end
  if not result or result.help then return result, why end
  local rest = spec.rest or NOTHING
  why = check_rest(rest, result[rest.key])
  if why then return nil, why end
  result[NOTHING.key] = nil
  return result
end

-- ---- texts ----

---The usage line (wrapped), without a newline at the end.
---@param spec minikvm.args.spec
---@return string
function M.usage(spec)
  return style.wrap(make_parser(spec, true):get_usage():gsub("^U", "u"), style.columns())
end

---The whole help text.
---@param spec minikvm.args.spec
---@return string
function M.help(spec)
  local text = make_parser(spec, true):get_help():gsub("^U", "u")
  return style.wrap(text, style.columns()) .. "\n"
end

---Says on stderr what is wrong with a command line, and how it goes. Returns the exit status, 2.
---@param spec minikvm.args.spec
---@param message string
---@return integer
function M.complain(spec, message)
  io.stderr:write(spec.program, ": ", message, "\n", M.usage(spec), "\n")
  return 2
end

---What a script wants: the parsed command line, or nil and the status to exit with, the help or the
---message having been printed.
---@param spec minikvm.args.spec
---@param argv string[]
---@return table? result
---@return integer? status
function M.handle(spec, argv)
  local result, why = M.parse(spec, argv)
  if not result then return nil, M.complain(spec, why) end
  if not result.help then return result end
  io.stdout:write(M.help(spec))
  return nil, 0
end

---For a script without options: --help prints the comment at its head and ends the process, any
---other argument ends it with a message.
---@param argv table<integer, string>  the script's `arg`, with its path at 0
---@param more? string  a line behind the comment
function M.explain(argv, more)
  if not argv[1] then return end
  local name = argv[0]:match "[^/]*$"
  if argv[1] ~= HELP[1] and argv[1] ~= HELP[2] then
    local why = ("unexpected argument %q"):format(argv[1])
    os.exit(M.complain({ program = name, options = {} }, why), true)
  end
  for line in io.lines(argv[0]) do
    local text = line:match "^%-%- ?(.*)"
    if not text then break end
    print(text)
  end
  if more then print("\n" .. more) end
  os.exit(true, true)
end

return M
