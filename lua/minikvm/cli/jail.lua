-- cli/jail.lua - minikvm run --jail: what a command line names is all that the process can reach;
-- with a policy, what that names.
--
-- Entered before the first image is opened: what reads images is inside, too.

local complain = require("minikvm.cli.say").complain
local core = require "minikvm.core"
local jail = require "minikvm.jail"

local M = {}

-- What is not there is said by its reader.
local READ <const> = jail.READ | jail.LINK | jail.OPTIONAL

---The folder that a file is in.
local function folder_of(path) return path:match "^(.*/)[^/]*$" or "." end

---Files that are written under another name first, and renamed: their folder.
local function add_output(list, path)
  if not path then return end
  list[#list + 1], list[#list + 2] = path, READ | jail.WRITE
  list[#list + 1], list[#list + 2] = folder_of(path), READ | jail.WRITE | jail.CHANGE
end

local function add_all(list, paths, access)
  for _, path in ipairs(paths or {}) do list[#list + 1], list[#list + 2] = path, access end
end

---The paths that a command line of minikvm run names, with what may be done with them.
---@param opts table
---@return (string|integer)[]
local function named_paths(opts)
  local list = {}
  local disk = opts.disk_write and READ | jail.WRITE or READ
  add_all(list, opts.guests, disk)
  add_all(list, opts.disk, disk)
  local bios = opts.bios ~= "seabios" and opts.bios ~= "lua" and opts.bios or nil
  add_all(list, { opts.input }, READ)
  add_all(list, { bios }, READ)
  for _, module in ipairs(opts.module or {}) do
    add_all(list, { module:match "^([^=]*)=" or module }, READ)
  end
  for _, file in ipairs(opts.symbols or {}) do add_all(list, { file.path }, READ) end
  add_output(list, opts.screenshot)
  add_output(list, opts.trace_file)
  return list
end

---What a run may need beside them: a BIOS's other part, Linux's shell and modules.
local function add_own(list, opts)
  if opts.bios then add_all(list, { folder_of(opts.bios) .. "/vgabios-isavga.bin" }, READ) end
  for _, guest in ipairs(opts.guests) do -- one may be Linux's kernel, and gets a shell
    add_all(list, { require("minikvm.linux.host").modules_of(guest) }, READ)
  end
  add_all(list, { "/bin/busybox", "/usr/bin/busybox" }, READ)
end

---Whether a policy lets a command line be.
---@return true?
---@return string? why
local function check_policy(policy, opts, list)
  local rules <const> = require "minikvm.policy"
  for i = 1, #list, 2 do
    local path, access = list[i], list[i + 1] & (jail.READ | jail.WRITE | jail.CHANGE)
    local new <const> = access & jail.WRITE ~= 0 and not core.real_path(path) -- its folder counts
    if not new then
      local ok, why = rules.allows(policy, path, access)
      if not ok then return nil, why end
    end
  end
  local address <const> = opts.gdb or opts.gdb_on_crash
  if address then return rules.allows_gdb(policy, address) end
  return true
end

---@return integer? allow
---@return string? why
local function add_policy(opts, list)
  local policy, why = require("minikvm.policy").read(opts.policy)
  if not policy then return nil, why end
  local ok, problem = check_policy(policy, opts, list)
  if not ok then return nil, problem end
  for i = #list, 1, -1 do list[i] = nil end
  if policy.disk then core.limit_files(policy.disk) end
  opts.jail = opts.jail or policy.level or "best"
  return jail.add_policy(policy, list)
end

---Enters the jail that a command line asks for.
---@param opts table  of minikvm run
---@return true?
---@return string? why
function M.enter(opts)
  local address = opts.gdb or opts.gdb_on_crash
  local allow = address and jail.LISTEN | jail.HANDLERS or 0
  if opts.view then allow = allow | jail.LISTEN end
  if opts.trace_file then -- vCPUs' threads disassemble, and cannot load what that takes
    pcall(core.disassemble, "\x90", 16)
  end
  local list, report, why = named_paths(opts), true, nil
  if opts.policy then
    local more
    more, why = add_policy(opts, list)
    if not more then return nil, "--policy: " .. why end
    allow = allow | more & jail.LISTEN
  end
  if address then jail.add_gdb(list, address) end
  add_own(list, opts)
  if opts.jail_files then
    allow = allow | jail.FILES
    report, why = jail.add_private(list)
  end
  if report then report, why = core.jail(opts.jail, allow, list) end
  if not report then return nil, "--jail: " .. why end
  if report.missing then complain("--jail", "not there: " .. report.missing) end
  return true
end

return M
