-- image.lua - what image.c calls: plans for a file in every mode, and all that is read of it beside
-- its contents: symbols, packed kernels, the mode it is for.

local make = require "support.image"
local plan = require "minikvm.image.plan"
local guess = require "minikvm.image.guess"
local gzip = require "minikvm.image.gzip"
local symbols = require "minikvm.image.symbols"
local symbol_file = require "minikvm.image.symbol_file"

local WANTS <const> = {
  { 16 }, { 16, { at = false, has_at = true } }, { 32 }, { 32, { paging = true, mode = "paged",
    high = 0x80000000 } },
  { 64 }, { 64, { mode = "long", linux = true, cpus = 2, cmdline = "quiet", features = {} } },
  { 32, { entry = 0x1000, cmdline = "a=b" } }, { 64, { symbol = "main" } },
}

---Refusals are tables; anything else is a fault.
local function allow(fn, ...)
  local ok, result = pcall(fn, ...)
  if ok then return result end
  if type(result) ~= "table" or not result.text then error(result, 0) end
end

---What a plan promises to who carries it out.
local function check(source, want, made)
  for _, s in ipairs(made.segments) do
    assert(plan.inside(s.offset, s.file_bytes, source.size), "a segment beyond the file")
    assert(not math.ult(s.mem_bytes, s.file_bytes), "a segment shorter than its file bytes")
    assert(plan.inside(s.at, s.mem_bytes, want.limit), "a segment outside RAM")
  end
end

return function(bytes)
  if #bytes < 2 then return end
  local which = bytes:byte()
  bytes = bytes:sub(2)
  local source, chosen = make.source(bytes), WANTS[which % #WANTS + 1]
  local want = make.wants(chosen[1], chosen[2])
  if chosen[2] and chosen[2].at == false then want.at = 0x100 end
  allow(plan.mode, source)
  local made = allow(plan.make, source, want)
  if made then check(source, want, made) end
  allow(symbols.of, source)
  if plan.is_elf(source) then
    allow(symbol_file.read, source)
    allow(symbol_file.build_id, source)
  end
  if source.head:sub(1, 3) == "\x1f\x8b\8" then allow(gzip.unpack, source) end
  if which & 0x80 ~= 0 then
    guess.modes(source.head, source.size)
    guess.sentence(source.head, source.size, plan.as_mode)
  end
end
