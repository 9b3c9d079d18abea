-- safe.lua - minikvm --safe: a script that gets the guests and directories named on the command
-- line, and nothing else of the host.
--
-- The script has a process of its own, in a jail (src/jail), whose parent ends it when its time is
-- up (src/lua/parent.c). What it can reach of Lua and minikvm is safe_script.lua's. Docs:
-- docs/limits.md.

local core = require "minikvm.core"
local allowed = require "minikvm.cli.allowed"
local args = require "minikvm.cli.args"
local complain = require("minikvm.cli.say").complain
local jail = require "minikvm.jail"

local M = {}

-- ---- the command line ----

local function named(text, what)
  local name, path = text:match "^([%w_.-]+)=(.+)$"
  if not name then return nil, ("expected NAME=%s, got %q"):format(what, text) end
  return { name = name, path = path }
end

local function parse_guest(text) return named(text, "PATH") end

local function parse_files(text)
  local grant, why = named(text, "DIR or NAME=DIR:VERDICT")
  if not grant then return nil, why end
  local path, verdict = grant.path:match "^(.+):([%a-]+)$"
  if verdict and not allowed.GRANTS[verdict] then
    return nil, ("verdict %q is none of ro, cow, rw, shared-rw"):format(verdict)
  end
  grant.path, grant.verdict = path or grant.path, verdict or "ro"
  return grant
end

M.spec = {
  program = "minikvm --safe",
  summary = "Runs a script that gets nothing of the host but what is named here.",
  options = {
    { "--guest", "-g", value = "NAME=PATH", type = parse_guest, repeatable = true,
      help = "an image that vm:load may load by this name" },
    { "--files", "-f", value = "NAME=DIR[:VERDICT]", type = parse_files, repeatable = true,
      help = "a directory that kvm.files may have as root by this name, for ro (the default), cow,"
        .. " rw or shared-rw" },
    { "--seconds", "-s", value = "SEC", type = "duration",
      help = "time of the script, its runs included (60)" },
    { "--handler", value = "SEC", type = "duration", help = "time of one call of a handler (2)" },
    { "--memory", "-m", value = "SIZE", type = "size",
      help = "memory of the script's process, with its guests' RAM and their snapshots (256M)" },
    { "--disk", value = "SIZE", type = "size", help = "what guests may write into files, all in all"
        .. " (none, or 64M where --files grants more than ro)" },
    { "--policy", value = "FILE", help = "a policy file, which the command line must keep to: its"
        .. " images and files are granted by their names, and its limits are the most" },
    { "--jail", value = "LEVEL", default = "best", type = { "best", "strict" },
      help = "walls of the kernel's around the process: --jail=strict refuses to run where one is"
        .. " missing, best (the default) says so" },
  },
  rest = { key = "script", value = "script.lua", min = 1,
           help = "the script; what follows it are its arguments" },
  notes = "Exit status: 0; 1 when the script failed or its time or memory was up; that of os.exit;"
    .. "\n2 wrong command line; 128 + N when signal N ended its process.",
}

---Where the script stands: the first word that is neither an option nor an option's value.
local function split(argv)
  local takes_value = {}
  for _, option in ipairs(M.spec.options) do
    for i = 1, 2 do
      if option[i] then takes_value[option[i]] = not option.default end
    end
  end
  local i = 1
  while argv[i] and argv[i]:sub(1, 1) == "-" and argv[i] ~= "-" and argv[i] ~= "--" do
    i = i + (takes_value[argv[i]] and 2 or 1)
  end
  if argv[i] == "--" then i = i + 1 end
  return table.move(argv, 1, math.min(i, #argv), 1, {}), table.move(argv, i + 1, #argv, 1, {})
end

-- ---- the whole ----

local ALL <const> = jail.READ | jail.WRITE | jail.CHANGE

---What may be done with a directory that --files grants.
local function access_of(grant)
  local shared = grant.verdict == "shared-rw"
  return jail.READ | jail.LINK | jail.OPTIONAL | (shared and jail.WRITE | jail.CHANGE or 0)
end

---The process keeps what is named on the command line, the script's folder, and the one for private
---files of guests.
local function enter_jail(opts, folder, private)
  local read <const> = jail.READ | jail.LINK | jail.OPTIONAL
  local list, allow = { opts.script[1], read }, jail.HANDLERS
  local function add(path, access) list[#list + 1], list[#list + 2] = path, access end
  if folder ~= "/" then add(folder, read) end
  for _, guest in ipairs(opts.guest or {}) do add(guest.path, read) end
  for _, grant in ipairs(opts.files or {}) do
    add(grant.path, access_of(grant))
    allow = allow | jail.FILES
  end
  if private then
    add(private, jail.READ | jail.WRITE | jail.CHANGE | jail.LINK)
    allow = allow | jail.FILES
  end
  local report, why = core.jail(opts.jail or "best", allow, list)
  if report and report.missing then complain("--safe", "not there: " .. report.missing) end
  return report ~= nil, why
end

local LIMITS <const> = { "memory", "disk", "seconds", "handler" }

---What a policy file grants, and the most that the command line can say.
---@return true?
---@return string? why
local function apply_policy(opts)
  local rules <const> = require "minikvm.policy"
  local policy, why = rules.read(opts.policy)
  if not policy then return nil, why end
  for _, entry in ipairs(opts.guest or {}) do
    local ok, problem = rules.allows(policy, entry.path, jail.READ)
    if not ok then return nil, problem end
  end
  for _, grant in ipairs(opts.files or {}) do
    local ok, problem = rules.allows(policy, grant.path, access_of(grant) & ALL)
    if not ok then return nil, problem end
  end
  for _, key in ipairs(LIMITS) do
    if opts[key] and policy[key] and opts[key] > policy[key] then
      return nil, ("--%s %s: %s gives %s at most"):format(key, opts[key], policy.path, policy[key])
    end
    opts[key] = opts[key] or policy[key]
  end
  if #policy.gdb + #policy.tap > 0 then
    return nil, policy.path .. ": gdb and taps are not there with --safe"
  end
  opts.guest, opts.files = opts.guest or {}, opts.files or {}
  for _, image in ipairs(policy.image) do
    if image.name then table.insert(opts.guest, image) end
  end
  for _, grant in ipairs(policy.files) do table.insert(opts.files, grant) end
  opts.jail = opts.jail or policy.level
  return true
end

local function failed(why)
  complain("--safe", why)
  return 1
end

---Bytes that guests may write into files.
local function disk_of(opts)
  local writes = false
  for _, grant in ipairs(opts.files or {}) do writes = writes or grant.verdict ~= "ro" end
  return opts.disk or writes and 64 << 20 or 0
end

local function run_script(opts, rest, private)
  local path = opts.script[1]
  local folder = path:match "^(.*/)" or "./"
  local inside, problem = enter_jail(opts, folder, private)
  if not inside then return failed(problem) end
  local chunk, why = require("minikvm.cli.safe_script").load(opts, path, folder, rest)
  if not chunk then return failed(why) end
  core.begin_time()
  chunk(table.unpack(rest))
  return 0
end

---Carries out the command line behind --safe. Errors of the script are raised.
---@param argv string[]
---@return integer status
function M.main(argv)
  local own, rest = split(argv)
  local opts, status = args.handle(M.spec, own)
  if not opts then return status end
  if opts.policy then
    local ok, why = apply_policy(opts)
    if not ok then return args.complain(M.spec, "--policy: " .. why) end
  end
  local disk <const> = disk_of(opts)
  local child, result = core.supervise(opts.seconds or 60, opts.memory or 256 << 20, disk > 0,
                                       opts.handler or 2)
  if child == nil then return failed(result) end
  if not child then return result end
  core.limit_files(disk)
  return run_script(opts, rest, result)
end

return M
