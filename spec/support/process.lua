-- process.lua - what the specs ask of processes: this one's descriptors, threads and memory, and
-- minikvm as a child of its own.

local lfs = require "lfs"
local kvm = require "minikvm"
local core = require "minikvm.core"

local M = {}

---Seconds that fn takes.
function M.took(fn)
  local from = core.now()
  fn()
  return core.now() - from
end

---The program; children run it whichever interpreter runs the specs.
M.program = os.getenv "MINIKVM" or "./minikvm"

---How many entries a directory has, such as /proc/self/fd or /proc/self/task.
function M.entries(dir)
  local n = 0
  for name in lfs.dir(dir) do
    if not name:find "^%.%.?$" then n = n + 1 end
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

---A path nobody else uses; the caller removes the file.
---@param content string?  written to it
function M.temporary(content)
  local path = os.tmpname()
  local file = assert(io.open(path, "wb"))
  file:write(content or "")
  file:close()
  return path
end

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

---Runs Lua code in a minikvm of its own; `kvm` and `support` are there. Its first line of output
---is its process number. Its standard error goes where its output goes.
---@param code string
---@param before? string  shell words before the program
---@return file* pipe, integer pid, string path  the script: remove it
function M.child(code, before)
  local path = M.temporary(CHILD .. code)
  local pipe = assert(io.popen(("LUA_PATH='spec/?.lua;;' exec %s %s %s 2>&1")
    :format(before or "", M.program, path)))
  return pipe, pipe:read "n", path
end

---Runs Lua code in a child to its end.
---@return string output, integer status, string how  "exit" or "signal"
function M.run(code, before)
  local pipe, _, path = M.child(code, before)
  local output = pipe:read "a"
  local _, how, status = pipe:close()
  os.remove(path)
  return output, status, how
end

return M
