-- virtio's block device (lua/minikvm/devices/blk.lua), driven by hand: Virtual I/O Device 1.2, 5.2.
-- spec/guests/linux_pci_spec.lua has Linux's driver.

local blk = require "minikvm.devices.blk"
local pci = require "support.pci"
local support = require "support.guest"

local BASE <const>, CARD <const> = 0xfeb00000, pci.slot(2)
local DESC <const>, AVAIL <const>, USED <const>, DATA <const> = 0x100000, 0x101000, 0x102000,
  0x110000
local HEAD <const>, STATUS <const> = 0x103000, 0x104000
local IN <const>, OUT <const>, FLUSH <const>, ID <const>, ZERO <const> = 0, 1, 4, 8, 13

local function poke8(address, value) return ("<BBBI4"):pack(0xb0, value, 0xa2, address) end
local function poke16(address, value)
  return ("<BBI2BBI4"):pack(0x66, 0xb8, value, 0x66, 0xa3, address)
end

local START <const> = table.concat{ pci.place(CARD, 0, BASE), poke8(BASE + 0x14, 3),
  pci.poke(BASE + 8, 1), pci.poke(BASE + 0xc, 1), poke8(BASE + 0x14, 11), poke16(BASE + 0x18, 8),
  pci.poke(BASE + 0x20, DESC), pci.poke(BASE + 0x28, AVAIL), pci.poke(BASE + 0x30, USED),
  poke16(BASE + 0x1c, 1), poke8(BASE + 0x14, 15) }

local function machine(opts)
  local vm = pci.vm{ memory = "4M", pci = { blk.new(opts) } }
  pci.run(vm, { START })
  return vm, vm.pci:devices()[1]
end

---One request: its status, and how many there were before.
local function request(vm, kind, sector, length, data)
  local m, n = vm.memory, vm.memory:u16(AVAIL + 2)
  m:write(HEAD, ("<I4I4I8"):pack(kind, 0, sector))
  m:u8(STATUS, 0xaa)
  if data then m:write(DATA, data) end
  local into = (kind == IN or kind == ID) and 2 or 0
  m:write(DESC, ("<I8I4I2I2"):pack(HEAD, 16, 1, length > 0 and 1 or 2)
    .. ("<I8I4I2I2"):pack(DATA, length, 1 | into, 2) .. ("<I8I4I2I2"):pack(STATUS, 1, 2, 0))
  m:u16(AVAIL + 4 + n % 8 * 2, 0)
  m:u16(AVAIL + 2, n + 1 & 0xffff)
  pci.run(vm, { poke16(BASE + 0x3000, 0) })
  assert.equal(n + 1, m:u16(USED + 2))
  return m:u8(STATUS)
end

describe("virtio's block device", function()
  if support.without_kvm(pending) then return end

  it("reads and writes what snapshots, restores and forks keep", function()
    local vm <close>, d = machine{ size = 1 << 20 }
    assert.equal(0, request(vm, OUT, 3, 1024, ("a"):rep(512) .. ("b"):rep(512)))
    assert.equal(0, request(vm, IN, 4, 512))
    assert.equal(("b"):rep(512), vm.memory:read(DATA, 512))
    assert.equal(0, request(vm, FLUSH, 0, 0))
    assert.equal(0, request(vm, ID, 0, 20))
    assert.equal("minikvm", vm.memory:read(DATA, 7))
    local snap = assert(vm:snapshot())
    assert.equal(0, request(vm, OUT, 4, 512, ("c"):rep(512)))
    assert(vm:restore(snap))
    assert.equal(0, request(vm, IN, 4, 512))
    assert.equal(("b"):rep(512), vm.memory:read(DATA, 512))
    local child <close> = assert(vm:fork())
    assert.equal(0, request(child, IN, 3, 512))
    assert.equal(("a"):rep(512), child.memory:read(DATA, 512))
    assert.equal(0, request(child, ZERO, 0, 16, ("<I8I4I4"):pack(3, 1, 0)))
    assert.equal(0, request(child, IN, 3, 512))
    assert.equal(("\0"):rep(512), child.memory:read(DATA, 512))
    assert.equal(0, request(vm, IN, 3, 512))
    assert.equal(("a"):rep(512), vm.memory:read(DATA, 512))
    assert.equal(0, d.state.failed)
  end)

  it("answers what cannot be done as an I/O error, and goes on", function()
    local vm <close>, d = machine{ bytes = ("x"):rep(4096) }
    for _, r in ipairs{ { IN, 8, 512 }, { IN, 7, 1024 }, { IN, 0, 100 }, { OUT, 1 << 60, 512 },
                        { IN, -1, 512 }, { ZERO, 0, 16, ("<I8I4I4"):pack(0, 0xffffffff, 0) },
                        { ZERO, 0, 15, ("\0"):rep(15) } } do
      assert.equal(1, request(vm, table.unpack(r)))
    end
    assert.equal(2, request(vm, 99, 0, 512))
    assert.equal(8, d.state.failed)
    assert.equal(0, request(vm, IN, 7, 512))
    assert.equal(("x"):rep(512), vm.memory:read(DATA, 512))
  end)

  it("has what the host refuses reach the guest: a full layer, a disk that is only read", function()
    local full <close> = machine{ size = 1 << 20, limit = 4096 }
    local last
    for sector = 0, 1000, 100 do last = request(full, OUT, sector, 512, ("f"):rep(512)) end
    assert.equal(1, last)
    local vm <close> = machine{ size = 1 << 20, read_only = true }
    assert.equal(1, request(vm, OUT, 0, 512, ("f"):rep(512)))
    assert.equal(0, request(vm, IN, 0, 512))
  end)

  it("writes to a file when it is told to, and leaves it alone otherwise", function()
    local path = os.tmpname()
    local function contents()
      local file <close> = assert(io.open(path, "rb"))
      return file:read "a"
    end
    local file = assert(io.open(path, "wb"))
    file:write(("o"):rep(1024))
    file:close()
    do
      local vm <close> = machine{ path = path }
      assert.equal(0, request(vm, OUT, 1, 512, ("n"):rep(512)))
      assert.equal(("o"):rep(1024), contents())
    end
    do
      local vm <close> = machine{ path = path, write = true }
      assert.equal(0, request(vm, OUT, 1, 512, ("n"):rep(512)))
      assert.equal(0, request(vm, FLUSH, 0, 0))
    end
    assert.equal(("o"):rep(512) .. ("n"):rep(512), contents())
    os.remove(path)
    assert.error_matches(function() machine{ path = path } end,
      path .. ": No such file or directory")
  end)

  it("stands still for what is no request", function()
    local vm <close>, d = machine{ size = 1 << 20 }
    vm.memory:write(DESC, ("<I8I4I2I2"):pack(HEAD, 16, 0, 0))
    vm.memory:u16(AVAIL + 4, 0)
    vm.memory:u16(AVAIL + 2, 1)
    pci.run(vm, { poke16(BASE + 0x3000, 0) })
    assert.equal("a request has a header of 16 bytes and a status", d.state.virtio.last_error)
  end)
end)
