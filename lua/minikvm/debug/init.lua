-- debug - breakpoints, steps and running to an address: the methods of VMs and vCPUs, on top of the
-- core's functions (src/lua/debug.c).

local core = require "minikvm.core"
local options = require "minikvm.options"
local result = require "minikvm.vm.result"

local M = {}

local vm, cpu = core.methods "minikvm.vm", core.methods "minikvm.cpu"

---@return integer address
---@return integer[] all  a source line may have several
local function addresses_of(who, self, where)
  return require("minikvm.debug.where").check(who, self, where)
end

local whole <const> = options.between(0, math.maxinteger, "an integer, 0 or more")

local BREAK <const> = options.declare("vm:break_at", {
  fn = "function", condition = "function", cpu = whole, once = "boolean", after = whole,
  physical = "boolean", hidden = "boolean",
})

---A breakpoint: stops the VM before the instruction there is executed, or calls a function.
---  fn         function(cpu, handle), called on the vCPU's thread as a handler is; true stops
---  condition  function(cpu, handle): a hit counts for fn, once and after only where it says true
---  cpu        number of the vCPU; by default each
---  once       removed by its first hit
---  after      so many hits pass unnoticed first
---  physical   the address is a guest-physical one
---  hidden     nothing of it is in memory, for the guest to read: four at most, where the host's
---             debug registers work
---@param where integer|string  a linear address, a symbol, "symbol+offset", "file.c:12": in each
---  function that has the line, and where it is inlined
---@param what? fun(cpu: minikvm.cpu, handle: minikvm.handle): boolean?|table  fn, or options
---@return minikvm.handle? handle  or nil, "what: why", "ENAME"
function vm:break_at(where, what)
  options.self("vm:break_at", self, "minikvm.vm")
  core.check_open(self)
  local o = type(what) == "function" and { fn = what }
    or options.check("vm:break_at", what, BREAK)
  if o.cpu and o.cpu >= #self.cpu then
    core.blame(("vm:break_at: vm %q has no cpu %d"):format(self.name, o.cpu))
  end
  local address, all = addresses_of("vm:break_at", self, where)
  local places <const> = require "minikvm.debug.places"
  if #all > 1 then return places.break_at(self, all, o) end
  local counted <const> = o.condition and places.handler(o) -- here; else by the core
  return core.break_at(self, { address = address, cpu = o.cpu,
                               physical = o.physical, hidden = o.hidden,
                               once = not counted and o.once, after = not counted and o.after },
                       counted or o.fn)
end

local WATCH <const> = options.declare("vm:watch", {
  fn = "function", cpu = whole, physical = "boolean",
})
local KINDS <const> = { r = "read", w = "write", x = "execute" }

---Watches memory for accesses of the guest's processors, whose instruction is over then. Of any
---size; accesses to what lies in the same pages are slow.
---  fn        function(cpu, handle, access), access = { address=, size=, kind = "w", "r" or "x" };
---            true stops
---  cpu       number of the vCPU; by default each
---  physical  the address is a guest-physical one
---@param where integer|string  a linear address, a symbol, …
---@param size integer|string  bytes, at least 1, or "4K"
---@param kind? string  letters out of "w" (the default), "r" and "x"
---@param what? function|table  fn, or options
---@return minikvm.handle? handle  or nil, "what: why", "ENAME"
function vm:watch(where, size, kind, what)
  options.self("vm:watch", self, "minikvm.vm")
  core.check_open(self)
  local o = type(what) == "function" and { fn = what }
    or options.check("vm:watch", what, WATCH)
  local bytes, why = options.size(size)
  if not bytes or bytes < 1 then
    core.blame("vm:watch: size: " .. (why or "expected 1 or more, got " .. tostring(size)))
  end
  kind = kind == nil and "w" or kind
  if type(kind) ~= "string" or not kind:find "^[rwx]+$" then
    core.blame(("vm:watch: kind: expected letters out of \"r\", \"w\" and \"x\", got %s")
      :format(tostring(kind)))
  end
  if o.cpu and o.cpu >= #self.cpu then
    core.blame(("vm:watch: vm %q has no cpu %d"):format(self.name, o.cpu))
  end
  local address <const> = addresses_of("vm:watch", self, where)
  local core_options = { address = address, size = bytes,
                         physical = o.physical, cpu = o.cpu }
  if math.ult(address + bytes - 1, address) then
    core.blame(("vm:watch: 0x%x bytes at 0x%x go beyond the last address")
      :format(bytes, address))
  end
  for letter in kind:gmatch "." do core_options[KINDS[letter]] = true end
  return core.watch_memory(self, core_options, o.fn)
end

---Runs or resumes, to the next stop or the end.
local function go_on(self)
  if self.state ~= "paused" then return self:run() end
  self:resume()
  core.wait_paused(self)
  if self.state ~= "paused" then return self:wait() end
  return "break", { reason = "break", stop = core.last_stop(self) }
end

---Waits until a started VM has stopped at a breakpoint, is paused otherwise, or has ended.
---@param timeout? number  seconds
---@return table? stop  { kind = "break", "watch", "step" or "until", address=, cpu=, handle= };
---  {} when it is paused for another reason; nil, text, "ETIMEDOUT" or "ESRCH" when it has ended
---@return string? why
---@return string? code
function vm:wait_break(timeout)
  options.self("vm:wait_break", self, "minikvm.vm")
  if timeout ~= nil then options.argument("vm:wait_break", "timeout", timeout, "seconds") end
  if not core.wait_paused(self, timeout) then
    return nil, ("vm %q is still running"):format(self.name), "ETIMEDOUT"
  end
  if self.state ~= "paused" then
    return nil, ("vm %q does not run"):format(self.name), "ESRCH"
  end
  return result.stop(core.last_stop(self) or {})
end

---Runs a VM that does not run to an address, or to an earlier stop or its end.
---@param self minikvm.vm
---@param where integer|string
---@param run fun(): ...
function M.run_until(self, where, run)
  local _, all = addresses_of("vm:run", self, where)
  local function run_from(i)
    if not all[i] then return run() end
    local o = { address = all[i], once = true, until_pc = true }
    local _ <close> = assert(core.break_at(self, o))
    return run_from(i + 1)
  end
  return run_from(1)
end

local function stoppable(who, self)
  local of = core.vm_of(self, "minikvm.cpu")
  if of.state == "running" then
    core.blame(("%s: cpu %d of vm %q is running: stop or pause the vm first, or let a breakpoint "
      .. "stop it"):format(who, self.index, of.name))
  end
  return of
end

---Executes instructions of this vCPU, while the VM's others stay where they are: of a VM that does
---not run or is paused. Interrupts wait meanwhile, but for a vCPU that halts. A breakpoint on the
---way is heeded.
---@param count? integer  how many (1)
---@return string reason  "break", or how the run has ended
---@return table info  stop = { kind = "step", … }; of a run that ended as from vm:run
function cpu:step(count)
  options.self("cpu:step", self, "minikvm.cpu")
  count = count == nil and 1 or count
  if math.type(count) ~= "integer" or count < 1 then
    core.blame(("cpu:step: expected a number of instructions, 1 or more, got %s")
      :format(tostring(count)))
  end
  local of = stoppable("cpu:step", self)
  local paused = of.state == "paused"
  assert(core.begin_step(of, self.index, count))
  local _ <close> = setmetatable({}, { __close = function()
    if of.state ~= "closed" then core.end_step(of) end
  end })
  if not paused then return of:run() end
  core.wait_step(of)
  if of.state ~= "paused" then return of:wait() end
  return "break", result.of{ reason = "break", stop = core.last_stop(of) }
end

local THROUGH <const> = { call = true, lcall = true, int = true, int3 = true, syscall = true,
                          sysenter = true, rep = true, repe = true, repne = true, loop = true,
                          loope = true, loopne = true, hlt = true }

---The same for one instruction; a call, an interrupt, a repeated one or a HLT counts as one with
---all that comes of it. Other vCPUs run meanwhile.
---@return string reason  as of step
---@return table info
function cpu:step_over()
  options.self("cpu:step_over", self, "minikvm.cpu")
  local of = stoppable("cpu:step_over", self)
  local next = self:disassemble(1)[1]
  if not next or not THROUGH[next.text:match "^%S+"] then return self:step() end
  local rsp <const>, index <const> = self.rsp, self.index
  local _ <close> = assert(core.break_at(of, {
    address = next.address + next.size, cpu = index, until_pc = true,
  }, function(which) return math.ult(rsp - 1, which.rsp) end))
  return go_on(of)
end

return M
