-- debug/calls.lua - who calls whom, out of the instructions that a vCPU executes one by one: for
-- vm:trace{ calls = true }.
--
-- A call is what a CALL, INT or SYSCALL does, an interrupt, and an exception: an instruction that
-- is no jump and after which another one comes than the next (Intel SDM volume 2, the opcode maps;
-- volume 1, 6.4). It is over when its RET or IRET comes back to behind it, on the same stack: a
-- kernel that switches between threads has a stack for each. Levels are bounded (MOST).

local core = require "minikvm.core"

local M = {}

local LONGEST <const> = 15 -- bytes of an instruction
local MOST <const> = 1024
local STACK <const> = 1 << 16 -- bytes: farther apart are two stacks

---Which opcodes lead elsewhere, and how.
local FLOW <const> = { [0xe8] = "call", [0x9a] = "call", [0xcc] = "call", [0xcd] = "call",
                       [0xce] = "call", [0xf1] = "call", [0xc2] = "return", [0xc3] = "return",
                       [0xca] = "return", [0xcb] = "return", [0xcf] = "return", [0xe9] = "jump",
                       [0xea] = "jump", [0xeb] = "jump" }
for op = 0x70, 0x7f do FLOW[op] = "jump" end
for op = 0xe0, 0xe3 do FLOW[op] = "jump" end
---Of two bytes, 0x0f first.
local FLOW_0F <const> = { [0x05] = "call", [0x34] = "call", [0x07] = "return", [0x35] = "return" }
for op = 0x80, 0x8f do FLOW_0F[op] = "jump" end
---Of 0xff, by the middle field of the ModRM byte.
local FLOW_FF <const> = { [2] = "call", [3] = "call", [4] = "jump", [5] = "jump" }

local PREFIX <const> = {}
for byte in ("66 67 f0 f2 f3 26 2e 36 3e 64 65"):gmatch "%x+" do
  PREFIX[tonumber(byte, 16)] = true
end

---How an instruction leads elsewhere: "call", "return", "jump", or nil.
---@param code string  its bytes
---@param bits integer  16, 32 or 64
---@return string?
function M.flow(code, bits)
  local i = 1
  local op = code:byte(i)
  while op and (PREFIX[op] or bits == 64 and op & 0xf0 == 0x40) do
    i = i + 1
    op = code:byte(i)
  end
  if op == 0x0f then return FLOW_0F[code:byte(i + 1)] end
  if op == 0xff then return FLOW_FF[(code:byte(i + 1) or 0) >> 3 & 7] end
  return FLOW[op]
end

---@class minikvm.calls.frame
---@field back integer  where it comes back to, linear
---@field rsp integer  when it began
---@field depth integer
---@field name string
---@field call boolean  it was a CALL

local function same_stack(a, b)
  local distance = a - b
  return -STACK < distance and distance < STACK
end

---The level of a call that begins with this RSP.
local function depth_at(frames, rsp)
  for i = #frames, 1, -1 do
    if same_stack(frames[i].rsp, rsp) then return frames[i].depth + 1 end
  end
  return 0
end

---The frame that has come back, and what it called since: gone, the innermost first.
local function undo_call(frames, linear, rsp)
  local gone = {}
  for i = #frames, 1, -1 do
    local frame = frames[i]
    if frame.back == linear and (not frame.call or same_stack(frame.rsp, rsp)) then
      for k = #frames, i, -1 do
        if k == i or same_stack(frames[k].rsp, frame.rsp) then
          gone[#gone + 1] = table.remove(frames, k)
        end
      end
      break
    end
  end
  return gone
end

local function begin(frames, e, from, name, back, is_call)
  local frame = { back = back, rsp = from.rsp, name = name, call = is_call,
                  depth = depth_at(frames, from.rsp) }
  if #frames == MOST then table.remove(frames, 1) end
  frames[#frames + 1] = frame
  return { { cpu = e.cpu, kind = "call", ns = e.ns, exits = e.exits, rip = from.rip,
           linear = from.linear, text = "", depth = frame.depth, name = name } }
end

local function ended(e, from, gone)
  local events = {}
  for i, frame in ipairs(gone) do
    events[i] = { cpu = e.cpu, kind = "return", ns = e.ns, exits = e.exits, rip = from.rip,
                  linear = from.linear, text = "", depth = frame.depth, name = frame.name }
  end
  return events
end

---Where the instruction behind a call is.
local function behind(call)
  local insn = core.disassemble(call.code, call.bits, call.linear)[1]
  return call.linear + (insn and insn.size or 0)
end

---Why the vCPU is elsewhere than behind the instruction before: what begins or is over with that.
local function change(state, e, name_of)
  local before, frames = state.before, state.frames
  if state.interrupt then
    local name = ("interrupt 0x%02x, %s"):format(state.interrupt.value, name_of(e.linear))
    local from = { rip = state.interrupt.rip, linear = state.interrupt.linear, rsp = e.rsp }
    return begin(frames, e, from, name, from.linear, false)
  elseif not before or e.linear == before.linear then -- its repetition
    return nil
  elseif before.flow == "call" then
    return begin(frames, e, before, name_of(e.linear), behind(before), true)
  elseif before.flow == "return" then
    return ended(e, before, undo_call(frames, e.linear, e.rsp))
  elseif before.flow == nil and e.linear - before.linear > LONGEST
         or before.flow == nil and e.linear < before.linear then
    return begin(frames, e, before, "exception, " .. name_of(e.linear), before.linear, false)
  end
end

---Follows one vCPU.
---@param name_of fun(linear: integer): string  of a function
---@return fun(e: minikvm.trace.event): minikvm.trace.event[]?  what an instruction, which is about
---  to be executed, or an interrupt tells of calls
function M.new(name_of)
  local state = { frames = {} }
  return function(e)
    if e.kind == "interrupt" then
      state.interrupt = e
      return nil
    end
    e.rsp = e.address
    local events = change(state, e, name_of)
    state.interrupt = nil
    state.before = { linear = e.linear, rip = e.rip, rsp = e.rsp, code = e.text, bits = e.value,
                     flow = M.flow(e.text, e.value) }
    return events
  end
end

return M
