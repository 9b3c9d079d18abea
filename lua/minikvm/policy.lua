-- policy.lua - policy files: what a process in a jail may use (docs/security.md).
--
-- A line is a key and a value; one that begins with "#" is a comment. The file is data: nothing of
-- it is run. Paths are relative to its folder, and are what they seem to be: no symbolic links, no
-- "..", not the root.

local core = require "minikvm.core"
local jail = require "minikvm.jail"
local options = require "minikvm.options"

local M = {}

local MOST <const> = 1 << 20 -- bytes of a file

local READ <const>, WRITE <const>, CHANGE <const> = jail.READ, jail.WRITE, jail.CHANGE

local VERDICTS <const> = { "ro", "cow", "rw", "shared-rw" }

---@class minikvm.policy
---@field path string
---@field level "best"|"strict"|"log"?
---@field paths { [1]: string, [2]: integer }[]  what may be done with which
---@field image { name: string?, path: string }[]
---@field files { name: string, path: string, verdict: string }[]
---@field gdb string[]  addresses; "any"
---@field tap string[]
---@field memory integer?
---@field disk integer?
---@field seconds number?
---@field handler number?

local function one_of(words)
  return function(value)
    for _, word in ipairs(words) do
      if value == word then return value end
    end
    return nil, ("expected %s, got %q%s"):format(table.concat(words, ", "), value,
                                                 options.hint(value, words, "%q"))
  end
end

local function duration(value)
  local number = tonumber(value)
  if number and number > 0 and number < 1e9 then return number end
  return nil, ("expected seconds (a number above 0), got %q"):format(value)
end

local function absolute(policy, path)
  if path:sub(1, 1) == "/" then return path end
  return (policy.path:match "^(.*/)" or "./") .. path
end

local function add_path(policy, path, access)
  path = absolute(policy, path)
  local ok, why = core.check_path(path)
  if not ok then return nil, why end
  policy.paths[#policy.paths + 1] = { path, access }
  return path
end

---A key of a path alone.
local function path_with(access)
  return function(policy, value) return add_path(policy, value, access) end
end

---A value that is kept under its key.
local function kept(check, key)
  return function(policy, value)
    local result, why = check(value)
    if result == nil then return nil, why end
    if policy[key] then return nil, "it is said already" end
    policy[key] = result
    return true
  end
end

local KEYS <const> = {
  level = kept(one_of(jail.LEVELS), "level"),
  read = path_with(READ), write = path_with(READ | WRITE),
  change = path_with(READ | WRITE | CHANGE),
  memory = kept(options.size, "memory"), disk = kept(options.size, "disk"),
  seconds = kept(duration, "seconds"), handler = kept(duration, "handler"),
}

---An image that may be loaded; by a name where it has one.
function KEYS.image(policy, value)
  local name, path = value:match "^([%w_.-]+)%s*=%s*(.+)$"
  local found, why = add_path(policy, path or value, READ)
  if not found then return nil, why end
  policy.image[#policy.image + 1] = { name = name, path = found }
  return true
end

---A root for files of guests.
function KEYS.files(policy, value)
  local name, path = value:match "^([%w_.-]+)%s*=%s*(.+)$"
  if not name then return nil, ("expected NAME=DIR or NAME=DIR:VERDICT, got %q"):format(value) end
  local dir, verdict = path:match "^(.+):([%a-]+)$"
  if verdict then
    local ok, why = one_of(VERDICTS)(verdict)
    if not ok then return nil, why end
  end
  local access = verdict == "shared-rw" and READ | WRITE | CHANGE or READ
  local found, why = add_path(policy, dir or path, access)
  if not found then return nil, why end
  policy.files[#policy.files + 1] = { name = name, path = found, verdict = verdict or "ro" }
  return true
end

---A file that is written as a whole: under another name in its folder first, and renamed.
function KEYS.output(policy, value)
  local folder = value:match "^(.*)/[^/]*$" or "."
  local found, why = add_path(policy, folder == "" and "/" or folder, READ | WRITE | CHANGE)
  return found and true, why
end

function KEYS.gdb(policy, value)
  if value ~= "any" then
    local at, why = require("minikvm.gdb").parse(value)
    if not at then return nil, why end
  end
  policy.gdb[#policy.gdb + 1] = value
  return true
end

function KEYS.network(policy, value)
  if value == "hub" then return true end -- within the process: nothing of the host's
  local tap = value:match "^tap%s+(%S+)$"
  if not tap then return nil, ("expected hub or tap NAME, got %q"):format(value) end
  policy.tap[#policy.tap + 1] = tap
  return true
end

local NAMES <const> = options.keys(KEYS)

---@return true?
---@return string? why
local function read_line(policy, line)
  local key, value = line:match "^%s*(%S+)%s*(.-)%s*$"
  if not key or key:sub(1, 1) == "#" then return true end
  if not KEYS[key] then
    return nil, ("unknown key %q%s: there are %s"):format(key, options.hint(key, NAMES, "%q"),
                                                         table.concat(NAMES, ", "))
  end
  if value == "" then return nil, ("%s: a value is missing"):format(key) end
  local ok, why = KEYS[key](policy, value)
  if not ok then return nil, ("%s: %s"):format(key, why) end
  return true
end

---@param path string
---@return string? text
---@return string? why
local function read_file(path)
  local file <close>, why = io.open(path, "rb")
  if not file then return nil, why end
  local text, problem = file:read(MOST + 1)
  if problem then return nil, path .. ": " .. problem end
  text = text or ""
  if #text > MOST then return nil, path .. ": more than 1 MiB: this is no policy" end
  if text:find "[\0-\8\14-\31]" then return nil, path .. ": not a text: this is no policy" end
  return text
end

---Reads a policy file.
---@param path string
---@return minikvm.policy?
---@return string? why  "FILE:LINE: key: what is wrong with it"
function M.read(path)
  local policy = { path = path, paths = {}, image = {}, files = {}, gdb = {}, tap = {} }
  local text, why = read_file(path)
  if not text then return nil, why end
  local number = 0
  for line in (text .. "\n"):gmatch "(.-)\r?\n" do
    number = number + 1
    local ok, problem = read_line(policy, line)
    if not ok then return nil, ("%s:%d: %s"):format(path, number, problem) end
  end
  return policy
end

---Whether a policy lets a path be used so; where it is to be made, its folder.
---@param policy minikvm.policy
---@param path string
---@param access integer
---@return true?
---@return string? why
function M.allows(policy, path, access)
  local real, missing = core.real_path(path), access
  for _, granted in ipairs(policy.paths) do
    local root = core.real_path(granted[1])
    if real and root and (real == root or real:sub(1, #root + 1) == root .. "/") then
      missing = missing & ~granted[2]
    end
  end
  if missing == 0 then return true end
  return nil, ("%s: %s does not let it be %s"):format(path, policy.path,
    missing & CHANGE ~= 0 and "made" or missing & WRITE ~= 0 and "written to" or "read")
end

---@param policy minikvm.policy
---@param address string  of --gdb
---@return true?
---@return string? why
function M.allows_gdb(policy, address)
  for _, granted in ipairs(policy.gdb) do
    if granted == "any" or granted == address then return true end
  end
  return nil, ("gdb %s: %s does not let it be listened for"):format(address, policy.path)
end

return M
