-- files.lua - file policies: which files a VM may use, on top of the core (src/lua/files.c).

local abi = require "minikvm.abi"
local core = require "minikvm.core"
local options = require "minikvm.options"

local M = {}

local vm_files = core.methods "minikvm.vmfiles"

local READ <const>, WRITE <const> = abi.FILE_READ, abi.FILE_WRITE
local MODES <const> = {
  r = READ, w = WRITE | abi.FILE_TRUNC, a = WRITE | abi.FILE_APPEND, ["r+"] = READ | WRITE,
  ["w+"] = READ | WRITE | abi.FILE_TRUNC, ["a+"] = READ | WRITE | abi.FILE_APPEND,
}

---Opens a file as the guest would.
---@param name string
---@param mode? string|integer  "r" (the default), "w", "a", "r+", "w+", "a+", or flags of the file
---  port
---@return integer? descriptor
---@return string? why
---@return string? code
function vm_files:open(name, mode)
  options.self("files:open", self, "minikvm.vmfiles")
  options.argument("files:open", "name", name, "string")
  local flags = math.type(mode) == "integer" and mode or MODES[mode == nil and "r" or mode]
  if not flags then
    core.blame("bad argument #2 to 'open' (a mode is r, w, a, r+, w+, a+, or flags of the file "
      .. "port)")
  end
  return core.files_open(self, name, flags)
end

local VERDICTS <const> = { "deny", "ro", "cow", "rw", "shared-rw" }

local function check_rule(rule, i)
  if type(rule) ~= "table" or #rule ~= 2 or type(rule[1]) ~= "string" then
    return nil, ("rule %d is not { pattern, verdict }"):format(i)
  end
  for key in pairs(rule) do
    if key ~= 1 and key ~= 2 then
      return nil, ("rule %d has a key '%s': it is { pattern, verdict }"):format(i, tostring(key))
    end
  end
  for _, verdict in ipairs(VERDICTS) do
    if rule[2] == verdict then return { rule[1], verdict } end
  end
  local hint = type(rule[2]) == "string" and options.hint(rule[2], VERDICTS, "%q") or ""
  return nil, ("rule %d: verdict %s is none of %s%s"):format(i, tostring(rule[2]),
                                                             table.concat(VERDICTS, ", "), hint)
end

local function check_rules(rules)
  if type(rules) ~= "table" then return nil, "expected a list of { pattern, verdict }" end
  local checked = {}
  for key in pairs(rules) do
    if math.type(key) ~= "integer" or key < 1 or key > #rules then
      return nil, ("expected a list of { pattern, verdict }, found a key %s"):format(tostring(key))
    end
  end
  for i, rule in ipairs(rules) do
    local good, why = check_rule(rule, i)
    if not good then return nil, why end
    checked[i] = good
  end
  return checked
end

local function path(value)
  if type(value) == "string" and value ~= "" and not value:find "\0" then return value end
  return nil, ("expected a directory, got %s"):format(tostring(value))
end

---Bytes, 0 allowed: a VM that may write nothing.
local function bytes(value)
  if value == 0 then return 0 end
  return options.size(value)
end

---What decide(name, mode) answers, as the core takes it: a verdict; nil: that of the rule.
local function deciding(decide)
  return function(name, mode)
    local answer = decide(name, mode)
    if answer == nil or answer == true then return nil end
    if answer == false then return "deny" end
    for _, verdict in ipairs(VERDICTS) do
      if answer == verdict then return verdict end
    end
    core.blame(("decide answered %s: it must return true, false, a verdict such as \"ro\", or "
      .. "nothing"):format(type(answer) == "string" and answer or type(answer)))
  end
end

local NEW = options.declare("kvm.files", {
  root = path, private = path, rules = check_rules,
  max_open = options.between(0, 16), max_bytes = bytes, max_file = bytes,
  max_files = options.between(0, math.maxinteger, "an integer of 0 or more"),
  audit = "boolean", decide = "function",
})

---Creates a file policy.
---  root       the directory whose files the rules are about
---  rules      list of { pattern, verdict }, in order: the first that matches the name counts.
---             "deny", "ro", "cow" (read; a copy of its own as soon as it writes), "rw" (the file
---             itself, one VM at a time), "shared-rw" (the file itself). `*` is any run of
---             characters but '/', `**` any at all, `?` one. No match: only the VM's own files.
---  private    where VMs keep what they make, a new folder each; by default it vanishes with them
---  max_open   descriptors at a time (16)       max_bytes  written in all ("1G")
---  max_file   size of a file it writes ("1G")  max_files  files made or copied (256)
---  audit      keeps a log: vm.files:audit()
---  decide     function(name, mode): mode "r", "w" or "rw"; false or a narrower verdict takes away
---@param opts? table
---@return minikvm.files? policy
---@return string? why  "what: why" when a directory cannot be used
---@return string? code  such as "ENOENT"
function M.new(opts)
  local o = options.check("kvm.files", opts, NEW)
  if not o.root then
    for i, rule in ipairs(o.rules or {}) do
      if rule[2] ~= "deny" then
        core.blame(("kvm.files: rule %d says %q of files, but there is no root= to find them in")
          :format(i, rule[2]))
      end
    end
  end
  o.decide = o.decide and deciding(o.decide)
  local policy, why, code = core.new_files(o)
  if code == "EINVAL" then core.blame("kvm.files: " .. why) end -- a pattern that no name can match
  return policy, why, code
end

---For the option `files` of kvm.vm.
M.check = options.object("minikvm.files", "a file policy, as kvm.files{} makes it")

return M
