-- rsp.lua - what rsp.c calls: a connection of gdb's (lua/minikvm/gdb/connection.lua) whose other
-- end sends any bytes. They are heard in one piece as in several, and what was heard is sent so
-- that it is heard again.

local connection = require "minikvm.gdb.connection"
local core = require "minikvm.core"

local function connect(pieces)
  local socket = {}
  function socket.receive() return table.remove(pieces, 1) end
  function socket.send(_, bytes, from) return #bytes - from end
  function socket.watch() end
  return connection.new(socket)
end

local function heard(pieces)
  local c, list = connect(pieces), {}
  for event, data in function() return c:receive(false) end do
    list[#list + 1] = data and "=" .. data or event
  end
  return list
end

local function round_trip(data)
  local packet = core.rsp_encode(data)
  local back = heard{ packet }
  assert(#back == 1, "a packet of ours is one")
  assert(packet:find("*", 1, true) or back[1] == "=" .. data, "and the same, but for runs")
  assert(core.unhex(core.hex(data)) == data)
  core.unhex(data)
end

return function(bytes)
  local whole, half = heard{ bytes }, #bytes // 2
  local pieces = heard{ bytes:sub(1, half), bytes:sub(half + 1, half + 1), bytes:sub(half + 2) }
  assert(table.concat(whole, "\n") == table.concat(pieces, "\n"))
  for _, event in ipairs(whole) do
    if event:sub(1, 1) == "=" then round_trip(event:sub(2)) end
  end
end
