-- jail.lua - kvm.jail: the process gives up what it will not need (src/jail). Docs:
-- docs/security.md.

local core = require "minikvm.core"
local options = require "minikvm.options"
local strict = require "minikvm.strict"

local M = {}

-- As in src/jail/jail.h.
M.READ, M.WRITE, M.CHANGE, M.DEVICE, M.LINK, M.OPTIONAL, M.EMPTY = 1, 2, 4, 8, 16, 32, 64
M.LISTEN, M.FILES, M.HANDLERS = 1, 2, 4

M.LEVELS = { "best", "strict", "log" }

---A path, or a list of such.
local function paths(value)
  if type(value) == "string" then value = { value } end
  if type(value) ~= "table" then return nil, "expected a path, or a list of paths" end
  local list = {}
  for i = 1, #value do
    local path = value[i]
    if type(path) ~= "string" or path == "" or path:find("\0", 1, true) then
      return nil, ("expected paths, got %s as number %d"):format(
        type(path) == "string" and ("%q"):format(path) or "a " .. type(path), i)
    end
    list[i] = path
  end
  return list
end

local SCHEMA <const> = options.declare("kvm.jail", {
  level = M.LEVELS, read = paths, write = paths, change = paths, files = "boolean",
  listen = function(value)
    if type(value) == "boolean" then return value end
    return paths(value)
  end,
  policy = "text",
})

---What may be done with a path that is named so.
local ACCESS <const> = { read = M.READ, write = M.READ | M.WRITE,
                         change = M.READ | M.WRITE | M.CHANGE }

local mark = strict.record("jail", "kvm.jail()", { "level", "walls", "missing" }, function(jail)
  return ("level %s: %s%s"):format(jail.level, table.concat(jail.walls, ", "),
    jail.missing and "; missing: " .. jail.missing or "")
end)

---Adds to a list of paths and accesses what guests with files need beside their directories: a
---folder of minikvm's for private ones.
---@return true?
---@return string? why
---@return string? code
function M.add_private(list)
  local folder, below, code = core.private_folder()
  if not folder then return nil, below, code end
  for _, entry in ipairs{ { folder, M.READ | M.WRITE | M.CHANGE | M.LINK },
                          { below, M.EMPTY | M.LINK } } do
    list[#list + 1], list[#list + 2] = entry[1], entry[2]
  end
  return true
end

---What listening for gdb takes: a socket's folder, without a socket that was left over, which who
---is in a jail cannot find out.
---@param list (string|integer)[]  gets paths and accesses
---@param address string
function M.add_gdb(list, address)
  local path = address:match "^unix:(.+)$"
  if not path then return end
  core.clear_socket(path)
  list[#list + 1] = path:match "^(.*/)[^/]*$" or "."
  list[#list + 1] = M.READ | M.WRITE | M.CHANGE | M.LINK
end

---What a policy file grants, added to a list.
---@param policy minikvm.policy
---@param list (string|integer)[]
---@return integer allow
---@return string? why  a tap cannot be had
---@return string? code
function M.add_policy(policy, list)
  local allow = 0
  for _, granted in ipairs(policy.paths) do
    list[#list + 1], list[#list + 2] = granted[1], granted[2]
  end
  if #policy.paths > 0 then allow = allow | M.HANDLERS end
  if #policy.files > 0 then allow = allow | M.FILES end
  for _, address in ipairs(policy.gdb) do
    allow = allow | M.LISTEN
    M.add_gdb(list, address)
  end
  for _, name in ipairs(policy.tap) do
    local ok, why, code = core.keep_tap(name)
    if not ok then return nil, why, code end
  end
  return allow
end

---@param o table  the options, checked
---@return (string|integer)[] list  paths, each with what may be done with it
---@return integer allow
local function policy_of(o)
  local list, allow = {}, o.listen and M.LISTEN or 0
  for _, address in ipairs(type(o.listen) == "table" and o.listen or {}) do
    M.add_gdb(list, address)
  end
  for kind, access in pairs(ACCESS) do
    for _, path in ipairs(o[kind] or {}) do
      list[#list + 1], list[#list + 2] = path, access
      allow = allow | M.HANDLERS
    end
  end
  return list, o.files and allow | M.FILES or allow
end

---Puts the process into a jail: see M.jail in init.lua.
---@return minikvm.jail?
---@return string? why
---@return string? code
function M.enter(opts)
  local o = options.check("kvm.jail", opts, SCHEMA)
  local list, allow = policy_of(o)
  local report, why, code = true, nil, nil
  if o.policy then
    local policy, more
    policy, why = require("minikvm.policy").read(o.policy)
    if not policy then return nil, "kvm.jail: " .. why, "EINVAL" end
    more, why, code = M.add_policy(policy, list)
    if not more then return nil, "kvm.jail: " .. why, code end
    allow, o.level = allow | more, o.level or policy.level
    o.files = o.files or policy.disk ~= nil
  end
  if o.files then report, why, code = M.add_private(list) end
  local level = o.level or "best"
  if report then report, why, code = core.jail(level, allow, list) end
  if not report then return nil, "kvm.jail: " .. why, code end
  report.level = level
  return mark(report)
end

return M
