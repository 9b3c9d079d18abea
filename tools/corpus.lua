-- corpus.lua - the inputs of a target of spec/fuzz in one file, each behind its length (u32), packed
-- by gzip.
--   lua5.4 tools/corpus.lua unpack FILE FOLDER
--   lua5.4 tools/corpus.lua pack FOLDER FILE

local function unpack_file(from, folder)
  local file = assert(io.popen(("gzip -dc '%s'"):format(from)))
  local bytes, at, n = file:read "a", 1, 0
  file:close()
  while at <= #bytes do
    local one
    one, at = ("<s4"):unpack(bytes, at)
    n = n + 1
    local out = assert(io.open(("%s/kept-%04d"):format(folder, n), "wb"))
    assert(out:write(one))
    out:close()
  end
end

---Shorter ones first; the same files make the same corpus.
local function pack(folder, to)
  local list = {}
  for path in assert(io.popen(("find '%s' -type f"):format(folder))):lines() do
    local file = assert(io.open(path, "rb"))
    list[#list + 1] = file:read "a"
    file:close()
  end
  table.sort(list, function(a, b) return #a < #b or #a == #b and a < b end)
  for i, one in ipairs(list) do list[i] = ("<s4"):pack(one) end
  local out = assert(io.popen(("gzip -9nc >'%s'"):format(to), "w"))
  assert(out:write(table.concat(list)))
  out:close()
end

(arg[1] == "pack" and pack or unpack_file)(arg[2], arg[3])
