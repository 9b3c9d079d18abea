-- parse.lua - what parse.c calls: files and texts that Lua reads: console fonts, tracefiles, values
-- of snapshots and workers, addresses for gdb, sizes. The first byte says which.

local copy = require "minikvm.copy"
local font = require "minikvm.console.font"
local gdb = require "minikvm.gdb"
local lcov = require "minikvm.debug.lcov"
local options = require "minikvm.options"

---What was read can be written, if it is not too deep, and read again.
local function values(bytes)
  local value, why, code = copy.unpack(bytes)
  if value == nil then return assert(why == nil or code) end
  local again = copy.pack(value, "value")
  if again then assert(copy.unpack(again) == value or type(value) ~= "boolean") end
end

local function tracefile(bytes)
  local data = {}
  local ok, why = pcall(lcov.parse, data, bytes, "tracefile")
  if not ok and type(why) == "string" and why:find "attempt to" then error(why, 0) end
end

local READERS <const> = {
  values, tracefile, function(bytes) assert(font.parse(bytes) == nil or true) end,
  function(bytes) gdb.parse(bytes) options.size(bytes) end,
}

return function(bytes)
  if bytes == "" then return end
  READERS[bytes:byte() % #READERS + 1](bytes:sub(2))
end
