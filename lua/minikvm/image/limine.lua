-- image/limine.lua - kernels for the Limine boot protocol: PROTOCOL.md of limine-protocol, base
-- revisions 0 to 6. Here: what is found in the kernel ("Base Revisions", "Requests Delimiters",
-- "Features"), and where it goes ("Memory Layout at Entry"). limine_answers.lua answers the
-- requests, limine_machine.lua makes the machine's state.
--
-- Requests are looked for in the kernel's segments in all revisions, also where a section
-- .limine_reqs lists them (revision 0).

local executables = require "minikvm.image.executable"
local framebuffers = require "minikvm.vm.framebuffer"
local place = require "minikvm.image.place"
local plan = require "minikvm.image.plan"

local refuse = plan.refuse

local M = {}

M.beside = "modules" -- what may be loaded beside it
M.video = true -- a kernel may be told of a framebuffer
M.NEWEST = 6 -- base revision

local PIECE <const>, OVERLAP <const> = 4 << 20, 32 -- bytes looked at at once; of the longest magic
local SCAN_MAX <const>, HITS_MAX <const>, REQUESTS_MAX <const> = 256 << 20, 4096, 128
local REQUEST <const> = 48 -- bytes of what all requests have: id, revision, response
local BASE_TAG <const> = 24

local function magic(...) return ("<i8"):rep(select("#", ...)):pack(...) end

local COMMON <const> = magic(0xc7b1dd30df4c8b88, 0x0a82e883a194f07b)
local MAGICS <const> = {
  { "request", COMMON },
  { "base", magic(0xf9562b2d5c95a6c8, 0x6a7b384944536bdc) },
  { "start", magic(0xf6b8f4b39de7d1ae, 0xfab91a6940fcb9cf, 0x785c6ed015d3e316,
                   0x181e920a7852b9d9) },
  { "stop", magic(0xadc0e0531bb10d03, 0x9572709f31764c62) },
}

-- ---- finding what the kernel has for its loader ----

---Calls fn(kind, address, segment) for each magic number in the bytes on a boundary of 8, until it
---returns something.
local function each_magic(bytes, from, segment, fn)
  for _, m in ipairs(MAGICS) do
    local at = 1
    while true do
      at = bytes:find(m[2], at, true)
      if not at then break end
      local address = from + at - 1
      local done = address % 8 == 0 and fn(m[1], address, segment)
      if done then return done end
      at = at + 1
    end
  end
end

---The same for all segments.
local function scan(source, segments, fn)
  local scanned = 0
  for _, s in ipairs(segments) do
    scanned = scanned + s.filesz
    if math.ult(SCAN_MAX, s.filesz) or scanned > SCAN_MAX then
      refuse(source, "EFBIG", "its segments have more than %d MiB, too many to look for requests",
             SCAN_MAX >> 20)
    end
    for at = 0, s.filesz - 1, PIECE do
      local bytes = source:read(s.offset + at, math.min(s.filesz - at, PIECE + OVERLAP))
      local done = each_magic(bytes, s.vaddr + at, s, fn)
      if done then return done end
    end
  end
end

local function has_request(source)
  if not executables.is_candidate(source) then return false end
  return scan(source, executables.segments(source), function(kind)
    return kind == "request" or kind == "base"
  end) or false
end

---Whether a file is such a kernel; what is wrong with a damaged one is said by elf.lua.
function M.is(source)
  if source.limine == nil then
    local ok, found = pcall(has_request, source)
    source.limine = ok and found
  end
  return source.limine
end

---All magic numbers by address.
local function collect(source, executable)
  local hits, seen = {}, {}
  scan(source, executable.segments, function(kind, address, segment)
    if seen[address] then return end -- where two pieces overlap
    if #hits == HITS_MAX then
      refuse(source, "E2BIG", "more than %d requests and markers", HITS_MAX)
    end
    seen[address] = true
    hits[#hits + 1] = { kind = kind, address = address, segment = segment }
  end)
  table.sort(hits, function(a, b) return math.ult(a.address, b.address) end)
  return hits
end

-- ---- the base revision and the requests ----

---Bytes of a hit's segment from it on.
local function room(hit)
  return hit.segment.vaddr + hit.segment.memsz - hit.address
end

local function read_base(source, executable, found, hit)
  if found.base then
    refuse(source, "ENOEXEC", "Limine: two base revision tags, at 0x%x and 0x%x", found.base,
           hit.address)
  elseif room(hit) < BASE_TAG then
    refuse(source, "ENOEXEC", "Limine: the base revision tag at 0x%x is cut off by the end of its "
      .. "segment", hit.address)
  end
  found.base, found.revision = hit.address, executable:u64(hit.address + 16)
end

local function read_request(source, executable, found, hit)
  if room(hit) < REQUEST then
    refuse(source, "ENOEXEC", "Limine: the request at 0x%x is cut off by the end of its segment",
           hit.address)
  elseif #found.requests == REQUESTS_MAX then
    refuse(source, "E2BIG", "Limine: more than %d requests", REQUESTS_MAX)
  end
  local id = magic(executable:u64(hit.address + 16), executable:u64(hit.address + 24))
  if found.by_id[id] then
    refuse(source, "ENOEXEC", "Limine: two requests with the same ID, at 0x%x and 0x%x",
           found.by_id[id].address, hit.address)
  end
  local request = { id = id, address = hit.address, revision = executable:u64(hit.address + 32),
                    room = room(hit) }
  found.by_id[id] = request
  found.requests[#found.requests + 1] = request
end

---What lies between the last start marker and the first end marker.
---@return { revision: integer, base: integer?, requests: table[], by_id: table<string, table> }
local function read_requests(source, executable)
  local function nothing() return { revision = 0, requests = {}, by_id = {} } end
  local found = nothing()
  for _, hit in ipairs(collect(source, executable)) do
    if hit.kind == "start" then
      found = nothing()
    elseif hit.kind == "stop" then
      break
    elseif hit.kind == "base" then
      read_base(source, executable, found, hit)
    else
      read_request(source, executable, found, hit)
    end
  end
  if not found.base and #found.requests == 0 then
    refuse(source, "ENOEXEC", "no request of the Limine boot protocol between its markers")
  elseif math.ult(M.NEWEST, found.revision) then
    refuse(source, "EOPNOTSUPP", "Limine: base revision %u is newer than %d, the newest that is "
      .. "known", found.revision, M.NEWEST)
  end
  return found
end

-- ---- where it goes ----

---Physical addresses of its segments: in one piece, from a multiple of their alignment on.
local function place_kernel(source, want, executable)
  local alone = setmetatable({ blocks = false }, { __index = want })
  local base = place.find(source, alone, { segments = {} }, "the kernel above 1 MiB",
                          executable.span, place.HIGH_START, executable.align)
  local segments = {}
  for i, s in ipairs(executable.segments) do
    segments[i] = { at = base + s.vaddr - executable.low, linear = s.vaddr + executable.slide,
                    offset = s.offset, file_bytes = s.filesz, mem_bytes = s.memsz }
  end
  return segments, base
end

function M.segments(source, want)
  if want.bits ~= 64 then
    refuse(source, "EINVAL", "a kernel for the Limine boot protocol starts in 64-bit mode: %s",
           plan.as_mode "long")
  elseif (want.cpus or 1) > 1 then
    refuse(source, "EINVAL", "cpus = %d: a kernel for the Limine boot protocol has one vCPU: it "
      .. "would start the others by what ACPI says of them, and there is none", want.cpus)
  end
  local executable = executables.read(source)
  local found = read_requests(source, executable)
  local segments, base = place_kernel(source, want, executable)
  local asks = found.by_id[require("minikvm.image.limine_answers").FRAMEBUFFER]
  return { segments = segments, base = base, executable = executable, limine = found,
           slide = executable.slide, entry = executable.entry + executable.slide,
           framebuffer = framebuffers.choose(want, asks and { width = 0, height = 0 } or nil) }
end

---Answers, page tables and registers. What minikvm keeps in RAM for other kernels is not needed.
function M.finish(source, want, made)
  want.blocks = nil
  require("minikvm.image.limine_machine").finish(source, want, made)
end

return M
