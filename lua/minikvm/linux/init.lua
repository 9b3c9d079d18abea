-- linux/init.lua - vm:linux(): a Linux guest's commands, files, kernel log, clock and random
-- numbers, by way of the agent that its initramfs has (kvm.initrd{ agent = true }).
--
-- The guest runs while a method waits for it, and stands still otherwise. What the agent does not
-- answer as it should raises, with what the guest printed last; from then on everything raises,
-- until the VM is restored.

local abi = require "minikvm.abi"
local channel = require "minikvm.linux.channel"
local class = require "minikvm.class"
local core = require "minikvm.core"
local expect = require "minikvm.console.expect"
local told = require "minikvm.console.expect_report"
local options = require "minikvm.options"
local strict = require "minikvm.strict"

local M = {}

local TIMEOUT <const>, BOOT_TIMEOUT <const> = 10, 60 -- seconds
local LIMIT <const> = 256 << 20 -- bytes that an answer may have
local RANDOM <const>, RANDOM_MAX <const> = 64, 256 -- bytes for the pool: see guests/agent/agent.c
local SHOWN <const> = 60 -- bytes of a command in messages
local LEVELS <const> = { emerg = 0, alert = 1, crit = 2, err = 3, warn = 4, notice = 5, info = 6,
                         debug = 7 } -- syslog(2)

---@class minikvm.linux  what vm:linux() returns
local KIND <const> = "minikvm.linux"
local Linux, meta = class(KIND)
strict.seal(Linux, meta, "linux", { "vm", "channel" })

-- ---- when it goes wrong ----

local function shortened(text)
  text = #text > SHOWN and text:sub(1, SHOWN) .. "..." or text
  return (("%q"):format(text):gsub("\\\n", "\\n"))
end

---Why a talk did not come to its end.
local function reason_text(talk, reason, info, timeout)
  if talk.failed then return "the agent: " .. talk.failed end
  if reason == nil then return tostring(info) end
  if reason == "deadline" then return ("no answer within %g s"):format(timeout) end
  if reason == "stopped" then return "the vm was stopped before the agent had answered" end
  return ("the guest ended: %s, %s"):format(reason, info.text)
end

---What the guest printed last, up to its last panic: what follows that are registers.
local function last_words(vm)
  local text = vm.console:text()
  return told.tail(text:match "^.*Kernel panic %- not syncing[^\n]*" or text)
end

---Raises what went wrong, with all there is to see. The channel is of no use any more.
local function fail(self, what, why, output)
  local text = ("%s: %s"):format(what, why)
  self.channel.state.broken = text
  if output and output ~= "" then
    text = text .. "\n  its output so far:\n" .. told.tail(output)
  end
  if self.vm.state ~= "closed" then
    text = text .. "\n  printed last:\n" .. last_words(self.vm)
  end
  core.blame(text .. "\n" .. told.cpu_line(self.vm, 0))
end

---Raises when there can be no answer.
local function check(self, what)
  core.check_open(self.vm)
  core.check_idle(self.vm, what)
  local broken = self.channel.state.broken
  if broken then
    core.blame(("%s: restore the vm first: the agent is not to be talked to since %s"):format(what,
      broken))
  end
  local reason, info = expect.ended_for_good(self.vm)
  if reason then fail(self, what, ("the guest has ended: %s, %s"):format(reason, info.text)) end
end

---Holds a talk with the agent to its end.
---@param what string  for messages
---@param talk minikvm.talk
---@param o table  with `timeout`
---@param output? fun(): string  what was heard of it so far
local function converse(self, what, talk, o, output)
  local timeout = o.timeout or TIMEOUT
  local until_then = core.now() + timeout
  check(self, what)
  if not (self.channel.state.ready or talk.ready) then self:wait() end
  local left = math.max(0, until_then - core.now())
  local reason, info = channel.run(self.channel, talk, left)
  if talk.done then return talk.status end
  fail(self, what, reason_text(talk, reason, info, timeout), output and output())
end

-- ---- what is asked ----

---One question.
local function once(kind, argument, bytes)
  local asked = false
  return function()
    if asked then return nil end
    asked = true
    return kind, argument, bytes
  end
end

---The same with bytes that are more than one question takes: `first`, some `feed`, `last`.
local function in_parts(first, feed, bytes, last)
  local stage, at = first, 1
  return function()
    local now = stage
    if now == first then
      stage = at <= #bytes and feed or last
      return table.unpack(first)
    elseif now == feed then
      local part = bytes:sub(at, at + channel.CHUNK - 1)
      at = at + #part
      stage = at <= #bytes and feed or last
      return feed, 0, part
    elseif now then
      stage = nil
      return table.unpack(last)
    end
  end
end

---A talk's `collect` function, and what gives all that it took.
local function collector(limit)
  local parts, size = {}, 0
  return function(bytes)
    size = size + #bytes
    if size > limit then
      return ("it sent more than %d bytes: 'limit' may be more"):format(limit)
    end
    parts[#parts + 1] = bytes
  end, function() return table.concat(parts) end
end

---nil, text, code for an errno that the agent has answered.
local function refused(what, status)
  local text, name = core.error_text(-status)
  return nil, ("%s: %s"):format(what, text), name
end

local function check_path(where, path)
  options.argument(where, "path", path, "text")
  if path == "" or #path > 4095 then
    core.blame(("%s: 'path': expected a path of 1 to 4095 bytes"):format(where))
  end
end

-- ---- methods ----

local WAIT <const> = options.declare("linux:wait", { timeout = "seconds" })

---Lets the guest boot until its agent is there.
---@param opts? { timeout: number? }  seconds, 60 by default
---@return minikvm.linux
function Linux:wait(opts)
  options.self("linux:wait", self, KIND)
  local o = options.check("linux:wait", opts, WAIT)
  if self.channel.state.ready then return self end
  o.timeout = o.timeout or BOOT_TIMEOUT
  converse(self, "linux:wait", { ready = true }, o)
  return self
end

local SH <const> = options.declare("linux:sh", {
  timeout = "seconds", input = "string", limit = "size",
})

---The exit status as a shell has it.
local function exit_status(status)
  local signal = status & 0x7f -- wait(2)
  return signal == 0 and status >> 8 & 0xff or 128 + signal
end

---Runs a command of /bin/sh and waits for it. What it prints to stdout and stderr is returned; what
---it leaves in the background goes on as long as the guest runs.
---  timeout  seconds (10)
---  input    what it reads (nothing)
---  limit    bytes that it may print (256M)
---@param command string
---@param opts? { timeout: number?, input: string?, limit: integer|string? }
---@return string output
---@return integer status  128 + the number of a signal that ended it
function Linux:sh(command, opts)
  options.self("linux:sh", self, KIND)
  options.argument("linux:sh", "command", command, "text")
  local o = options.check("linux:sh", opts, SH)
  if #command > channel.CHUNK then
    core.blame(("linux:sh: a command has %d bytes at most: write a script into a file"):format(
      channel.CHUNK))
  end
  local collect, output = collector(o.limit or LIMIT)
  local last = { abi.AGENT_RUN, 0, command }
  local questions = o.input and in_parts({ abi.AGENT_INPUT }, abi.AGENT_FEED, o.input, last)
    or once(table.unpack(last))
  local what = "linux:sh " .. shortened(command)
  local status = converse(self, what, { next = questions, collect = collect }, o, output)
  if status < 0 then fail(self, what, select(2, refused("the agent", status))) end
  return output(), exit_status(status)
end

local WRITE <const> = options.declare("linux:write", {
  timeout = "seconds", mode = "permissions",
})

---Makes a file of the guest, or replaces what is in it.
---@param path string
---@param bytes string
---@param opts? { mode: integer?, timeout: number? }  permissions (0644); seconds (10)
---@return true? done  or nil, "path: why", "ENAME"
---@return string? why
---@return string? code
function Linux:write(path, bytes, opts)
  options.self("linux:write", self, KIND)
  check_path("linux:write", path)
  options.argument("linux:write", "bytes", bytes, "string")
  local o = options.check("linux:write", opts, WRITE)
  local mode = o.mode or tonumber("644", 8)
  local questions = in_parts({ abi.AGENT_CREATE, mode, path }, abi.AGENT_WRITE, bytes,
                             { abi.AGENT_CLOSE })
  local status = converse(self, "linux:write " .. shortened(path), { next = questions }, o)
  if status < 0 then return refused(path, status) end
  return true
end

local READ <const> = options.declare("linux:read", { timeout = "seconds", limit = "size" })

---The bytes of a file of the guest.
---@param path string
---@param opts? { timeout: number?, limit: integer|string? }  seconds (10); bytes (256M)
---@return string? bytes  or nil, "path: why", "ENAME"
---@return string? why
---@return string? code
function Linux:read(path, opts)
  options.self("linux:read", self, KIND)
  check_path("linux:read", path)
  local o = options.check("linux:read", opts, READ)
  local collect, bytes = collector(o.limit or LIMIT)
  local talk = { next = once(abi.AGENT_READ, 0, path), collect = collect }
  local status = converse(self, "linux:read " .. shortened(path), talk, o)
  if status < 0 then return refused(path, status) end
  return bytes()
end

local DMESG <const> = options.declare("linux:dmesg", { timeout = "seconds", level = function(value)
  if LEVELS[value] then return LEVELS[value] end
  return nil, "expected one of emerg, alert, crit, err, warn, notice, info, debug"
end })

---What the kernel has logged, each line with its time.
---  level    only lines that are at least so grave: "emerg", "alert", "crit", "err", "warn",
---           "notice", "info", "debug"
---  timeout  seconds (10)
---@param opts? { level: string?, timeout: number? }
---@return string text
function Linux:dmesg(opts)
  options.self("linux:dmesg", self, KIND)
  local o = options.check("linux:dmesg", opts, DMESG)
  local collect, text = collector(LIMIT)
  local status = converse(self, "linux:dmesg", { next = once(abi.AGENT_LOG), collect = collect }, o)
  if status < 0 then fail(self, "linux:dmesg", select(2, refused("syslog", status))) end
  local lines, shown = {}, true
  for line in text():gmatch "[^\n]*\n?" do
    local priority, rest = line:match "^<(%d+)>(.*)$"
    if priority then shown = not o.level or tonumber(priority) & 7 <= o.level end
    if shown then lines[#lines + 1] = rest or line end
  end
  return table.concat(lines)
end

-- ---- clock and random numbers ----

local function check_random(value)
  if type(value) == "boolean" then return value end
  if type(value) == "string" and #value > 0 and #value <= RANDOM_MAX then return value end
  return nil, ("expected true, false or 1 to %d bytes"):format(RANDOM_MAX)
end

local RENEW <const> = options.declare("linux:renew", {
  random = check_random,
  clock = function(value)
    if type(value) == "boolean" then return value end
    if math.type(value) == "integer" and value > 0 then return value end
    return nil, "expected true, false or seconds since 1970"
  end,
})

---The host's time, where a script may have it (docs/limits.md, --safe).
local function now()
  return os and os.time() or core.blame "linux:renew: there is no clock here: give clock = SECONDS"
end

---Makes a machine that was restored or forked another one: its wall clock is set, and new bytes go
---into the pool of random numbers, from which the kernel draws anew at once. The guest does both
---when it runs next, before anything else that it is asked.
---  clock   true (the default): the host's time; seconds since 1970; false: as it is
---  random  true (the default): 64 bytes of the host's; up to 256 bytes; false: none
---@param opts? { clock: boolean|integer|nil, random: boolean|string|nil }
---@return minikvm.linux
function Linux:renew(opts)
  options.self("linux:renew", self, KIND)
  local o = options.check("linux:renew", opts, RENEW)
  check(self, "linux:renew")
  self:wait()
  local state = self.channel.state
  local before = state.posted and state.renewal or { seconds = 0, bytes = "" }
  local seconds, bytes = o.clock or before.seconds, o.random or ""
  if o.clock == nil or o.clock == true then seconds = now() end
  if o.random == nil or o.random == true then bytes = core.random(RANDOM) end
  bytes = (bytes .. before.bytes):sub(1, RANDOM_MAX)
  state.renewal = { seconds = seconds, bytes = bytes }
  channel.post(self.channel, abi.AGENT_RENEW, ("<i8"):pack(seconds) .. bytes)
  return self
end

---Several machines that go on from where this one stands: see vm:fork. Each gets random numbers of
---its own; their clock stays as it is.
---@param n? integer  how many; one, when there is no number
---@return minikvm.linux[]|minikvm.linux|nil machines  or nil, "what: why", "ENAME"
---@return string? why
---@return string? code
function Linux:fork(n)
  options.self("linux:fork", self, KIND)
  local forks, why, code = self.vm:fork(n)
  if not forks then return nil, why, code end
  local list = {}
  for i, vm in ipairs(n and forks or { forks }) do
    list[i] = M.of(vm)
    if self.channel.state.ready then list[i]:renew{ clock = false } end
  end
  return n and list or list[1]
end

---At the end of a <close> variable's block.
function meta:__close()
  self.vm:close()
end

-- ---- of a VM ----

local known = setmetatable({}, { __mode = "k" })

---@param vm minikvm.vm
---@return minikvm.linux
function M.of(vm)
  local d = channel.of(vm)
  if not d then core.blame("vm:linux: this is for a vm of mode \"linux\"") end
  known[vm] = known[vm] or setmetatable({ vm = vm, channel = d }, meta)
  return known[vm]
end

---Commands, files and the kernel's log of a Linux guest that has the agent in its initramfs
---(kvm.initrd{ agent = true }). For VMs of mode "linux".
---@return minikvm.linux
core.methods "minikvm.vm".linux = function(vm)
  options.self("vm:linux", vm, "minikvm.vm")
  core.check_open(vm)
  return M.of(vm)
end

return M
