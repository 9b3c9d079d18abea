-- Clients that do not speak gdb's protocol well, or mean harm: nothing but their own connection
-- suffers. Right is what Debugging with GDB, appendix E.1 and E.2, says.

local gdb = require "support.gdb"
local process = require "support.process"
local support = require "support.guest"

describe("a client of gdb's protocol", function()
  if support.without_kvm(pending) or gdb.without_gdb(pending, true) then return end

  it("may send damaged, truncated, unknown and very long packets", function()
    local output, reason = gdb.against [[
connect()
send(b"$?#00")
print("damaged", byte())
packet("?")
print("well", byte(), receive()[:3])
send(b"+noise\x00\xff~")
send(b"$qC#")                     # the sum is missing: '$' begins anew
send(b"$qC#b4"); print("anew", receive())
send(b"-"); print("again", receive())
print(ask("QStartNoAckMode"))
for word in ("Q", "v", "q", "y", "\x00", "vUnknown;1", "qXfer:nothing:read::0,10", "_"):
    print("unknown", repr(ask(word)))
packet("m1000,4" + "0" * (1 << 20)); print("long", receive())
print("sum", end=" "); send(b"$qC#00"); print(receive())
print("still", ask("m1000,2"))
packet("k")
]]
    assert.equal("stopped", reason)
    assert.matches("^damaged b'%-'\nwell b'%+' T05\nanew QC1\nagain QC1\nOK\n", output)
    assert.equal(8, select(2, output:gsub("unknown ''\n", "")))
    assert.matches("long E%.a packet has at most 262144 bytes\n"
      .. "sum E%.the sum of the packet is wrong\nstill ff05\n$", output)
  end)

  it("may ask for what is not there, and set what does not fit", function()
    local output, _, vm = gdb.against [[
quiet()
def show(*words): print(*[ask(w) for w in words])
ask("?")
show("m3fffff,10", "m400000,1", "mffffffff,10", "m100001000,1", "mfffffffffffffffff,1", "m,", "m1")
show("M3fffff,2:0102", "M1000,2:01", "M1000,1:0102", "M1000,1:0g", "Xfffffff0,4:abcd", "X1000,3:ab")
show("G00", "P0=0011", "Pffff=00000000", "P8=zz", "pffff", "p", "Pzz=1", "P8", "G" + "zz" * 400)
show("H", "Hg9", "Hcffffffff", "T0", "T2", "T1", "Txx", "qThreadExtraInfo,9", "Hg9400000000000000",
     "m1000,1")
part = "qXfer:features:read:target.xml:"
show("vCont;s:9", "vCont;q", "vCont;", "Ctt", "sxx", "cxx", "qRcmd,1", part + "zz")
print(len(ask(part + "ffffff,100")), ask("qXfer:features:read:other.xml:0,10"))
print(ask("X2100,5:}\x03}\x04}]*}\x0a".encode("latin1")), ask("m2100,5"))
print(ask("m1000,0"), "|", ask("X1000,0:"))
packet("k")
]]
    assert.same({
      "e0 E0e E0e E0e E16 E16 E16", -- as many bytes as there are
      "E0e E16 E16 E16 E0e E16",
      "E16 E16 E16 E16 E16 E16 E16 E16 E16",
      "E16 E16 E16 E16 E16 OK E16 E16 E16 ff",
      "E16 E16 E16 E16 E16 E16 E16 E16",
      "1 E00", "OK 23247d2a2a", " | OK" }, { (output:gsub("^00 ", "e0 ", 1)):gsub("\n$", "")
      :match "^(.-)\n(.-)\n(.-)\n(.-)\n(.-)\n(.-)\n(.-)\n(.-)$" })
    assert.equal("#$}**", vm.memory:read(0x2100, 5))
    vm:close()
  end)

  it("gets nothing of 64-bit addresses that are not canonical or not mapped", function()
    local output, _, vm = gdb.against([[
quiet()
print(ask("m8000000000000000,8"), ask("mffffffffffffffff,10"), ask("m1000,2"))
packet("k")
]], nil, "long")
    assert.equal("E0e E0e ff05\n", output)
    vm:close()
  end)

  it("may flood and not read, while the guest runs and while it stands still", function()
    local vm <close> = support.vm{ mode = "protected" }
    vm:load{ bytes = support.bytes(gdb.COUNT) }
    local server <close> = assert(vm:gdb{ lost = "continue" })
    local client = gdb.client(server.address, [[
quiet()
line.settimeout(0.15)
try:
    while True: send(framed("m1000,8000") * 1000)
except OSError: print("stalled")
line.close()
quiet()
packet("c")
for i in range(100): send(framed("qC") * 1000)
print("sent")
]])
    vm:start()
    process.await(function() return vm.memory:u32(0x2000) > 1000000 end)
    assert.equal("stalled\nsent\n", client:finish())
    process.await(function() return not server.connected end)
    assert.equal("stopped", (vm:stop()))
  end)
end)
