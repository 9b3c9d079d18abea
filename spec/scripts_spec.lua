-- The scripts a user starts from, run as a user runs them.

local lfs = require "lfs"
local program = require "support.program"
local support = require "support.guest"

local function run(line, opts)
  return program.run("P scripts/" .. line, opts)
end

describe("scripts/multi_vm.lua", function()
  if support.without_kvm(pending) then return end

  it("labels the lines of four guests and ends with a table of results", function()
    local r = run "multi_vm.lua"
    assert.equal(0, r.status, r.err)
    assert.match("%[hello%] Hello, KVM!\n", r.out)
    assert.match("%[counter%] 0 1 2 3 4 5 6 7 8 9\n", r.out)
    assert.match("%[multiplication%] 9 x 9 = 81\n", r.out)
    assert.match("%[fibonacci%] 0 1 1 2 3 5 8 13 21 34 55 89 144 233 377 ?\n", r.out)
    assert.match("\nhello +halt +13 ", r.out)
    assert.match("\nmultiplication +halt +786 ", r.out)
  end)

  it("takes other images, and fails when one of them does", function()
    local r = run "multi_vm.lua hello guests/real/badcall.bin"
    assert.equal(1, r.status)
    assert.match("badcall +fault .* unknown hypercall 0x77", r.out)
    assert.match("No such file", run("multi_vm.lua nosuch").err)
  end)
end)

describe("scripts/kvm_vmm.lua", function()
  if support.without_kvm(pending) then return end

  it("runs four guests as vCPUs of one VM, their lines told apart", function()
    local g = "guests/real/%s.bin "
    local r = run("kvm_vmm.lua " .. g:rep(4):format("hello", "counter", "hello", "primes"))
    assert.equal(0, r.status, r.err)
    assert.equal(2, select(2, r.out:gsub("%[hello.bin%] Hello, KVM!\n", "")))
    assert.match("%[counter.bin%] 0 1 2", r.out)
    assert.match("%[primes.bin%] 2 3 5 7", r.out)
  end)

  it("ends with status 0 after EXIT, whatever was printed last; run takes BL for the code",
     function()
    -- mov dx, 0x500; mov bl, 10; mov al, 1 (PUTCHAR); out dx, al; mov al, 0 (EXIT); out dx, al
    local image = program.image "ba 00 05 b3 0a b0 01 ee b0 00 ee"
    local r = run("kvm_vmm.lua " .. image)
    assert.same({ 0, "\n", "" }, { r.status, r.out, r.err })
    assert.equal(10, program.run("P run " .. image).status)
    os.remove(image)
  end)

  it("refuses none and five, a missing image and an unknown option", function()
    local five = ("guests/real/hello.bin "):rep(5)
    for line, message in pairs{
      [""] = "guest.bin", [five] = "at most 4", ["--pagin x"] = "did you mean '%-%-paging'",
      ["nosuch.bin"] = "nosuch.bin: No such file", ["--paging a b"] = "takes one guest",
    } do
      local r = run("kvm_vmm.lua " .. line)
      assert.is_true(r.status > 0)
      assert.equal("", r.out)
      assert.match(message, r.err)
    end
  end)
end)

describe("scripts/mini_hypervisor.lua", function()
  if support.without_kvm(pending) then return end
  local HELLO <const> = "-g guests/long/hello.bin "

  it("names what is wrong with its arguments, shows the usage and fails", function()
    for line, message in pairs{
      ["-m 3 " .. HELLO] = "%-%-memory: expected 2 or 4 or 8",
      ["-m 0 " .. HELLO] = "%-%-memory: expected",
      ["-m 2abc " .. HELLO] = "%-%-memory: expected", [HELLO .. "-m"] = "%-m needs a value",
      ["-p 3 " .. HELLO] = "%-%-page: expected 4 or 2", [""] = "no guest",
      [HELLO .. "-m 2 -m 4"] = "given twice", [HELLO .. "--memry 2"] = "did you mean '%-%-memory'",
      ["-g guests/long/hello.bin nosuch.img"] = "nosuch.img: No such file",
      [HELLO .. "-f README.md README.md"] = "'README.md' is given twice",
      [HELLO .. "-f nosuch.txt"] = "nosuch.txt: No such file",
      [HELLO .. "-f README.md src/vm/vm.h"] = "one directory",
    } do
      local r = run("mini_hypervisor.lua " .. line)
      assert.is_true(r.status > 0, line)
      assert.equal("", r.out)
      assert.match(message, r.err)
      assert.match("usage: mini_hypervisor.lua", r.err)
    end
  end)

  it("runs an image twice, in every memory and page size", function()
    for _, memory in ipairs{ 2, 4, 8 } do
      for _, page in ipairs{ 4, 2 } do
        local r = run(("mini_hypervisor.lua -m %d --page=%d -g guests/long/hello.bin "
                       .. "guests/long/hello.bin"):format(memory, page))
        assert.equal(0, r.status, r.err)
        assert.match("%[hello%] Hello, KVM!\n", r.out)
        assert.match("%[hello%-2%] Hello, KVM!\n", r.out)
      end
    end
  end)

  it("gives each VM its own copies, keeps them where told, and spares the original", function()
    local out, shared = os.tmpname(), "guests/long/data/shared.txt"
    os.remove(out)
    local before = support.read_file(shared)
    local r = run(("mini_hypervisor.lua -g guests/long/cow_writer.bin guests/long/cow_reader.bin "
                   .. "-f %s -o %s"):format(shared, out))
    assert.equal(0, r.status, r.err)
    assert.match("%[cow_writer%] all of it: Shared by all: this is a copy of it.\n", r.out)
    assert.match("%[cow_reader%] Shared by all: this is the original.\n", r.out)
    assert.equal(before, support.read_file(shared))
    local copy = support.read_file(out .. "/cow_writer/shared.txt")
    assert.match("^Shared by all: this is a copy", copy)
    assert.is_nil(lfs.attributes(out .. "/cow_reader/shared.txt"))
    os.execute("rm -r " .. out)
  end)
end)

describe("the other scripts", function()
  if support.without_kvm(pending) then return end

  it("hello.lua greets and says how it ended", function()
    local r = run "hello.lua"
    assert.same({ 0, "Hello, KVM!\nhello: halt after 13 exits\n" }, { r.status, r.out })
  end)

  it("file_protocol.lua serves a protocol of its own on the file port", function()
    local r = run "file_protocol.lua"
    assert.equal(0, r.status, r.err)
    assert.match("^written by another protocol", r.out)
  end)

  it("edu.lua runs a driver, and with -v shows each access", function()
    local r = run "edu.lua"
    assert.equal(0, r.status, r.err)
    assert.match("\n5! = 120\n.*turned away 4 accesses and 11 transfers", r.out)
    assert.match("0xfeb00000%-0xfebfffff .* device edu\n", r.out)
    assert.match("\n  read  ID          4 bytes 0x10000ed\n", run("edu.lua -v").out)
  end)

  it("kernel64.lua shows the screen of a 64-bit kernel", function()
    local r = run("kernel64.lua", { stdin = "help\nhalt\n" })
    assert.equal(0, r.status, r.err)
    assert.match("a 64%-bit kernel in a few hundred lines", r.out)
  end)
end)

describe("scripts that are tests", function()
  if support.without_kvm(pending) then return end

  for name, count in pairs{ test_1k_os = 55, test_keyboard = 4, test_two_vms = 4 } do
    it(name .. ".lua passes, started as a script or by minikvm test", function()
      for _, line in ipairs{ "P scripts/%s.lua", "P test scripts/%s.lua --seed 1" } do
        local r = program.run(line:format(name))
        assert.equal(0, r.status, r.out .. r.err)
        assert.equal(count .. " passed, 0 failed, 0 skipped", r.out:match "([^\n]*)\n$")
      end
    end)
  end
end)

describe("every script", function()
  it("explains itself", function()
    for file in lfs.dir "scripts" do
      if file:find "%.lua$" then
        local r = run(file .. " --help")
        assert.same({ 0, "" }, { r.status, r.err }, file)
        assert.matches("\n\n", r.out, file)
        assert.truthy(r.out:find("^usage: " .. file) or r.out:find("^" .. file), file)
      end
    end
    local r = run "hello.lua what"
    assert.equal(2, r.status)
    assert.matches('^hello.lua: unexpected argument "what"\nusage: hello.lua', r.err)
  end)

  it("finds its guests from any folder", function()
    if support.without_kvm(pending) then return end
    local r = program.run("p=$(realpath P); d=$PWD; cd /; $p $d/scripts/multi_vm.lua hello")
    assert.equal(0, r.status, r.err)
    assert.matches("%[hello%] Hello, KVM!\n", r.out)
  end)
end)
