-- args.lua - command lines by table: one description gives the parser, the usage line and the help.
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
-- name, "-" replaced by "_".

local options = require "minikvm.options"

local M = {}

local HELP = { "--help", "-h", help = "show this help" }

---@class minikvm.args.option
---@field [1] string  the long name, "--memory"
---@field [2] string?  the short one, "-m"
---@field value string?  what its value is called; nil: a flag
---@field type (string|string[]|fun(text: string): any, string?)?
---@field repeatable boolean?  may be given again; results in a list
---@field many boolean?  takes all values up to the next option; results in a list
---@field help string

---@class minikvm.args.spec
---@field program string
---@field summary string?
---@field options minikvm.args.option[]
---@field rest table?  the arguments that are no options; absent: there are none
---@field notes string?

-- ---- values ----

local TYPES = {
  string = function(text) return text end,
  size = options.size,
  integer = function(text)
    local number = (text:match("^%-?%d+$") or text:match("^0[xX]%x+$")) and tonumber(text)
    if math.type(number) == "integer" then return number end
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

local function convert(option, text)
  local kind = option.type or "string"
  if type(kind) == "table" then return one_of(text, kind) end
  return (TYPES[kind] or kind)(text)
end

local function key_of(option)
  return (option[1]:gsub("^%-+", ""):gsub("%-", "_"))
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

---Splits "--name=value" and "-nvalue". Returns the option, the name as written, the value if any.
local function match_option(by_name, word)
  local name, value = word:match("^(%-%-[^=]+)=(.*)$")
  if not name then
    name = word
    if not by_name[word] and word:match("^%-[^-].") then
      name, value = word:sub(1, 2), word:sub(3)
    end
  end
  return by_name[name], name, value
end

---True when `word` can be a value: everything but a known option and "--".
local function is_value(by_name, word)
  return word ~= nil and word ~= "--" and not match_option(by_name, word)
end

---Several values end where something begins that looks like an option, known or not.
local function is_further_value(by_name, word)
  return is_value(by_name, word) and (word == "-" or word:sub(1, 1) ~= "-")
end

local function store(result, option, name, text)
  local value, why = convert(option, text)
  if value == nil then return nil, ("%s: %s"):format(name, why) end
  local key = key_of(option)
  if option.repeatable or option.many then
    result[key] = result[key] or {}
    table.insert(result[key], value)
  elseif result[key] ~= nil then
    return nil, ("%s is given twice"):format(option[1])
  else
    result[key] = value
  end
  return true
end

---Reads the option at argv[i]; returns the index after it, or nil and a message.
local function read_option(by_name, names, argv, i, result)
  local option, name, value = match_option(by_name, argv[i])
  if not option then
    local unknown = argv[i]:match("^(%-%-[^=]+)=") or argv[i]
    return nil, ("unknown option '%s'%s"):format(unknown, options.hint(unknown, names))
  end
  if not option.value then
    if value then return nil, ("%s takes no value"):format(name) end
    result[key_of(option)] = true
    return i + 1
  end
  if not value then
    i = i + 1
    value = argv[i]
    if not is_value(by_name, value) then
      return nil, ("%s needs a value: %s %s"):format(name, name, option.value)
    end
  end
  local stored, why = store(result, option, name, value)
  while stored and option.many and is_further_value(by_name, argv[i + 1]) do
    i = i + 1
    stored, why = store(result, option, name, argv[i])
  end
  if not stored then return nil, why end
  return i + 1
end

local function check_rest(spec, words)
  local rest = spec.rest or { value = "argument", max = 0 }
  local min, max = rest.min or 0, rest.max or math.huge
  if #words > max then
    if max == 0 then return nil, ("unexpected argument %q"):format(words[1]) end
    return nil, ("at most %d %s can be given, got %d"):format(max, rest.value, #words)
  elseif #words < min then
    if min == 1 then return nil, ("%s is missing"):format(rest.value) end
    return nil, ("at least %d %s are needed, got %d"):format(min, rest.value, #words)
  end
  return true
end

---Parses a command line. `result.help` is true when --help was among it (nothing is checked then).
---@param spec minikvm.args.spec
---@param argv string[]
---@return table? result
---@return string? message
function M.parse(spec, argv)
  local by_name, names = index_options(spec)
  local result, words, i = {}, {}, 1
  while argv[i] do
    local word = argv[i]
    if word == "--" then
      table.move(argv, i + 1, #argv, #words + 1, words)
      break
    elseif word ~= "-" and word:sub(1, 1) == "-" then
      local next_index, why = read_option(by_name, names, argv, i, result)
      if not next_index then return nil, why end
      if result.help then return { help = true } end
      i = next_index
    else
      words[#words + 1] = word
      i = i + 1
    end
  end
  local fits, why = check_rest(spec, words)
  if not fits then return nil, why end
  if spec.rest then result[spec.rest.key] = words end
  return result
end

-- ---- texts ----

local function describe(option, separator)
  local value = option.value and " " .. option.value .. (option.many and " ..." or "") or ""
  return (option[2] and option[2] .. separator or "") .. option[1] .. value
end

---Appends `words` to `lines` after `first`, wrapped at 80 columns, further lines indented.
local function wrap(lines, first, words, indent)
  local line = first
  for _, word in ipairs(words) do
    if #line + #word >= 80 and line:find("%S") then
      lines[#lines + 1] = line
      line = (" "):rep(indent - 1)
    end
    line = line .. " " .. word
  end
  lines[#lines + 1] = line
end

---The usage line (wrapped), without a newline at the end.
---@param spec minikvm.args.spec
---@return string
function M.usage(spec)
  local words, rest = {}, spec.rest
  for _, option in ipairs(spec.options) do
    words[#words + 1] = ("[%s]%s"):format(describe(option, "|"),
                                          option.repeatable and "..." or "")
  end
  if rest then
    local more = (rest.max or math.huge) > 1 and " ..." or ""
    words[#words + 1] = ((rest.min or 0) > 0 and "%s%s" or "[%s%s]"):format(rest.value, more)
  end
  local lines, first = {}, "usage: " .. spec.program
  wrap(lines, first, words, #first + 1)
  return table.concat(lines, "\n")
end

local function split(text)
  local words = {}
  for word in text:gmatch("%S+") do words[#words + 1] = word end
  return words
end

local function add_entry(lines, left, help)
  local column = 26
  local first = "  " .. left
  if #first >= column - 1 then
    lines[#lines + 1] = first
    first = ""
  end
  wrap(lines, first .. (" "):rep(column - 1 - #first), split(help), column)
end

---The whole help text.
---@param spec minikvm.args.spec
---@return string
function M.help(spec)
  local lines = { M.usage(spec) }
  if spec.summary then lines[#lines + 1] = spec.summary end
  lines[#lines + 1] = ""
  if spec.rest and spec.rest.help then add_entry(lines, spec.rest.value, spec.rest.help) end
  for _, option in ipairs(spec.options) do
    add_entry(lines, describe(option, ", "), option.help or "")
  end
  add_entry(lines, describe(HELP, ", "), HELP.help)
  if spec.notes then lines[#lines + 1] = "\n" .. spec.notes end
  return table.concat(lines, "\n") .. "\n"
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

return M
