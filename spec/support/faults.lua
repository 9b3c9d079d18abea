-- faults.lua - drives operations through faults that tools/faults.c makes: the Nth allocation,
-- ioctl, mmap, … fails, N from 1 on until the operation passes untouched. What may come of it is
-- an error, nothing else: the VMs and the module can be used afterwards, nothing stays behind.
--
--   LD_PRELOAD=B/faults.so B/minikvm spec/support/faults.lua OPERATION KIND,… MOST
--
-- drives one, MOST faults of a kind at the most (beyond as many they are spread), and prints a line
-- for each: operation, kind, calls, attempts, faults, errors. Where a line does not come, the last
-- one on stderr says which fault ended the process. KIND+ lets all calls from the Nth on fail,
-- KIND that one alone. A fourth word, leaks, looks for them after each attempt.

package.path = "spec/?.lua;" .. package.path

local M = {}

-- Memory and what a Lua state allocates are counted apart. A call that comes again and again, such
-- as reading, is interrupted and cut short as well.
M.KINDS = { "memory", "memory+", "lua", "lua+", "ioctl", "ioctl+", "ioctl-eintr", "mmap", "mmap+",
            "thread", "thread+", "descriptor", "descriptor+", "timer", "timer+", "write-enospc",
            "write-enospc+", "write-eio", "write-eintr", "write-short", "write-short+",
            "read-eio", "read-eio+", "read-eintr", "read-short", "name", "name+", "process" }

---Those of fault_operations.lua, in their order.
M.OPERATIONS = { "create", "load", "run", "start", "hooks", "memory", "timers", "console", "input",
                 "snapshot", "fork", "save", "load_snapshot", "files", "private_files", "disks",
                 "disk_requests", "network", "devices", "debug", "coverage", "trace", "worker",
                 "gdb", "linux", "view" }

-- An error that shows that something was used which was not there, instead of being looked at.
local CARELESS <const> = { "attempt to %a+ ", "bad argument", "assertion failed", "^wrong:" }

local function careless(why)
  if type(why) ~= "string" or why == "" then return "the error is " .. tostring(why) end
  for _, pattern in ipairs(CARELESS) do
    if why:find(pattern) then return "the error does not name its cause: " .. why end
  end
end

local function state(process, dir)
  return { descriptors = process.descriptors(), threads = process.threads(),
           temporary = process.entries(dir) }
end

---What is left behind, as text.
local function left(process, before, dir)
  for _ = 1, 400 do -- a thread that ends does so in its own time
    if process.threads() <= before.threads then break end
    require("minikvm").sleep(0.005)
  end
  local now = state(process, dir)
  for what, count in pairs(now) do
    if count > before[what] then
      return ("%d %s instead of %d"):format(count, what, before[what])
    end
  end
end

---@class faults_drive  one operation and kind
---@field faults table  the functions of tools/faults.c
---@field operation string
---@field run function
---@field check function?  looks at what is there after an attempt
---@field folder string  for its files
local Drive = {}
Drive.__index = Drive

local function complain(self, n, text)
  error(("%s, %s %d: %s"):format(self.operation, self.kind, n, text), 0)
end

---One attempt: calls, faults, whether it passed.
function Drive:attempt(n)
  local kind, all = self.kind:match "^([%a-]+)(%+?)$"
  io.stderr:write(("%s %s %d\n"):format(self.operation, self.kind, n))
  local run, folder = self.run, self.folder
  local calls, injected, ok, why = self.faults.try(kind, n, all == "+" and 0 or 1, function()
    return run(folder)
  end)
  if not ok and injected == 0 then complain(self, n, "without a fault: " .. tostring(why)) end
  local bad = not ok and careless(why)
  if bad then complain(self, n, bad) end
  if os.getenv "MINIKVM_FAULT_SHOW" then io.stderr:write("  ", tostring(why), "\n") end
  local behind = left(self.process, self.before, self.folder)
  if behind then complain(self, n, "left behind: " .. behind) end
  if self.check then self.check(self.folder) end
  if self.leaks and injected > 0 and self.faults.leaks() then complain(self, n, "leaks") end
  if injected > 0 then
    local again, whynot = pcall(run, folder)
    if not again then complain(self, n, "the next one fails: " .. tostring(whynot)) end
    if self.check then self.check(self.folder) end
  end
  return calls, injected, ok
end

---N from 1 on, until it passes untouched.
function Drive:drive(kind, most)
  self.kind = kind
  local total = self:attempt(math.maxinteger)
  local step = math.max(1, math.ceil(total / most))
  local sum = { calls = total, faults = 0, errors = 0, attempts = 0 }
  local n = 1
  repeat
    local _, injected, ok = self:attempt(n)
    sum.attempts = sum.attempts + 1
    sum.faults = sum.faults + injected
    if not ok then sum.errors = sum.errors + 1 end
    n = n + step
  until injected == 0
  if self.faults.leaks() then complain(self, n, "leaks") end
  return sum
end

local function main(operation, kinds, most, leaks)
  local process = require "support.process"
  local operations = require "support.fault_operations"
  local library = os.getenv "LD_PRELOAD"
  local self = setmetatable({ operation = operation, process = process, leaks = leaks }, Drive)
  self.faults = assert(package.loadlib(library, "luaopen_faults"))()
  self.run, self.check = assert(operations[operation]), operations["check_" .. operation]
  self.folder = os.tmpname()
  os.remove(self.folder)
  assert(os.execute("mkdir -p " .. self.folder .. "/t"))
  local prepare = operations["prepare_" .. operation]
  if prepare then prepare(self.folder) end
  for _ = 1, 2 do self.run(self.folder) end
  self.faults.leaks()
  self.before = state(process, self.folder)
  for _, kind in ipairs(kinds) do
    local sum = self:drive(kind, most)
    print(operation, kind, sum.calls, sum.attempts, sum.faults, sum.errors)
  end
  self.faults.disarm()
  os.execute("rm -rf " .. self.folder)
end


-- ---- who runs it: processes of their own ----

local function sorted_keys(t)
  local keys = {}
  for key in pairs(t) do keys[#keys + 1] = key end
  table.sort(keys)
  return keys
end

---@class fault_task
---@field name string  of the operation or command
---@field kind string  of an operation also several, with commas between them
---@field command? fault_command

---All there are: operations, then commands, each with each kind.
---@return fault_task[]
function M.tasks()
  local list = {}
  local function add(name, command)
    for _, kind in ipairs(M.KINDS) do
      list[#list + 1] = { name = name, kind = kind, command = command }
    end
  end
  for _, name in ipairs(M.OPERATIONS) do add(name) end
  local commands = require "support.fault_commands"
  for _, name in ipairs(sorted_keys(commands)) do add("minikvm " .. name, commands[name]) end
  return list
end

-- The loader keeps a list for who uses dlopen(3).
local ENVIRONMENT <const> = table.concat({
  "ASAN_OPTIONS=verify_asan_link_order=0:exitcode=99",
  "LSAN_OPTIONS=suppressions=spec/support/leaks.supp:print_suppressions=0" }, " ")

---The shell's words before the program that has the library before the C library.
local function before(build, more)
  return ("env %s %s LD_PRELOAD=%s/faults.so timeout -s KILL %d"):format(ENVIRONMENT, more or "",
    build, 300)
end

local function read(path)
  local file <close> = io.open(path, "rb")
  return file and file:read "a" or ""
end

local function tail(text)
  return (text:gsub("%s+$", ""):match "[^\n]*\n?[^\n]*\n?[^\n]*$" or "")
end

---Runs a shell command; what it prints goes to files below `folder`.
local function shell(command, folder)
  local _, how, status = os.execute(("{ %s\n} >%s/out 2>%s/err"):format(command, folder, folder))
  return how == "signal" and 128 + status or status, read(folder .. "/out"), read(folder .. "/err")
end

---What is wrong with how a program ended: a signal, a sanitizer's report, or the time was up.
local function wrong_end(status, err)
  if err:find "ERROR: %a+Sanitizer" or err:find "runtime error:" then
    return err:match "ERROR: [^\n]*" or err:match "[^\n]*runtime error:[^\n]*"
  elseif status == 137 or status == 142 then
    return "it did not end: " .. tail(err)
  elseif status == 99 or (status >= 129 and status <= 140 and status ~= 130 and status ~= 134) then
    return ("it ended with status %d: %s"):format(status, tail(err))
  end
end

local function run_operation(build, task, most, folder)
  local status, out, err = shell(("%s %s/minikvm spec/support/faults.lua %s %s %d")
    :format(before(build), build, task.name, task.kind, most), folder)
  local sum = { calls = 0, attempts = 0, faults = 0, errors = 0 }
  for calls, attempts, injected, errors in out:gmatch "\t(%d+)\t(%d+)\t(%d+)\t(%d+)\n" do
    sum.calls, sum.attempts = sum.calls + calls, sum.attempts + attempts
    sum.faults, sum.errors = sum.faults + injected, sum.errors + errors
  end
  if status == 0 then return sum end
  local name, at = task.name:gsub("%p", "%%%0"), "?"
  for kind_n in err:gmatch("%f[^\n\0]" .. name .. " ([%a+-]+ %d+)\n") do at = kind_n end
  return { bad = ("%s: %s"):format(at, wrong_end(status, err) or err:match "minikvm: ([^\n]*)"
    or tail(err)) }
end

local function attempt_command(build, task, folder, fault)
  local log, work = folder .. "/log", folder .. "/work"
  os.remove(log)
  assert(os.execute(("rm -rf %s && mkdir %s"):format(work, work)))
  if task.command.prepare then task.command.prepare(work) end
  local program = ("env MINIKVM_FAULT=%s MINIKVM_FAULT_LOG=%s %s %s/minikvm ")
    :format(fault, log, before(build), build)
  local line = task.command.line:gsub("%f[%w]D/", work .. "/"):gsub("%f[%w]P ", program)
  local status, out, err = shell(line, folder)
  local calls, injected = 0, 0
  for c, i in read(log):gmatch "%S+ %d+ (%d+) (%d+)\n" do
    calls, injected = math.max(calls, tonumber(c)), injected + tonumber(i)
  end
  local bad = wrong_end(status, err) or task.command.whole and task.command.whole(work)
  if not bad and status ~= 0 and err == "" and out == "" then bad = "status " .. status end
  return { status = status, out = out, err = err, calls = calls, faults = injected, bad = bad }
end

---Times differ from run to run, and the order of what several guests print.
local function comparable(text)
  local lines = {}
  for line in text:gmatch "[^\n]+" do lines[#lines + 1] = line:gsub("%d+%.%d+ s.*", "") end
  table.sort(lines)
  return table.concat(lines, "\n")
end

local function run_command(build, task, most, folder)
  local kind, all = task.kind:match "^([%a-]+)(%+?)$"
  local fault = kind .. ":%d:" .. (all == "+" and 0 or 1)
  local untouched = attempt_command(build, task, folder, fault:format(1 << 40))
  local sum = { calls = untouched.calls, attempts = 1, faults = 0, errors = 0 }
  if untouched.bad or untouched.status ~= 0 then
    return { bad = "without a fault: " .. (untouched.bad or tail(untouched.err)) }
  end
  local step = math.max(1, math.ceil(untouched.calls / most))
  for n = 1, untouched.calls, step do
    local r = attempt_command(build, task, folder, fault:format(n))
    local told = r.status ~= 0 or task.command.tells and r.out:find(task.command.tells) ~= nil
    if not r.bad and not told and comparable(r.out) ~= comparable(untouched.out) then
      r.bad = "it printed something else, and status 0: " .. tail(r.out)
    end
    if r.bad then return { bad = ("fault %d: %s"):format(n, r.bad) } end
    sum.attempts, sum.faults = sum.attempts + 1, sum.faults + r.faults
    if told then sum.errors = sum.errors + 1 end
  end
  return sum
end

---Runs one, in processes of its own.
---@param build string  "build/asan"
---@param task fault_task
---@param most integer
---@return table  calls, attempts, faults, errors; or bad: what came of a fault that is no error
function M.run(build, task, most)
  local folder = os.tmpname()
  os.remove(folder)
  assert(os.execute("mkdir " .. folder))
  local result = (task.command and run_command or run_operation)(build, task, most, folder)
  os.execute("rm -rf " .. folder)
  return result
end

function M.new_sum() return { operations = 0, attempts = 0, faults = 0, errors = 0, wrong = 0 } end

function M.add(sum, result)
  sum.operations = sum.operations + 1
  if result.bad then sum.wrong = sum.wrong + 1 return end
  for _, key in ipairs{ "attempts", "faults", "errors" } do sum[key] = sum[key] + result[key] end
end

if arg and arg[0] and arg[0]:find "faults%.lua$" then
  local kinds = {}
  for kind in arg[2]:gmatch "[^,]+" do kinds[#kinds + 1] = kind end
  main(arg[1], kinds, tonumber(arg[3]) or 1000, arg[4] == "leaks")
end

return M
