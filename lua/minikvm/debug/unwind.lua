-- debug/unwind.lua - who called: the frames of a vCPU's stack, by DWARF's call-frame information
-- where there is some, else by frame pointers; and past the frame of an interrupt.
--
-- A stack is the guest's and may hold anything: each step has to go up, a return address that only
-- a frame pointer tells must follow a call, and the number of frames is limited.

local core = require "minikvm.core"
local dies = require "minikvm.debug.dies"
local dwarf = require "minikvm.debug.dwarf"
local expression = require "minikvm.debug.expression"
local images = require "minikvm.image"
local symbols = require "minikvm.image.symbols"
local where = require "minikvm.debug.where"

local ult = math.ult

local M = {}

local ENTRIES <const> = 8 -- callers whose callers tell what a value was
local SEARCHED <const> = 48 -- words in which the frame of an interrupt is looked for

---@class minikvm.frame
---@field pc integer  linear
---@field called boolean  pc follows a call; else it is the next instruction
---@field how "registers"|"cfi"|"frame pointer"|"interrupt"  how it was found
---@field cfa integer?  the stack pointer before the call that made it
---@field registers table<integer, integer>  by DWARF's numbers; what is not known is nil
---@field outer minikvm.frame?  the caller's

---The address whose function and line count: within the call that a return address follows.
function M.address(frame)
  return frame.called and frame.pc - 1 or frame.pc
end

-- ---- by call-frame information ----

---What a register held when the function of a frame began, where the caller's debugging information
---tells what it was called with, and that it was this function: another one may have jumped here.
---@param name string?  the function's
---@param depth integer
local function entry_value(m, frame, number, name, depth)
  local outer = frame.outer
  if not outer or not outer.called or not name or depth > ENTRIES then return nil end
  local values, image
  dwarf.ask(m.vm, outer.pc - 1, function(info, there, from)
    values, image = dies.call(info, there + 1), from
    return values
  end)
  if not values or values.name ~= name or not values[number] then return nil end
  M.find_cfa(m, outer)
  local context = M.context(m, outer, image)
  function context.entry_value(register)
    local place = where.of(m.vm, outer.pc - 1).functions
    return entry_value(m, outer, register, place[#place] and place[#place].name, depth + 1)
  end
  local at = expression.evaluate(values[number], context)
  return at and (at.kind == "address" and at.address or at.value)
end

---What expressions of a frame are evaluated with.
---@param m minikvm.machine
---@param base (fun(): integer?)?  the frame base
---@param name string?  the function's, for what its registers held at first
function M.context(m, frame, image, base, name)
  local context = { bits = m.bits == 64 and 64 or 32 }
  function context.register(number) return frame.registers[number] end
  function context.memory(address, size) return m:integer(m.stack + (address & m.mask), size) end
  function context.cfa() return frame.cfa end
  context.frame_base = base or function() return nil end
  function context.entry_value(number) return entry_value(m, frame, number, name, 1) end
  function context.to_memory(address)
    return image and symbols.to_memory(image, address) or address
  end
  return context
end

---The value of a register of the caller.
local function recovered(m, rule, context, size)
  local at = expression.evaluate(rule, context)
  if not at then return nil end
  if at.kind == "address" then return m:stacked(at.address, size) end
  if at.kind == "register" then return context.register(at.number) end
  return at.value
end

---The rules at a frame's address and the image that has them; nil when there are none.
local function rules_at(m, frame)
  local image
  local rules = dwarf.ask(m.vm, M.address(frame), function(info, there, from)
    image = from
    return core.dwarf.frame(info, there)
  end)
  return rules, image
end

---The registers of the caller, and its frame's kind; nil when there is no call-frame information.
---@return table<integer, integer>? registers
---@return boolean? signal
local function by_cfi(m, frame)
  local rules, image = rules_at(m, frame)
  if not rules then return nil end
  local context, registers = M.context(m, frame, image), {}
  local at = expression.evaluate(rules.cfa, context)
  if not at or at.kind ~= "address" then return nil end
  frame.cfa = at.address
  local size = m.bits == 64 and 8 or 4
  for number = 0, m.pc do
    local rule = rules.rules[number]
    if rule then
      registers[number] = recovered(m, rule, context, size)
    elseif rule == nil and number ~= rules.ra then
      registers[number] = frame.registers[number]
    end
  end
  registers[m.sp] = registers[m.sp] or frame.cfa
  registers[m.pc] = registers[rules.ra]
  return registers, rules.signal
end

---Where the frame is, as far as call-frame information tells.
function M.find_cfa(m, frame)
  if not frame.cfa then by_cfi(m, frame) end
  return frame.cfa
end

-- ---- by frame pointers ----

---Whether the bytes before an address are a call, near or far: SDM volume 2, CALL.
local function follows_call(m, linear)
  local before = m:bytes(linear - 7 & m.mask, 7)
  if #before < 7 then before = m:bytes(linear - 5 & m.mask, 5) end
  if #before < 5 then return false end
  if before:byte(-5) == 0xe8 or before:byte(-3) == 0xe8 or before:byte(-5) == 0x9a then
    return true
  end
  for n = 2, math.min(7, #before) do
    local modrm = before:byte(-n + 1)
    if before:byte(-n) == 0xff and (modrm >> 3 & 6) == 2 then return true end
  end
  return false
end

---Whether a frame is of the function that an image starts with, which nobody calls.
local function is_entry(m, frame)
  local address, list = M.address(frame), images.objects(m.vm)
  local name, offset = symbols.at(list, address)
  for _, image in ipairs(list) do
    if name and image.plan.entry == address - offset then return true end
  end
  return false
end

---Why an address on the stack is no return address; nil when it may be one.
local function no_return(m, pc)
  local linear = m:linear(pc)
  if m:bytes(linear, 1) == "" then
    return ("it returns to 0x%x, where nothing is mapped"):format(linear)
  elseif not follows_call(m, linear) then
    return ("0x%x on the stack follows no call"):format(linear)
  end
end

local PUSH_BP <const>, ENDBR <const> = 0x55, "^\xf3\x0f\x1e[\xfa\xfb]" -- endbr64, endbr32

---How far a frame's function is, and where its `push rbp` is; nil: it has none; nothing: not known.
---@return integer? offset
---@return integer? push
local function beginning(m, frame)
  local name, offset = symbols.at(images.objects(m.vm), frame.pc)
  if not name then return nil end
  local code = m:bytes(frame.pc - offset, 8)
  local at = code:find(ENDBR) and 4 or 0
  return offset, code:byte(at + 1) == PUSH_BP and at or nil
end

---How many words lie above the return address: 0 before the function's `push rbp`, 1 behind that;
---nil: there is a frame.
local function prologue(m, frame)
  local offset, at = beginning(m, frame)
  if offset == 0 or offset and at and offset <= at then return 0 end
  return at and offset == at + 1 and 1 or nil
end

---@return table<integer, integer>? registers
---@return string? why
local function by_frame_pointer(m, frame)
  local sp, fp, word = frame.registers[m.sp], frame.registers[m.fp], m.word
  local begun = not frame.called and prologue(m, frame)
  local at = begun and sp + begun * word or fp and fp + word
  if not at then return nil, "the frame pointer is not known" end
  if not begun and fp == 0 then return nil, nil end
  if not begun and ult(fp, sp) then
    return nil, ("the frame pointer, 0x%x, lies below the stack pointer, 0x%x"):format(fp, sp)
  end
  local back = m:stacked(at)
  local caller_fp = begun == 0 and fp or m:stacked(begun and sp or fp)
  if not back or not caller_fp then
    return nil, ("the stack at 0x%x is not in mapped memory"):format(at & m.mask)
  end
  if back == 0 then return nil, nil end
  if not follows_call(m, m:linear(back)) then
    return nil, not is_entry(m, frame) and no_return(m, back) or nil
  end
  frame.cfa = at + word & m.mask
  local registers = {}
  for _, number in ipairs(m:preserved()) do registers[number] = frame.registers[number] end
  registers[m.pc], registers[m.sp], registers[m.fp] = back, frame.cfa, caller_fp
  return registers
end

-- ---- past an interrupt ----

local ALWAYS <const>, NEVER <const> = 1 << 1, 1 << 3 | 1 << 5 | 1 << 15 -- bits of the flags

---Whether a selector may be that of code.
local function is_code(m, selector)
  return selector == m.s.cs.selector or selector & 3 == 3 and selector < 0x10000
    and (selector | 7) <= m.s.gdt.limit
end

---Whether the frame of an interrupt has a stack pointer, too.
local function switches(m, cs) return m.bits == 64 or (cs ~ m.s.cs.selector) & 3 ~= 0 end

---Whether the stack in such a frame is one.
local function has_stack(m, at, cs)
  if not switches(m, cs) then return true end
  local sp, ss = m:stacked(at + 3 * m.word), m:stacked(at + 4 * m.word)
  return sp and ss and (ss | 7) >= 0 and (ss | 7) <= m.s.gdt.limit
    and m:bytes(m.stack + sp - 1, 1) ~= ""
end

---The registers at the place that an interrupt or an exception came at, when its frame (SDM volume
---3, 6.12 and 6.14) is near the top of the stack.
local function by_interrupt(m, frame)
  local sp, word = frame.registers[m.sp], m.word
  if m.bits == 16 then return nil end
  for i = 0, SEARCHED do
    local at = sp + i * word
    local pc, cs, flags = m:stacked(at), m:stacked(at + word), m:stacked(at + 2 * word)
    if not (pc and cs and flags) then return nil end
    if is_code(m, cs) and flags & ALWAYS ~= 0 and flags & NEVER == 0 and ult(flags, 1 << 22)
       and m:bytes(m:linear(pc), 1) ~= "" and pc ~= 0 and has_stack(m, at, cs) then
      local registers = {}
      for _, number in ipairs(m:preserved()) do registers[number] = frame.registers[number] end
      local switched = switches(m, cs)
      registers[m.pc] = pc
      registers[m.sp] = switched and m:stacked(at + 3 * word) or at + 3 * word
      return registers
    end
  end
end

-- ---- all of them ----

---The registers of the caller, by the means that knows most of this frame, and which that is.
local function recover(m, frame)
  local registers, signal = by_cfi(m, frame)
  if registers then return registers, signal and "signal" or "cfi" end
  local offset, pushes = beginning(m, frame)
  registers = offset and not pushes and by_interrupt(m, frame)
  if registers then return registers, "interrupt" end
  local why
  registers, why = by_frame_pointer(m, frame)
  if registers then return registers, "frame pointer" end
  registers = why and by_interrupt(m, frame)
  return registers or nil, registers and "interrupt" or why
end

---The frame of the caller; nil at the outermost one, or nil and why no more is known.
---@param m minikvm.machine
---@param frame minikvm.frame
---@return minikvm.frame?
---@return string? why
local function caller(m, frame)
  local registers, how = recover(m, frame)
  local pc = registers and registers[m.pc]
  if not pc or pc == 0 then return nil, not registers and how or nil end
  local called = how == "cfi" or how == "frame pointer"
  local problem = called and no_return(m, pc)
  if called and not ult(frame.registers[m.sp], registers[m.sp]) then
    problem = "the stack goes in a circle"
  end
  if problem and not is_entry(m, frame) then return nil, problem end
  if problem then return nil end
  return { pc = m:linear(pc), called = called, how = how == "signal" and "cfi" or how,
           registers = registers }
end

---The frames of a vCPU, the innermost first.
---@param m minikvm.machine
---@param registers table<integer, integer>
---@param limit integer
---@return minikvm.frame[] frames
---@return string? why  they end where they do; nil at the outermost one
function M.frames(m, registers, limit)
  local frame = { pc = m:linear(registers[m.pc]), called = false, how = "registers",
                  registers = registers }
  local list, why = {}, nil
  while frame do
    list[#list + 1] = frame
    if #list == limit then return list, ("there may be more than %d"):format(limit) end
    frame.outer, why = caller(m, frame)
    frame = frame.outer
  end
  return list, why
end

return M
