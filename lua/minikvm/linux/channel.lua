-- linux/channel.lua - questions to the agent in a Linux guest (guests/agent), and its answers.
--
-- They lie in a window of guest memory, one at a time; a doubleword written to a port says that an
-- answer is there. The guest stands at that access until its next question, so a run lasts from a
-- question to the end of its answers. docs/abi.md, "Agent", has the protocol. What a guest writes
-- is not believed: length, checksum and number of an answer are checked. Handlers run on the
-- vCPU's thread under the Lua lock.

local abi = require "minikvm.abi"
local core = require "minikvm.core"
local device = require "minikvm.device"

local M = {}

local HEAD <const> = "<I4I4I4i4I4" -- magic, number, kind, status or argument, bytes that follow
local HEAD_BYTES <const> = 24 -- with the checksum
local WINDOW <const> = abi.AGENT_WINDOW
M.CHUNK = abi.AGENT_WINDOW_SIZE - HEAD_BYTES

---@class minikvm.talk  a question, or several, one after the other
---@field next fun(): integer?, integer?, string?  the next question: its kind, argument and bytes
---@field collect? fun(bytes: string): string?  gets what an answer brings; why that is too much
---@field ready? boolean  it waits for the agent's first words instead
---@field done? boolean
---@field status? integer  of the last answer: negative for an errno
---@field failed? string  why the agent cannot be talked to any more

-- ---- frames ----

local function put(d, kind, argument, bytes)
  local s = d.state
  s.number = s.number + 1 & 0xffffffff
  local head = HEAD:pack(abi.AGENT_QUESTION, s.number, kind, argument or 0, #bytes)
  local sum = core.crc32(bytes, core.crc32(head))
  d.vm.memory:write(WINDOW, head .. ("<I4"):pack(sum) .. bytes)
end

---@return table? answer  kind, number, status, bytes
---@return string? why
local function read_answer(d)
  local head = d.vm.memory:read(WINDOW, HEAD_BYTES)
  local magic, number, kind, status, length, sum = (HEAD .. "I4"):unpack(head)
  if magic ~= abi.AGENT_ANSWER then
    return nil, ("it answered with garbage: 0x%08x where an answer has 0x%08x"):format(magic,
      abi.AGENT_ANSWER)
  elseif length > M.CHUNK then
    return nil, ("it answered with garbage: %d bytes, where there is room for %d"):format(length,
      M.CHUNK)
  end
  local bytes = d.vm.memory:read(WINDOW + HEAD_BYTES, length)
  local right = core.crc32(bytes, core.crc32(head:sub(1, HEAD_BYTES - 4)))
  if sum ~= right then
    return nil, ("it answered with garbage, or with a part of an answer: its %d bytes have the "
      .. "checksum 0x%08x, not 0x%08x"):format(length, right, sum)
  end
  return { kind = kind, number = number, status = status, bytes = bytes }
end

---A question that the agent finds when the guest runs next, whatever for; its answer need not be
---waited for. Another one takes its place until then.
---@param d minikvm.device
---@param kind integer
---@param bytes string
function M.post(d, kind, bytes)
  put(d, kind, 0, bytes)
  d.state.posted = d.state.number
end

local function is_posted(d, answer)
  return d.state.posted ~= nil and answer.number == d.state.posted
end

-- ---- a talk ----

---Puts the next question; false when there is none.
local function ask(d, talk)
  local kind, argument, bytes = talk.next()
  if kind then put(d, kind, argument, bytes or "") end
  return kind ~= nil
end

---An answer to what was posted; why it is not a good one.
local function hear_posted(d, answer)
  d.state.posted = nil
  if answer.kind == abi.AGENT_END and answer.status >= 0 then return nil end
  return ("it could not renew the machine: %s"):format((core.error_text(-answer.status)))
end

---What follows from an answer: whether the talk is over, and why it failed.
---@param talk minikvm.talk
local function hear(d, talk, answer)
  if answer.kind == abi.AGENT_READY and answer.number == 0 then
    return true, not talk.ready and "the agent was started anew" or nil
  elseif is_posted(d, answer) then
    local why = hear_posted(d, answer)
    return why ~= nil or not ask(d, talk), why
  elseif talk.ready then
    return true, "it answered before it was asked"
  elseif answer.number ~= d.state.number then
    return true, ("it answered another question: number %d, asked was number %d"):format(
      answer.number, d.state.number)
  elseif answer.kind == abi.AGENT_DATA then
    local why = "it sent data unasked"
    if talk.collect then why = talk.collect(answer.bytes) end
    return why ~= nil and why ~= false, why or nil
  elseif answer.kind ~= abi.AGENT_END then
    return true, ("it answered with an unknown kind of answer, %d"):format(answer.kind)
  end
  talk.status = answer.status
  return answer.status < 0 or not ask(d, talk)
end

---Without a talk, the agent may say that it is there, or answer what was posted.
local function hear_idle(d, answer)
  if not answer then return end
  if answer.kind == abi.AGENT_READY and answer.number == 0 then d.state.ready = true end
  if is_posted(d, answer) then d.state.broken = hear_posted(d, answer) end
end

---The guest has written to the port.
local function rung(d)
  local talk = d.own.talk
  local answer, why = read_answer(d)
  if not talk or talk.done or talk.failed then return hear_idle(d, answer) end
  local over = true
  if answer then over, why = hear(d, talk, answer) end
  if not over then return end
  if why then talk.failed = why else talk.done = true end
  if talk.ready and not why then d.state.ready = true end
  d.vm:stop()
end

---Lets the guest run until a talk is over, or for `timeout` seconds.
---@param d minikvm.device  from M.of
---@param talk minikvm.talk
---@param timeout number
---@return string? reason  of the run; the talk says how it went
---@return table|string info
function M.run(d, talk, timeout)
  talk.done, talk.failed = nil, nil
  if not (talk.ready or d.state.posted) then ask(d, talk) end
  d.own.talk = talk
  local ok, reason, info = pcall(d.vm.run, d.vm, { deadline = timeout })
  d.own.talk = nil
  if ok then return reason, info end
  d.state.broken = "it was interrupted" -- and the agent is busy
  error(reason, 0)
end

-- ---- the device ----

local definition
local channels = setmetatable({}, { __mode = "k" })

---Gives a VM the agent's port.
function M.attach(vm)
  definition = definition or device.define{
    name = "agent", registers = { [0] = { name = "BELL", width = 4 } },
    read = { BELL = function(d) return d.state.number end }, write = { BELL = rung },
    reset = function(d) d.state = { number = 0, ready = false } end,
  }
  channels[vm] = device.attach(vm, definition, { ports = abi.PORT_AGENT })
end

---The agent's port of a VM, when it has one. Its state: `number` of the last question, `posted`,
---that of one that nobody waits for, `ready` once the agent has been heard, `broken`, why it cannot
---be talked to any more.
---@return minikvm.device?
function M.of(vm)
  local d = channels[vm]
  return d and not d.gone and d or nil
end

return M
