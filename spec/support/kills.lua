-- kills.lua - processes that are killed (SIGKILL) while they write: what bears a real name is
-- whole, and what else they leave is gone after the next start.
--
--   minikvm spec/support/kills.lua SEED COUNT
--
-- kills COUNT processes at moments that follow from SEED, and prints a line for each kind of work.

package.path = "spec/?.lua;" .. package.path

local kvm = require "minikvm"
local files = require "support.files"
local process = require "support.process"

local M = {}

local SIZE <const> = 3000000
local BLOCK <const> = ("0123456789abcdef"):rep(SIZE // 16)

local function content(path)
  local file <close> = io.open(path, "rb")
  return file and file:read "a"
end

local function is_block(text, marked)
  return text == BLOCK or (marked and #text == #BLOCK and text:sub(5) == BLOCK:sub(5))
end

---@class kills_work
---@field prepare? fun(folder: string)
---@field victim string   Lua code with FOLDER; step(i) is called again and again
---@field whole fun(folder: string): string?  what is wrong with what bears a real name
---@field kept string[]  names that may be in the folder after the next start

local WORK = {}

WORK["copy-on-write"] = {
  prepare = function(folder)
    os.execute(("mkdir %s/root %s/private %s/tmp"):format(folder, folder, folder))
    files.put(folder .. "/root/data", BLOCK)
  end,
  victim = [[
    local policies = { assert(kvm.files{ root = FOLDER .. "/root", rules = { { "**", "cow" } } }),
                       assert(kvm.files{ root = FOLDER .. "/root", rules = { { "**", "cow" } },
                                         private = FOLDER .. "/private" }) }
    function step(i)
      local vm <close> = support.vm{ files = policies[i % 2 + 1] }
      local fd = assert(vm.files:open("data", "r+"))
      assert(vm.files:write(fd, "DONE"))
      assert(vm.files:close(fd))
    end]],
  whole = function(folder)
    if content(folder .. "/root/data") ~= BLOCK then return "the original was changed" end
    for _, vm in ipairs(files.names(folder .. "/private")) do
      for _, name in ipairs(files.names(folder .. "/private/" .. vm)) do
        local text = content(("%s/private/%s/%s"):format(folder, vm, name))
        if name ~= "data" then return "left in a private directory: " .. name end
        if not is_block(text, true) then return ("a copy of %d bytes"):format(#text) end
      end
    end
    os.execute(("rm -rf '%s/private' && mkdir '%s/private'"):format(folder, folder))
  end,
  kept = { "private", "root", "tmp" },
}

WORK["snapshot:save"] = {
  victim = [[
    local vm = support.vm{ mode = "protected", memory = "4M" }
    vm.memory:write(0x100000, ("snapshot"):rep(100000))
    local snap = assert(vm:snapshot())
    function step() assert(snap:save(FOLDER .. "/snapshot")) end]],
  whole = function(folder)
    if not content(folder .. "/snapshot") then return end
    local snap <close>, why = kvm.load_snapshot(folder .. "/snapshot")
    return not snap and why or nil
  end,
  kept = { "snapshot", "tmp" },
}

WORK["a console's log"] = {
  victim = [[
    local vm = support.vm()
    assert(vm:load "guests/real/fibonacci.bin")
    function step()
      assert(vm.console:log(FOLDER .. "/log"))
      vm:run{ deadline = 20 }
      assert(vm.console:log(nil))
      vm:reset()
    end]],
  whole = function(folder)
    local text, all = content(folder .. "/log") or "", content "guests/real/fibonacci.expect"
    if not all:find(text, 1, true) then return "the log has what the guest did not print" end
  end,
  kept = { "log", "tmp" },
}

WORK["a trace"] = {
  victim = [[
    local vm = support.vm()
    assert(vm:load "guests/real/fibonacci.bin")
    function step()
      local trace <close> = assert(vm:trace{ exits = true, file = FOLDER .. "/trace.json" })
      vm:run{ deadline = 20 }
      vm:reset()
    end]],
  whole = function(folder)
    local text = content(folder .. "/trace.json") or "]"
    if text ~= "" and not text:find "%]%s*}?%s*$" then return "the trace has no end" end
  end,
  kept = { "tmp", "trace.json" },
}

WORK["JUnit"] = {
  victim = [[
    local junit = require "minikvm.test.junit"
    local file = { name = "a_spec.lua", tests = {}, seconds = 1, passed = 4000, failed = 0,
                   skipped = 0, errors = {} }
    function step(i)
      assert(require "minikvm.core".write_file(FOLDER .. "/junit.xml", "<testsuites>"
        .. ("<testsuite name='a_spec.lua'/>"):rep(1000 + i % 1000) .. "</testsuites>\n"))
    end]],
  whole = function(folder)
    local text = content(folder .. "/junit.xml")
    if text and not text:find "^<testsuites>.*</testsuites>\n$" then return "half of junit.xml" end
  end,
  kept = { "junit.xml", "tmp" },
}

local CODE <const> = [[
local FOLDER <const> = %q
local step
%s
step(0)
if %s then os.exit(0, true) end
print "begins"
for i = 1, math.huge do step(i) end
]]

---A process that does this work, for ever or once.
local function start(work, folder, once)
  return process.child(CODE:format(folder, work.victim, once), "env TMPDIR=" .. folder .. "/tmp")
end

local function kill_one(work, folder, seconds)
  local pipe, pid, script = start(work, folder, false)
  pipe:read "l" -- behind the number
  local line = pipe:read "l"
  if line ~= "begins" then error("the process did not begin: " .. tostring(line), 0) end
  kvm.sleep(seconds)
  os.execute(("kill -KILL %d"):format(pid))
  pipe:read "a"
  pipe:close()
  os.remove(script)
end

local function next_start(work, folder)
  local pipe, _, script = start(work, folder, true)
  local output, how, status = process.finish(pipe)
  os.remove(script)
  if how ~= "exit" or status ~= 0 then error("the next start fails: " .. output, 0) end
end

---What is in the folder that should not be.
local function left(work, folder)
  local names = table.concat(files.names(folder), " ")
  local temporary = table.concat(files.names(folder .. "/tmp"), " ")
  if temporary ~= "" then return "left in TMPDIR: " .. temporary end
  if names ~= table.concat(work.kept, " ") then return "left: " .. names end
end

---@return string[] names  of the kinds of work
function M.works()
  local list = {}
  for name in pairs(WORK) do list[#list + 1] = name end
  table.sort(list)
  return list
end

---Kills processes that do this work, one after the other; raises where one leaves what it must not.
---@param name string
---@param count integer
---@param random fun(): number  from 0 to 1
function M.run(name, count, random)
  local work, folder = WORK[name], files.folder()
  os.execute("mkdir " .. folder .. "/tmp")
  local ok, why = pcall(function()
    if work.prepare then
      os.execute("rmdir " .. folder .. "/tmp")
      work.prepare(folder)
    end
    for i = 1, count do
      local seconds = random() * 0.05
      kill_one(work, folder, seconds)
      local bad = work.whole(folder)
      if not bad then
        next_start(work, folder)
        bad = work.whole(folder) or left(work, folder)
      end
      if bad then error(("%s, kill %d, after %.4f s: %s"):format(name, i, seconds, bad), 0) end
    end
  end)
  files.remove(folder)
  if not ok then error(why, 0) end
end

if arg and arg[0] and arg[0]:find "kills%.lua$" then
  local seed, count = assert(tonumber(arg[1])), assert(tonumber(arg[2]))
  math.randomseed(seed)
  local names, failed = M.works(), 0
  for _, name in ipairs(names) do
    local ok, why = pcall(M.run, name, count // #names, math.random)
    if not ok then failed = failed + 1 end
    print(ok and ("ok  killed %d times: %s"):format(count // #names, name) or "not ok  " .. why)
  end
  print(("seed %d: %d kills, %d wrong"):format(seed, count // #names * #names, failed))
  os.exit(failed == 0, true)
end

return M
