-- process.lua - what the specs ask of processes: this one's descriptors, threads and memory, and
-- minikvm as a child of its own.

local lfs = require "lfs"
local kvm = require "minikvm"
local core = require "minikvm.core"
local program = require "support.program"

local M = {}

---Seconds that fn takes.
function M.took(fn)
  local from = core.now()
  fn()
  return core.now() - from
end

---The program; children run it whichever interpreter runs the specs.
M.program = program.minikvm

---Seconds in which what takes effect at once has done so, even where ten programs share a core.
---What it really takes is for the benches to say.
M.SOON = 5

---How many entries a directory has, such as /proc/self/fd or /proc/self/task.
function M.entries(dir)
  local n = 0
  for name in lfs.dir(dir) do
    if not name:find "^%.%.?$" then n = n + 1 end
  end
  return n
end

---How many descriptors this process has, those of VMs that are garbage not counted.
function M.descriptors()
  collectgarbage()
  collectgarbage()
  return M.entries "/proc/self/fd"
end

-- In /proc/…/stat, see proc(5): a task's name, and its flags, of which PF_EXITING (linux/sched.h).
local STAT <const> = "^%d+ %((.*)%) %a" .. (" [-%d]+"):rep(5) .. " (%d+)"
local EXITING <const> = 0x4

---How many threads this process has. Those that KVM itself keeps in it do not count, nor do those
---that have ended: the kernel wakes who joins one before it takes the task out of /proc/self/task.
function M.threads()
  local n = 0
  for task in lfs.dir "/proc/self/task" do
    local file = task:find "^%d+$" and io.open(("/proc/self/task/%s/stat"):format(task))
    local stat = file and file:read "a"
    if file then file:close() end
    local name, flags = (stat or ""):match(STAT)
    if name and not name:find "^kvm%-" and tonumber(flags) & EXITING == 0 then n = n + 1 end
  end
  return n
end

---Resident memory of this process in KiB.
function M.resident()
  for line in io.lines "/proc/self/status" do
    local kib = line:match "^VmRSS:%s*(%d+)"
    if kib then return tonumber(kib) end
  end
end

---Whether the program is built with a sanitizer, which costs memory and time.
function M.sanitized()
  return M.program:find "[at]san" ~= nil
end

---The emulated machine these specs run on, "stock" or "vmx" (tools/machine.sh); nil on a real one.
M.emulated = os.getenv "EMULATED"

---Bochs (tools/vmx) lets no interrupt, thus no deadline, end a guest that was entered with
---interrupts off as long as it neither exits nor turns them on.
M.deaf = M.emulated == "vmx" and "Bochs takes no interrupt in a guest that has them off"

---Before a shell that limits the size of files: the thread sanitizer writes one of 512 KiB when its
---program starts, unless there is no folder for it (compiler-rt, tsan_platform_linux.cpp,
---MapRodata).
M.SMALL_FILES = "env TMPDIR=/nonexistent TEST_TMPDIR=/nonexistent "

---Skips the current block where signals do not get into Lua code that makes no system call: the
---thread sanitizer puts them off.
---@param pending function  busted's
function M.without_signals(pending)
  if not M.program:find "tsan" then return false end
  pending "the thread sanitizer puts signals off"
  return true
end

---Skips the current block where no process can enter a jail: the thread sanitizer has a thread of
---its own, which would stay outside.
---@param pending function  busted's
function M.without_jail(pending)
  if not M.program:find "tsan" then return false end
  pending "the thread sanitizer has a thread of its own; a jail is entered by the only one"
  return true
end

M.temporary = program.file -- a path nobody else uses; the caller removes the file

---Lets other VMs' handlers run until condition() holds; an error after `seconds`.
function M.await(condition, seconds)
  local from = os.time()
  while not condition() do
    assert(os.time() - from <= (seconds or 20), "it did not happen in time")
    kvm.sleep(0.002)
  end
end

local CHILD <const> = [[
local kvm = require "minikvm"
local support = require "support.guest"
io.stdout:setvbuf "line"
print(io.open("/proc/self/stat"):read "n")
]]

---Makes a script of Lua code in which `kvm` and `support` are there, and which first prints its
---process number.
---@return string path  remove it
function M.script(code)
  return M.temporary(CHILD .. code)
end

---The shell's command for such a script, which does not last longer than a minute.
---@param before? string  words before the program
function M.command(path, before)
  return ("LUA_PATH='spec/?.lua;;' exec timeout -s KILL 60 %s %s %s 2>&1")
    :format(before or "", M.program, path)
end

---Runs Lua code in a minikvm of its own; `kvm` and `support` are there. Its first line of output
---is its process number. Its standard error goes where its output goes.
---@param code string
---@param before? string  shell words before the program
---@return file* pipe, integer pid, string path  the script: remove it
function M.child(code, before)
  local path = M.script(code)
  local pipe = assert(io.popen(M.command(path, before)))
  return pipe, pipe:read "n", path
end

---Reads what a child prints until it ends.
---@return string output, string how, integer status  "exit" and status, or "signal" and number
function M.finish(pipe)
  local output = pipe:read "a"
  local _, how, status = pipe:close()
  if how == "exit" and status > 128 then how, status = "signal", status - 128 end -- by timeout(1)
  return output, how, status
end

---Runs Lua code in a child to its end.
---@return string output, string how, integer status  as finish()
function M.run(code, before)
  local pipe, _, path = M.child(code, before)
  local output, how, status = M.finish(pipe)
  os.remove(path)
  return output, how, status
end

return M
