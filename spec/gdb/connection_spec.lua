-- Packets of gdb's remote protocol as bytes come and as they go. The right bytes are those of
-- Debugging with GDB, appendix E.1.

local connection = require "minikvm.gdb.connection"
local core = require "minikvm.core"

---A connection whose other end sends these pieces and takes `room` bytes at a time.
local function connect(pieces, room)
  local sent, socket = {}, {}
  function socket.receive() return table.remove(pieces, 1) end
  function socket.send(_, bytes, from)
    local piece = bytes:sub(from + 1, from + (room or #bytes))
    sent[#sent + 1] = piece
    return #piece
  end
  function socket:watch(writes) self.writes = writes end
  return connection.new(socket), socket, function()
    local all = table.concat(sent)
    sent = {}
    return all
  end
end

---What is heard of these bytes, when they come at once and one by one.
local function heard(bytes)
  local single = {}
  for i = 1, #bytes do single[i] = bytes:sub(i, i) end
  local lists = {}
  for i, pieces in ipairs{ { bytes }, single } do
    local c, list = connect(pieces), {}
    for event, data in function() return c:receive(false) end do
      list[#list + 1] = data or "(" .. event .. ")"
    end
    lists[i] = table.concat(list, " ")
  end
  assert.equal(lists[1], lists[2])
  return lists[1]
end

describe("a packet that comes", function()
  it("is what its sender meant", function()
    for bytes, data in pairs{
      ["$g#67"] = "g", ["+$#00"] = "", ["noise$?#3f"] = "?", ["$m\3#70"] = "m\3",
      ["$X1:}\3}\4}]#9e"] = "X1:#$}", -- the sum is of what came
      ["$half$g#67"] = "g", ["$half#$g#67"] = "g", ["$half#6$g#67"] = "g",
      ["$g#67\3$?#3F"] = "g (interrupt) ?",
    } do
      assert.equal(data, heard(bytes))
    end
  end)

  it("may be damaged, and only that one is lost", function()
    assert.equal("", heard "$g#68")
    assert.equal("g", heard "$g#6x$g#67")
    local c, _, sent = connect{ "$g#68$g#67$q", "C#b4-" }
    assert.same({ "packet", "g" }, { c:receive(false) })
    assert.equal("-+", sent())
    assert.same({ "packet", "qC" }, { c:receive(false) })
    assert.equal("+", sent())
    c:send "QC1"
    assert.is_nil(c:receive(false))
    assert.equal("$QC1#c5$QC1#c5", sent()) -- '-': it did not get that
    c = connect{ "$g#68" }
    c.acks = false
    assert.equal("damaged", c:receive(false))
  end)

  it("has a longest one", function()
    local function packet(count)
      return ("$%s#%02x"):format(("a"):rep(count), count * 97 & 0xff)
    end
    local c = connect{ packet(connection.MOST), packet(connection.MOST + 1), "$g#67" }
    assert.equal(connection.MOST, #select(2, c:receive(false)))
    assert.equal("too long", (c:receive(false)))
    assert.same({ "packet", "g" }, { c:receive(false) })
  end)

  it("is passed over while the guest runs, but for Ctrl-C", function()
    local c = connect{ "$g#67\3", "$g#67", "\3" }
    assert.equal("interrupt", c:receive(true))
    assert.is_nil(c:receive(true))
    assert.equal("interrupt", c:receive(true))
  end)
end)

describe("a packet that goes", function()
  it("is escaped, and has run lengths", function()
    for data, bytes in pairs{
      OK = "$OK#9a", [""] = "$#00", ["a#$}*"] = "$a}\3}\4}]}\10#c3",
      ["0000"] = "$0* #7a", -- the manual's example
      ["000"] = "$000#90", -- not worth it
    } do
      assert.equal(bytes, core.rsp_encode(data))
    end
    for count = 1, 400 do -- '#' and '$' are no counts
      local body = core.rsp_encode(("0"):rep(count)):match "^%$([ -\"&-~%%]+)#%x%x$"
      assert.equal(("0"):rep(count), (body:gsub("0%*(.)", function(byte)
        return ("0"):rep(byte:byte() - 28)
      end)))
    end
  end)

  it("waits for room", function()
    local c, socket, sent = connect({ "$g#67" }, 2)
    c:send "123456"
    c:send "7"
    assert.is_nil(c:receive(false))
    assert.is_true(socket.writes)
    repeat local event = c:receive(false) until event
    assert.equal("$123456#35$7#37+", sent())
  end)
end)

describe("hexadecimal digits", function()
  it("are bytes, and back", function()
    assert.equal("00ff5a", core.hex "\0\xff\x5a")
    assert.equal("\0\xff\x5a", core.unhex "00fF5a")
    assert.is_nil(core.unhex "0g")
    assert.is_nil(core.unhex "000")
  end)
end)
