-- cli/jail.lua - minikvm run --jail: what a command line names is all that the process can reach.
--
-- Entered before the first image is opened: what reads images is inside, too.

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

---The paths of a command line of minikvm run, with what may be done with them.
---@param opts table
---@return (string|integer)[]
function M.paths(opts)
  local list = {}
  local disk = opts.disk_write and READ | jail.WRITE or READ
  add_all(list, opts.guests, disk)
  add_all(list, opts.disk, disk)
  add_all(list, { opts.input, opts.bios }, READ)
  if opts.bios then add_all(list, { folder_of(opts.bios) .. "/vgabios-isavga.bin" }, READ) end
  for _, module in ipairs(opts.module or {}) do
    add_all(list, { module:match "^([^=]*)=" or module }, READ)
  end
  for _, guest in ipairs(opts.guests) do -- one may be Linux's kernel, and gets a shell
    add_all(list, { require("minikvm.linux.host").modules_of(guest) }, READ)
  end
  add_all(list, { "/bin/busybox", "/usr/bin/busybox" }, READ)
  for _, file in ipairs(opts.symbols or {}) do add_all(list, { file.path }, READ) end
  add_output(list, opts.screenshot)
  add_output(list, opts.trace_file)
  for _, where in ipairs{ opts.gdb or opts.gdb_on_crash } do
    local path = where:match "^unix:(.*)$"
    if path then add_output(list, path) end
  end
  return list
end

---Enters the jail that a command line asks for.
---@param opts table  of minikvm run
---@return true?
---@return string? why
function M.enter(opts)
  local allow = (opts.gdb or opts.gdb_on_crash) and jail.LISTEN | jail.HANDLERS or 0
  if opts.trace_file then -- vCPUs' threads disassemble, and cannot load what that takes
    pcall(core.disassemble, "\x90", 16)
  end
  local list, report, why = M.paths(opts), true, nil
  if opts.jail_files then
    allow = allow | jail.FILES
    report, why = jail.add_private(list)
  end
  if report then report, why = core.jail(opts.jail, allow, list) end
  if not report then return nil, "--jail: " .. why end
  if report.missing then
    io.stderr:write("minikvm: --jail: not there: ", report.missing, "\n")
  end
  return true
end

return M
