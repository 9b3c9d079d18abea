-- The guests in guests/long: the same output and, where nothing is coalesced, the same number of
-- exits in RAM of 2, 4 and 8 MiB with pages of 4 KiB and 2 MiB. Then the kernel in guests/kernel64,
-- and vm:screen(). Headers of an .expect, besides those that guests/real has:
--   irqchip   option of the VM
--   device    edu: lua/minikvm/devices/edu.lua at 0xfeb00000, line 10
--   files     its policy over guests/long/data: NAME=VERDICT ...
--   maxfile, maxbytes  the policy's limits max_file and max_bytes
--   output    pattern: the text below is a Lua pattern, for figures that differ from run to run
--   host      native: a paravirtual KVM cannot run it, and says so: reason "fault"

local kvm = require "minikvm"
local edu = require "minikvm.devices.edu"
local lfs = require "lfs"
local process = require "support.process"
local support = require "support.guest"

local EDU <const> = 0xfeb00000

local COMBINATIONS = {}
for _, memory in ipairs{ "2M", "4M", "8M" } do
  for _, page_size in ipairs{ "4K", "2M" } do
    COMBINATIONS[#COMBINATIONS + 1] = { memory, page_size }
  end
end

local function guests()
  local names = {}
  for file in lfs.dir "guests/long" do
    names[#names + 1] = file:match "^(.*)%.expect$"
  end
  table.sort(names)
  return names
end

---The .expect's policy, nil when it has none.
local function policy(want)
  if not want.files then return nil end
  local rules = {}
  for name, verdict in want.files:gmatch "(%S+)=(%S+)" do rules[#rules + 1] = { name, verdict } end
  return assert(kvm.files{ root = "guests/long/data", rules = rules,
                           max_file = want.maxfile, max_bytes = want.maxbytes })
end

local function new_vm(name, want, combination, files)
  local vm = support.guest("long/" .. name, {
    mode = "long", memory = combination[1], page_size = combination[2], coalesce = false,
    irqchip = want.irqchip, files = files, map_io = want.device and EDU })
  if want.device == "edu" then vm:attach(edu.new(), { mmio = EDU, irq = 10 }) end
  if want.input then vm.console:send(want.input) end
  vm.console:eof()
  return vm
end

local function check(vm, want, reason, info, where)
  local text = vm.console:text()
  assert.equal(want.reason, reason, where .. info.text)
  assert.equal(tonumber(want.code), info.code, where .. text)
  if want.output == "pattern" then
    assert.is_truthy(text:find("^" .. want.output_text .. "$"), where .. text)
  else
    assert.equal(want.output_text, text, where)
  end
  if want.exits then assert.equal(tonumber(want.exits), info.exits, where .. "exits") end
end

local function check_refusal(reason, info, where)
  assert.equal("fault", reason, where)
  assert.matches("could not run the instruction at rip 0x%x+ %(bytes", info.text)
end

describe("guests/long", function()
  if support.without_kvm(pending) then return end

  for _, name in ipairs(guests()) do
    local want = support.expectation("long/" .. name)

    it(name .. " does the same in all six combinations", function()
      for _, combination in ipairs(COMBINATIONS) do
        local vm <close> = new_vm(name, want, combination, policy(want))
        local where = table.concat(combination, ", pages of ") .. ": "
        local reason, info = vm:run{ deadline = 20 }
        if want.host == "native" and support.host.host == "pvm" then
          check_refusal(reason, info, where)
        else
          check(vm, want, reason, info, where)
        end
      end
    end)
  end

  it("cow_reader and cow_writer do not see each other, nor does the original", function()
    local original = support.read_file "guests/long/data/shared.txt"
    local files = policy{ files = "shared.txt=cow" }
    local vms, wants = {}, {}
    for i = 1, 6 do
      local name = i % 2 == 0 and "cow_reader" or "cow_writer"
      wants[i] = support.expectation("long/" .. name)
      vms[i] = new_vm(name, wants[i], COMBINATIONS[i], files)
    end
    for _, vm in ipairs(vms) do vm:start{ deadline = 20 } end
    for i, result in ipairs(kvm.wait(vms)) do
      check(vms[i], wants[i], result.reason, result.info, ("vm %d: "):format(i))
      vms[i]:close()
    end
    assert.equal(original, support.read_file "guests/long/data/shared.txt")
    assert.is_nil(lfs.attributes "guests/long/data/new.txt")
  end)

  it("a new guest is one file and make", function()
    if not os.execute "command -v make >/dev/null && command -v gcc >/dev/null" then
      return pending "needs make and gcc"
    end
    local folder = os.tmpname()
    os.remove(folder)
    assert(os.execute(([[mkdir -p DIR/guests/long && cp -r src DIR &&
      cp guests/Makefile guests/guest.mk DIR/guests
      cd guests/long && cp Makefile *.S *.h *.lds lib*.c DIR/guests/long &&
      cp hello.c DIR/guests/long/mine.c && make -s -C DIR/guests/long]]):gsub("DIR", folder)))
    local vm <close> = support.vm{ mode = "long", memory = "2M" }
    assert(vm:load(folder .. "/guests/long/mine.bin"))
    assert.equal("halt", (support.run(vm)))
    assert.equal("Hello, KVM!\n", (vm.console:text()))
    os.execute(("rm -rf '%s'"):format(folder))
  end)
end)

describe("guests/kernel64", function()
  if support.without_kvm(pending) then return end
  local vm, screen

  local function boot(combination)
    vm = support.guest("kernel64/kernel64", {
      mode = "long", memory = combination[1], page_size = combination[2], irqchip = "pic" })
    screen = vm:screen()
    vm:start{ deadline = 60 }
  end

  after_each(function() vm:close() end)

  ---Waits until the screen shows a text that matches, and returns its captures.
  local function expect(pattern)
    for _ = 1, 1000 do
      local text = screen:text()
      if text:find(pattern) then return text:match(pattern) end
      kvm.sleep(0.02)
    end
    error(("no %q on the screen:\n%s"):format(pattern, screen:text()))
  end

  local function command(line, answer)
    expect "\n>\n"
    assert(vm.keyboard:type(line .. "\n"))
    return expect(answer)
  end

  local function end_by_halt()
    assert(vm.keyboard:type "halt\n")
    local reason, info = vm:wait(20)
    assert.equal("halt", reason, info.text)
    expect "> halt\nhalted\n"
  end

  it("shows a prompt and carries out what is typed", function()
    boot(COMBINATIONS[1])
    command("help", "> help\n    help  this list\n.*    halt  the end\n")
    command("", "\n>\n>")
    command("Shift-K!\b?", 'unknown command "Shift%-K%?": try help')
    command("uptime", "%d+%.%d%d s, %d+ timer interrupts")
    command("clear", "^[^\n]+\n>\n\n")
    end_by_halt()
  end)

  it("runs two threads that the timer switches, and a clock", function()
    boot(COMBINATIONS[1])
    local function counters()
      command("clear", "^[^\n]+\n>\n\n")
      local n = table.pack(command("threads",
                                   "\n  primes +(%d+) +(%d+)\n collatz +(%d+) +(%d+)\n>"))
      for i = 1, n.n do n[i] = tonumber(n[i]) end
      return n
    end
    local status = "up 00:00:(%d+) │ primes (%d+) │ collatz (%d+)"
    local before, bar = counters(), table.pack(expect(status))
    expect("up 00:00:0[^" .. bar[1]:sub(2) .. "]")
    local after, bar_after = counters(), table.pack(expect(status))
    for i = 1, 4 do assert.is_true(after[i] > before[i], ("counter %d"):format(i)) end
    for i = 1, 3 do assert.is_true(tonumber(bar_after[i]) > tonumber(bar[i])) end
    assert.is_true(math.abs(after[1] - after[3]) <= 2, "time slices are shared out unevenly")
    end_by_halt()
  end)

  it("scrolls, and keeps its status line", function()
    boot(COMBINATIONS[1])
    for _ = 1, 6 do vm.keyboard:type "help\n" end
    vm.keyboard:type "uptime\n" -- so that the last one can be told from those before
    expect "    halt  the end\n> uptime\n%d[^\n]*\n>$"
    assert.matches("^ kernel64 │ up ", screen:row(0))
    assert.equal(" threads  what each thread has done", screen:row(18))
    end_by_halt()
  end)

  it("takes keys that came before it was ready, and more than it has room for", function()
    boot(COMBINATIONS[1])
    vm.keyboard:type(("x"):rep(100) .. "\nclear\n" .. ("\n"):rep(10) .. "uptime\n")
    expect "\n>\n>\n> uptime\n%d"
    end_by_halt()
  end)

  for _, combination in ipairs(COMBINATIONS) do
    it("boots with " .. table.concat(combination, " and pages of "), function()
      boot(combination)
      command("nonsense", 'unknown command "nonsense": try help\n>')
      end_by_halt()
    end)
  end
end)

describe("vm:screen()", function()
  if support.without_kvm(pending) then return end
  local HLT = "f4"

  ---Row 24 has "A" in white on blue, blinking red on black next to it, and what comes last.
  local function drawn(last)
    local vm = support.code(HLT)
    vm.memory:fill(0xb8000, 4000)
    vm.memory:write(0xb8000 + 24 * 160, "A\x1fB\x84" .. (last or ""))
    return vm, vm:screen()
  end

  it("is 25 lines without the blanks at their ends", function()
    local vm <close>, screen = drawn " \x07 \x07"
    assert.equal(("\n"):rep(24) .. "AB", screen:text())
    assert.equal(screen:text(), tostring(screen))
    assert.equal("AB", screen:row(24))
    assert.equal("", screen:row(0))
    vm.memory:u8(0xb8000, 0x43)
    assert.equal("C", screen:row(0)) -- it looks at every call
  end)

  it("knows cells and their colours", function()
    local vm <close>, screen = drawn()
    assert.same({ char = "A", code = 65, fg = 15, bg = 1, blink = false }, screen:cell(0, 24))
    assert.same({ char = "B", code = 66, fg = 4, bg = 0, blink = true }, screen:cell(1, 24))
    assert.same({ char = " ", code = 0, fg = 0, bg = 0, blink = false }, screen:cell(79, 0))
    assert.is_true(#vm.memory > 0)
  end)

  it("turns every character of code page 437 into UTF-8", function()
    if process.emulated == "vmx" then return pending "256 VMs take long there" end
    local seen = {}
    for code = 0, 255 do
      local vm <close>, screen = drawn(string.char(code, 7))
      local char = screen:cell(2, 24).char
      assert.equal(1, utf8.len(char), code)
      if code >= 32 and code < 127 then assert.equal(string.char(code), char) end
      assert.is_true(code == 32 or not seen[char], code)
      seen[char] = true
      assert.is_true(#vm.memory > 0)
    end
    local _, screen = drawn "\x01\x07\x80\x07\xb3\x07\xc9\x07\xdb\x07\xe1\x07\xfb\x07\xfe\x07"
    assert.equal("AB☺Ç│╔█ß√■", screen:row(24))
  end)

  it("refuses what is not on it, and RAM that ends before it", function()
    local vm <close>, screen = drawn()
    for _, y in ipairs{ -1, 25, 0.5, "top" } do
      assert.error_matches(function() screen:row(y) end, "screen:row: y is 0 to 24")
    end
    assert.error_matches(function() screen:cell(80, 0) end, "screen:cell: x is 0 to 79")
    assert.error_matches(function() screen.text() end, "call text with ':'")
    local small <close> = support.vm{ memory = "512K" }
    assert.error_matches(function() small:screen() end, "no text screen.*RAM ends at 0x80000")
    assert.error_matches(function() vm.screen() end, "call screen with ':'")
    vm:close()
    assert.error_matches(function() screen:text() end, "closed")
    assert.error_matches(function() vm:screen() end, "closed")
  end)
end)
