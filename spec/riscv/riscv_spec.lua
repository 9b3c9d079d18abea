-- The hypervisor in riscv/ under QEMU, by its serial port. QEMU's time is made of instructions
-- (-icount): it is the same in every run, however busy this machine is.

local lfs = require "lfs"
local program = require "support.program"
local support = require "support.guest"

local QEMU <const> = "qemu-system-riscv64"
local HYPERVISOR <const>, GUESTS <const> = "riscv/build/hypervisor.elf", "riscv/guests/"
local ICOUNT <const> = " -icount shift=1,sleep=off"
local SLICES <const> = 10 -- as in spin.expect

---Why it cannot be run here; nil when it can.
local function missing()
  if not os.execute("command -v " .. QEMU .. " >/dev/null") then
    return ("needs %s (Debian: qemu-system-misc)"):format(QEMU)
  end
  if not lfs.attributes(HYPERVISOR) then
    return "needs " .. HYPERVISOR .. ", which make builds where there is riscv64-linux-gnu-gcc "
      .. "(Debian: gcc-riscv64-linux-gnu)"
  end
end

-- ---- archives of guests ----

---A file in a tar archive (POSIX.1-1988 "ustar"), as far as the hypervisor looks at it.
local function member(name, bytes, size)
  local header = ("c100c8c8c8c12c12c8c1c100c6"):pack(name, "", "", "",
                                                     ("%011o"):format(size or #bytes), "", "", "0",
                                                     "", "ustar")
  return header .. ("\0"):rep(512 - #header) .. bytes .. ("\0"):rep(-#bytes & 511)
end

local function image(name)
  return assert(support.read_file("riscv/build/guests/" .. name))
end

---@param list string[]  names of guests, or { name, bytes }
local function archive(list)
  local parts = {}
  for i, guest in ipairs(list) do
    local name, bytes = guest, nil
    if type(guest) == "table" then name, bytes = guest[1], guest[2] end
    parts[i] = member(name, bytes or image(name))
  end
  return table.concat(parts) .. ("\0"):rep(1024)
end

-- ---- the machine ----

---Starts QEMU with an archive of guests, which may be any bytes.
---@param bytes string?
---@param opts? { memory: string?, cpu: string?, append: string? }
local function start(bytes, opts)
  opts = opts or {}
  local path = bytes and program.file(bytes)
  local running = program.start(("exec %s -machine virt -cpu %s -m %s -display none -monitor none "
    .. "-serial stdio -no-reboot%s -kernel %s %s -append '%s'"):format(QEMU,
    opts.cpu or "rv64,h=true", opts.memory or "128M", ICOUNT, HYPERVISOR,
    path and "-initrd " .. path or "", opts.append or ""))
  running.archive = path
  return running
end

---What was printed, by who printed it: lines of guests by their names, and of the hypervisor.
local function lines_of(out)
  local said = { hypervisor = {}, order = {} }
  for line in out:gsub("\r", ""):gmatch "[^\n]+" do
    local name, text = line:match "^%[(%w+)%] (.*)$"
    if not name then name, text = line:match "^(hypervisor): (.*)$" end
    if name then
      said[name] = said[name] or {}
      table.insert(said[name], text)
      table.insert(said.order, name)
    end
  end
  return said
end

local function finish(running)
  local r = running:finish()
  if running.archive then os.remove(running.archive) end
  return lines_of(r.out), r
end

---Runs guests until all have ended.
local function run(bytes, opts)
  local said, r = finish(start(bytes, opts))
  assert.equal(0, r.status, r.out .. r.err)
  return said
end

---What the hypervisor says in a run of these bytes.
local function verdicts(bytes, opts)
  return run(bytes, opts).hypervisor
end

-- ---- guests and what they must do ----

local function expectations()
  local list = {}
  for file in lfs.dir(GUESTS) do
    local name = file:match "^(.*)%.expect$"
    if name then
      local text = support.read_file(GUESTS .. file)
      local last, output = text:match "^end: ([^\n]+)\n(.*)$"
      list[#list + 1] = { name = name, last = assert(last, file), output = output:gsub("^\n", ""),
                          input = support.read_file(GUESTS .. name .. ".in") }
    end
  end
  table.sort(list, function(a, b) return a.name < b.name end)
  return list
end

local function has(list, beginning)
  for _, text in ipairs(list) do
    if text:sub(1, #beginning) == beginning then return true end
  end
  return false
end

---What a guest printed and how it ended.
local function check(guest, said)
  local text = said[guest.name] and table.concat(said[guest.name], "\n") .. "\n" or ""
  assert.equal(guest.output, text)
  local last = guest.name .. " " .. guest.last
  assert.is_true(has(said.hypervisor, last), table.concat(said.hypervisor, "\n"))
end

local function place(list, wanted, last)
  for i = last and #list or 1, last and 1 or #list, last and -1 or 1 do
    if list[i] == wanted then return i end
  end
end

describe("riscv/", function()
  local why = missing()
  if why then return pending(why) end

  local guests = expectations()

  describe("all guests in one machine:", function()
    local said
    local names = { "registers", { "twin", image "registers" } }
    for _, guest in ipairs(guests) do
      if not guest.input and guest.name ~= "registers" then names[#names + 1] = guest.name end
    end
    setup(function() said = run(archive(names), { append = "slices=" .. SLICES }) end)

    for _, guest in ipairs(guests) do
      if not guest.input then
        it(guest.name .. " does what its .expect says", function() check(guest, said) end)
      end
    end

    it("registers are each guest's own", function()
      assert.same({ { "S" }, { "S" } }, { said.registers, said.twin })
    end)

    it("they take turns", function()
      assert.is_true(place(said.order, "counter") < place(said.order, "primes", true))
      assert.is_true(place(said.order, "primes") < place(said.order, "counter", true))
    end)
  end)

  describe("input", function()
    for _, guest in ipairs(guests) do
      if guest.input then
        it(guest.name .. " gets what is typed at its prompts", function()
          local r = start(archive{ guest.name })
          for line in guest.input:gmatch "[^\n]+" do
            r:wait(("[%s] > "):format(guest.name)):type(line .. "\n")
          end
          check(guest, (finish(r)))
        end)
      end
    end

    it("gets to its guest beside one that never leaves", function()
      local r = start(archive{ "spin", "echo" })
      r:wait("[echo] > "):type("one\n"):wait("one\r\n[echo] > "):type("q\n")
      r:wait("hypervisor: echo shut down"):kill("TERM")
      finish(r)
    end)
  end)

  describe("images", function()
    local RAM <const> = 8 << 20

    it("may be empty", function()
      assert.same({ "none is not started: its image is empty",
                    "hello shut down after 16 calls and 0 page faults" },
                  verdicts(archive{ { "none", "" }, "hello" }))
    end)

    it("may be as large as a guest's memory, and not larger", function()
      local whole = image "hello" .. ("\0"):rep(RAM - #image "hello")
      local said = run(archive{ { "larger", whole .. "\0" }, { "whole", whole } })
      assert.same({ "larger is not started: its image has 8388609 bytes, a guest's memory 8388608",
                    "whole shut down after 16 calls and 0 page faults" }, said.hypervisor)
      assert.same({ "Hello, RISC-V!" }, said.whole)
    end)

    it("are 32 at most", function()
      local names = {}
      for i = 1, 33 do names[i] = { "g" .. i, image "hello" } end
      local said = run(archive(names))
      assert.equal("g33 is not started: there are 32 guests already", said.hypervisor[1])
      for i = 1, 32 do assert.same({ "Hello, RISC-V!" }, said["g" .. i]) end
    end)
  end)

  describe("an archive", function()
    local NOBODY <const> = "there are no guests to run (QEMU: -initrd ARCHIVE.tar)"

    it("may be missing", function()
      assert.same({ NOBODY }, verdicts(nil))
    end)

    it("may be of no guest", function()
      assert.same({ NOBODY }, verdicts(archive{}))
    end)

    it("may be something else", function()
      local said = verdicts(("\x1f\x8b garbage"):rep(100))
      assert.matches("^the archive is none of tar's: no header at 0x%x+$", said[1])
      assert.equal(NOBODY, said[2])
    end)

    it("may be cut off", function()
      local whole = archive{ "hello", { "cut", ("\0"):rep(2000) } }
      assert.same({ "the archive ends within cut",
                    "hello shut down after 16 calls and 0 page faults" },
                  verdicts(whole:sub(1, -2500)))
    end)

    it("may claim any size", function()
      assert.same({ "the archive ends within liar", NOBODY },
                  verdicts(member("liar", "", (1 << 33) - 1)))
    end)
  end)

  it("memory that runs out ends who needs it, and is there for others again, as zeros", function()
    local said = verdicts(archive{ { "first", image "hoard" }, { "second", image "hoard" }, "fill",
                                   "hello" }, { memory = "28M", append = "slices=5" })
    for i, name in ipairs{ "second", "fill" } do
      assert.matches("^" .. name .. " touched 0x40[4-7]%x+ at 0x%x+, and no page is left for it$",
                     said[i])
    end
    assert.equal("hello shut down after 16 calls and 0 page faults", said[3])
    assert.equal("first is ended at 0x40000012: it used all of its 5 time slices", said[4])
  end)

  it("options that are not known are refused", function()
    for _, option in ipairs{ "slice=5", "slices=0" } do
      assert.same({ ("does not know the option %s (QEMU: -append slices=N)"):format(option) },
                  verdicts(archive{ "hello" }, { append = option }))
    end
  end)

  it("a hart without the hypervisor extension is told of", function()
    assert.same({ "this hart has no hypervisor extension (QEMU: -cpu rv64,h=true)" },
                verdicts(archive{ "hello" }, { cpu = "rv64,h=false" }))
  end)

  it("make run has two guests take turns", function()
    local r = program.run("make -s -C riscv run QEMU='" .. QEMU .. ICOUNT .. "'")
    local said = lines_of(r.out)
    assert.equal(10, #said.counter, r.out .. r.err)
    assert.equal(10, #said.primes)
    assert.equal(2, #said.hypervisor)
  end)
end)

describe("the specs of riscv/", function()
  it("are skipped, with the reason, where there is no QEMU for it", function()
    local r = program.run("PATH=/nonexistent P test spec/riscv/riscv_spec.lua --filter '^riscv/'")
    assert.matches("needs qemu-system-riscv64 (Debian: qemu-system-misc)", r.out, 1, true)
    assert.matches("0 passed, 0 failed, 1 skipped", r.out, 1, true)
  end)
end)
