-- test_two_vms.lua - one guest feeds another through a device that is two Lua functions: a mailbox
-- at port 0x300, into which one writes bytes, and from which the other reads them.
--
--   minikvm scripts/test_two_vms.lua

local t = require "minikvm.test"

local MAILBOX <const>, TEXT <const> = 0x300, 0x0d

local function code(hex)
  return { bytes = (hex:gsub("%X", ""):gsub("..", function(h)
    return string.char(tonumber(h, 16))
  end)) }
end

-- mov si, 0x0d; mov dx, 0x300; next: lodsb; out dx, al; test al, al; jnz next; hlt
local sender = t.guest{ name = "sender", image = code "be0d00 ba0003 ac ee 84c0 75fa f4" }

-- mov dx, 0x300; next: in al, dx; test al, al; jz next; out 0xe9, al; cmp al, 10; jne next; hlt
local receiver = t.guest{ name = "receiver", image = code "ba0003 ec 84c0 74fb e6e9 3c0a 75f5 f4" }

---The two ends of a new mailbox; reading gives 0 while it is empty.
local function mailbox()
  local first, last, bytes = 1, 0, {}
  local function put(_, value)
    if value ~= 0 then last, bytes[last + 1] = last + 1, value end
  end
  local function get()
    if first > last then return 0 end
    first = first + 1
    return bytes[first - 1]
  end
  return { write = put }, { read = get }
end

t.describe("a mailbox between two VMs", function()
  for _, text in ipairs{ "hello", "", ("a long line "):rep(40) } do
    t.it(("passes on %q"):format(text:sub(1, 20)), function()
      local a, b, put, get = sender(), receiver(), mailbox()
      local from <close> = a.ports:on(MAILBOX, put)
      local to <close> = b.ports:on(MAILBOX, get)
      a.memory:write(TEXT, text .. "\n\0")
      b:start() -- it waits for what is not there yet
      a:start()
      b.console:expect(text .. "\n", { plain = true })
      assert(a:wait(20) == "halt" and b:wait(20) == "halt")
      assert(from.hits == #text + 2 and to.hits > #text)
    end)
  end

  t.it("gives each byte to one of two receivers", function()
    local a, b, c = sender(), receiver:fork(2)
    local put, get = mailbox()
    local from <close> = a.ports:on(MAILBOX, put)
    b.ports:on(MAILBOX, get) -- a fork is closed after the test, and its hooks with it
    c.ports:on(MAILBOX, get)
    a.memory:write(TEXT, "one\ntwo\n\0")
    assert(a:run() == "halt" and b:run() == "halt" and c:run() == "halt")
    assert(from.hits == 9 and b.console:text() == "one\n" and c.console:text() == "two\n")
  end)
end)
