-- image/guess.lua - which mode the code of a flat image is for: nothing in the file says so, and
-- code that runs in another mode prints rubbish, or dies far from where it went wrong.
--
-- The code is followed from its first byte, as 16-, as 32- and as 64-bit code. Read in the wrong
-- way, operands swallow instructions, and jumps lead out of the image. Images without a sign of
-- wide code (Intel SDM, volume 2, 2.1 and 2.2.1: 32-bit operands, REX prefixes) are not followed:
-- that takes a library, and they are most of those that are for real mode.

local core = require "minikvm.core"

local M = {}

local MOST <const> = 16384 -- bytes looked at
local STEPS <const> = 400 -- instructions
local PIECE <const> = 48 -- bytes disassembled at once
local REX_SHARE <const> = 10 -- of how many instructions one has a REX prefix, at the least

-- ---- signs ----

local REX <const> = "[\x48\x49\x4c\x4d][\x01\x0f\x29\x31\x39\x63\x81\x83\x85\x89\x8b\x8d"
  .. "\xb8-\xbf\xc1\xc7\xf7\xff]"
local WIDE <const> = { REX, "[\xb8-\xbf\xe8\xe9]..%z%z", "[\xe8\xe9]..\xff\xff",
                       "[\xb8-\xbf]..[\1-\x1f%z][%z\x80]", "[\x81\xc7][\x05-\xff]..[%z\x80]",
                       "[\xbc-\xbf]..." .. "[%z\x80]", "\x0f[\x80-\x8f]..[%z\xff][%z\xff]" }

local function has_signs(bytes)
  for _, pattern in ipairs(WIDE) do
    if bytes:find(pattern) then return true end
  end
  return false
end

-- ---- following the code ----

---Instructions that kernels have no use for, but rubbish has.
local ODD <const> = { aaa = true, aas = true, daa = true, das = true, arpl = true, salc = true,
                      into = true, int1 = true, bound = true, fnop = true, xlatb = true }
local ENDS <const> = { ret = true, retf = true, iret = true, iretd = true, iretq = true,
                       jmp = true, ljmp = true, sysretq = true, ud2 = true, hlt = true }

---Whether an instruction that was decoded is a sign of the wrong mode.
local function is_odd(bytes, insn, word)
  return ODD[word] or bytes:sub(insn.address + 1, insn.address + 2) == "\0\0"
end

---Adds where an instruction leads, or counts a jump out of the image.
local function add_target(walk, insn, word)
  if word ~= "call" and word:sub(1, 1) ~= "j" and word:sub(1, 4) ~= "loop" then return end
  local target = tonumber(insn.text:match "^%a+ (0?x?%x+)$")
  if not target then return end
  if target < walk.size then
    walk.todo[#walk.todo + 1] = target
  else
    walk.odd = walk.odd + 1
  end
end

---Follows one path until it ends or comes to where another one was.
local function follow(walk, at)
  while walk.steps < STEPS and not walk.seen[at] do
    local list = core.disassemble(walk.bytes:sub(at + 1, at + PIECE), walk.bits, at)
    if not list[1] then
      if at < #walk.bytes or at >= walk.size then walk.odd = walk.odd + 1 end
      return
    end
    for _, insn in ipairs(list) do
      if walk.seen[insn.address] then return end
      walk.seen[insn.address], walk.steps = true, walk.steps + 1
      local word = insn.text:match "^%a+%d*"
      if is_odd(walk.bytes, insn, word) then walk.odd = walk.odd + 1 end
      if walk.bytes:find("^[\x48-\x4f]", insn.address + 1) and walk.bits == 64 then
        walk.rex = walk.rex + 1
      end
      walk.high = walk.high or insn.text:find "0x8%x%x%x%x%x%x%x%f[^%x]" ~= nil
      add_target(walk, insn, word)
      if ENDS[word] then return end
      at = insn.address + insn.size
    end
  end
end

---@return { odd: integer, steps: integer, rex: integer, high: boolean? }
local function walk_code(bytes, size, bits)
  local walk = { bytes = bytes, size = size, bits = bits, todo = { 0 }, seen = {}, steps = 0,
                 odd = 0, rex = 0 }
  while #walk.todo > 0 and walk.steps < STEPS do follow(walk, table.remove(walk.todo)) end
  return walk
end

---Odd ones of a hundred.
local function share(walk)
  return walk.odd * 100 / math.max(walk.steps, 1)
end

-- ---- the answer ----

---The modes that code which is at the start of a file looks like, the likeliest first; nil: nothing
---speaks against real mode, or it cannot be told.
---@param head string  the first bytes of the file
---@param size integer  of the file
---@return string[]?
function M.modes(head, size)
  local bytes = head:sub(1, MOST)
  if not has_signs(bytes) then return nil end
  local ok, narrow = pcall(walk_code, bytes, size, 16)
  if not ok or narrow.odd == 0 then return nil end -- no library that disassembles
  local wide, long = walk_code(bytes, size, 32), walk_code(bytes, size, 64)
  if math.min(share(wide), share(long)) >= share(narrow) then return nil end
  if long.rex > 0 and long.rex * REX_SHARE >= long.steps and share(long) < share(narrow) then
    return { "long" }
  elseif wide.high then
    return { "paged" }
  elseif long.odd == 0 and wide.odd == 0 then
    return { "protected", "long" }
  end
  return { "protected" }
end

---The same as words: "it looks like 64-bit code: try mode=\"long\"".
---@param as_mode fun(mode: string): string  how a user asks for one
---@return string?
function M.sentence(head, size, as_mode)
  local modes = M.modes(head, size)
  if not modes then return nil end
  local bits = modes[1] == "long" and "64" or modes[2] and "32- or 64" or "32"
  return ("it looks like %s-bit code: try %s"):format(bits, as_mode(modes[1])
    .. (modes[2] and ", or " .. as_mode(modes[2]) or ""))
end

---The same, of a VM that runs a flat image in real mode because nobody chose another; else nil.
---@param vm minikvm.vm
---@return string?
function M.of_vm(vm, as_mode)
  local made, images = require("minikvm.vm").made[vm], package.loaded["minikvm.image"]
  local image = images and images.of(vm)[1]
  if not image or not made or made.mode or vm.mode ~= "real" or image.plan.format ~= "flat" then
    return nil
  end
  return M.sentence(image.source.head, image.source.size, as_mode)
end

return M
