-- vm:trace: what a VM does, told to functions and files.

local lfs = require "lfs"
local json = require "dkjson" -- busted has it
local kvm = require "minikvm"
local support = require "support.guest"
local process = require "support.process"
local runner = require "support.program"

local TALK <const> = "b0 41 e6 80 e4 81 f4" -- mov al, 'A'; out 0x80, al; in al, 0x81; hlt

---A name in a folder that is removed with its contents when `fn` has returned.
local function in_folder(fn)
  local folder = runner.folder()
  local ok, why = pcall(fn, folder .. "/")
  os.execute("rm -rf " .. folder)
  if not ok then error(why, 0) end
end

---What a file has when a VM of this listing was traced to it.
local function traced(name, listing, options)
  local text
  in_folder(function(folder)
    local vm <close> = support.code(listing, { coalesce = false })
    local o = { file = folder .. name }
    for key, value in pairs(options or {}) do o[key] = value end
    local trace <close> = assert(vm:trace(o))
    support.run(vm)
    text = support.read_file(folder .. name) -- it is whole when the run is over
    assert.equal(0, trace.lost)
  end)
  return text
end

---Trace events ("Trace Event Format", Google, 1.2): all but the metadata.
local function events_of(text)
  local whole, _, why = json.decode(text)
  assert(whole, why)
  local events = {}
  for _, event in ipairs(whole.traceEvents) do
    assert.is_true(event.pid == 1 and math.type(event.tid) == "integer")
    if event.ph ~= "M" then events[#events + 1] = event end
  end
  return events
end

describe("a trace", function()
  if support.without_kvm(pending) then return end

  it("is text with times", function()
    local lines = {}
    for line in traced("t.txt", TALK):gmatch "[^\n]+" do
      lines[#lines + 1] = line:gsub("^ *%d+%.%d%d%d%d%d%d ", "TIME ")
    end
    assert.same({
      "TIME cpu0        1 rip=00000002 out  port=0x080 size=1 value=0x41",
      "TIME cpu0        2 rip=00000004 in   port=0x081 size=1 value=0xff",
      "TIME cpu0        3 rip=00000007 hlt", "TIME cpu0        3 rip=00000007 end halt" }, lines)
  end)

  it("is a line of JSON for each event", function()
    local list = {}
    for line in traced("t.jsonl", TALK):gmatch "[^\n]+" do
      list[#list + 1] = assert(json.decode(line))
    end
    assert.same({ "out", "in", "hlt", "end" },
                { list[1].what, list[2].what, list[3].what, list[4].what })
    assert.same({ "0x80", 1, "0x41", 0, 1, "0x2" },
                { list[1].port, list[1].size, list[1].value, list[1].cpu, list[1].exit,
                  list[1].rip })
    assert.is_true(list[1].time >= 0 and list[2].time > list[1].time)
  end)

  it("is trace events, an exit as long as it was served", function()
    local events = events_of(traced("t.json", TALK))
    assert.same({ "out 0x80", "in 0x81", "hlt", "end halt" },
                { events[1].name, events[2].name, events[3].name, events[4].name })
    for i = 1, 3 do
      assert.equal("X", events[i].ph)
      assert.is_true(events[i].dur >= 0)
      assert.is_true(events[i].ts + events[i].dur <= events[i + 1].ts)
    end
    assert.equal("0x41", events[1].args.value)
  end)

  it("has the format that it is asked for, whatever the file is called", function()
    assert.is_truthy(json.decode(traced("t", TALK, { format = "perfetto" })))
    assert.matches("cpu0 .- hlt\n", traced("t.json", TALK, { format = "text" }))
  end)

  it("tells of accesses outside RAM, of MSRs and of interrupts", function()
    local vm <close> = support.vm{ mode = "protected" }
    -- mov eax, [0xfee00000]; mov [0xfee00000], eax; hlt
    assert(vm:load{ bytes = support.bytes "a1 00 00 e0 fe a3 00 00 e0 fe f4" })
    local lines = {}
    vm:trace{ fn = function(line) lines[#lines + 1] = line:match "rip=%x+ (.*)" end }
    assert.equal("halt", (support.run(vm)))
    assert.same({ "mmio read 0xfee00000 size=4 value=0xffffffff",
                  "mmio write 0xfee00000 size=4 value=0xffffffff", "hlt" }, lines)
    local told = {}
    local other <close> = support.code "fb 90 90 f4" -- sti; nop; nop; hlt
    other.memory:write(4 * 0x21, "\x00\x01\x00\x00") -- interrupt 0x21 leads to 0:0x100,
    other.memory:write(0x100, "\xfa\xf4") -- cli; hlt
    other:trace{ interrupts = true, fn = function(line) told[#told + 1] = line end }
    other.cpu[0]:interrupt(0x21)
    assert.equal("halt", (support.run(other)))
    assert.equal(1, #told)
    assert.matches("^cpu0 .* interrupt 0x21$", told[1])
  end)

  it("is whole when the guest dies, and when a handler fails", function()
    in_folder(function(folder)
      local dying <close> = support.guest("real/triple", { trace = { file = folder .. "d.json" } })
      assert.equal("shutdown", (support.run(dying)))
      local died = events_of(support.read_file(folder .. "d.json"))
      assert.equal("end shutdown", died[#died].name)
      local vm <close> = support.code(TALK)
      vm.ports:on(0x81, { read = function() error "no" end })
      vm:trace{ file = folder .. "t.json" }
      assert.equal("error", (support.run(vm)))
      local events = events_of(support.read_file(folder .. "t.json"))
      assert.same({ "out 0x80", "end error" }, { events[1].name, events[#events].name })
    end)
  end)

  it("is whole at any time, also where the process is killed", function()
    in_folder(function(folder)
      local r = runner.run(([[P -e '
        local vm = kvm.vm{ coalesce = false }
        vm:load{ bytes = "\xe6\x80\xeb\xfc" }
        local seen = 0
        local trace = vm:trace{ file = "%st.json" }
        vm.ports:on(0x80, { write = function()
          seen = seen + 1
          if seen == 2000 then os.execute("kill -KILL $PPID") end
        end })
        vm:run()']]):format(folder))
      assert.equal(137, r.status)
      assert.is_true(#events_of(support.read_file(folder .. "t.json")) > 100)
    end)
  end)

  it("ends at its limit, and says so", function()
    in_folder(function(folder)
      local vm <close> = support.code("e6 80 eb fc") -- out 0x80, al; jmp to it
      local trace = vm:trace{ file = folder .. "t.json", limit = "4K" }
      assert.equal("deadline", (vm:run{ deadline = 0.2 }))
      assert.is_true(trace.full)
      local events = events_of(support.read_file(folder .. "t.json"))
      assert.matches("the limit of 4096 bytes is reached", events[#events].args.text)
      assert.is_true(lfs.attributes(folder .. "t.json", "size") < 5000)
    end)
  end)

  it("ends where the disk is full, with what it had, and the guest goes on", function()
    if process.sanitized() then return pending "a sanitizer cannot live with ulimit -f" end
    in_folder(function(folder)
      local image = runner.image "b9 ff 00 e6 80 e2 fc b0 07 e6 f4" -- 255 times out 0x80, al; exit
      local r = runner.run(("trap '' XFSZ; ulimit -f 16; P run --trace-file %st.json %s"):format(
        folder, image))
      os.remove(image)
      assert.equal(7, r.status)
      assert.matches("t.json: File too large: not all is in it", r.err, 1, true)
      assert(json.decode(support.read_file(folder .. "t.json")))
    end)
  end)

  it("does not wait for a reader that stalls, nor for none", function()
    in_folder(function(folder)
      local fifo = folder .. "fifo"
      assert(os.execute("mkfifo " .. fifo))
      local vm <close> = support.code("b9 00 20 e6 80 e2 fc f4") -- 0x2000 times out 0x80, al; hlt
      assert.same({ nil, fifo .. ": nobody reads from it", "ENXIO" }, { vm:trace{ file = fifo } })
      local reader <close> = assert(io.open(fifo, "r+"))
      local trace = assert(vm:trace{ file = fifo, format = "perfetto" })
      assert.equal("halt", (support.run(vm)))
      assert.is_true(trace.lost > 0 and trace.hits == 0x2000 + 2)
      assert.matches('^{"displayTimeUnit"', reader:read "l")
    end)
  end)

  it("is one of several, each with what it wants, and ends when it is removed", function()
    local vm <close> = support.code(TALK)
    local one, two = 0, 0
    local first = vm:trace{ fn = function() one = one + 1 end }
    vm:trace(function() two = two + 1 end)
    assert.equal("halt", (support.run(vm)))
    assert.same({ 3, 3, 3 }, { one, two, first.hits })
    first:remove()
    first:remove()
    vm:reset()
    support.run(vm)
    assert.same({ 3, 6 }, { one, two })
    vm:trace(nil)
    vm:reset()
    support.run(vm)
    assert.same({ 3, 6 }, { one, two })
  end)

  it("names the symbol that an instruction belongs to", function()
    local vm <close> = support.vm{ coalesce = false }
    assert(vm:load "guests/boot/multiboot2.elf")
    local first
    vm:trace(function(line) first = first or line end)
    support.run(vm)
    assert.matches("  [%a_][%w_]+%+?%w* %(boot/[%w.]+:%d+%)$", first)
  end)

  ---What a trace says of a VM, without place and time: "  call f", "mov ax, 1".
  local function told(vm, options)
    local lines = {}
    options.fn = function(line) lines[#lines + 1] = line:match "rip=%x+ (.*)" end
    assert(vm:trace(options))
    support.run(vm)
    return lines
  end

  it("has every instruction once", function()
    -- mov cx, 3; rep stosb; out 0x80, al; call 0x0a; hlt; 0x0a: ret
    local vm <close> = support.code "b9 03 00 f3 aa e6 80 e8 01 00 f4 c3"
    assert.same({ "mov cx, 3", "rep stosb byte ptr es:[di], al", "out 0x80, al", "call 0xb", "ret",
                  "hlt" }, told(vm, { instructions = true }))
    assert.equal("halt", (support.run(vm:reset()))) -- it goes on with other users of the engine
  end)

  it("has calls by their depth, and where they come back", function()
    -- call 0x10; hlt; 0x10: call 0x20; call [0x30]; ret; 0x20: ret; 0x28: ret; 0x30: dw 0x28
    local vm <close> = support.vm()
    assert(vm:load{ bytes = support.bytes("e8 0d 00 f4" .. (" 90"):rep(12) -- 0x00
      .. " e8 0d 00 ff 16 30 00 c3" .. (" 90"):rep(8)                       -- 0x10
      .. " c3" .. (" 90"):rep(7) .. " c3" .. (" 90"):rep(7)                 -- 0x20
      .. " 28 00") })
    assert.same({ "call 0x10", "  call 0x20", "  return", "  call 0x28", "  return", "return" },
                told(vm, { calls = true }))
  end)

  it("has a return for each call, also of those that a longjmp leaves", function()
    -- call 0x10; hlt; 0x10: mov bp, sp; call 0x20; ret; 0x20: call 0x28; ret; 0x28: mov sp, bp; ret
    local vm <close> = support.vm()
    assert(vm:load{ bytes = support.bytes("e8 0d 00 f4" .. (" 90"):rep(12)
      .. " 89 e5 e8 0b 00 c3" .. (" 90"):rep(10) .. " e8 05 00 c3" .. (" 90"):rep(4)
      .. " 89 ec c3") })
    assert.same({ "call 0x10", "  call 0x20", "    call 0x28", "    return", "  return", "return" },
                told(vm, { calls = true }))
  end)

  it("follows an interrupt into its handler and back, and steps on", function()
    local vm <close> = support.code "fb 90 90 90 f4" -- sti; nop; nop; nop; hlt
    vm.memory:write(4 * 0x21, "\x00\x01\x00\x00") -- interrupt 0x21 leads to 0:0x100
    vm.memory:write(0x100, "\x40\xfa\x93\xcf") -- inc ax; cli; xchg bx, ax; iret
    vm.cpu[0]:interrupt(0x21)
    local lines = told(vm, { calls = true, instructions = true, interrupts = true })
    local text = table.concat(lines, "; ")
    -- whether it comes behind STI or one instruction later is the host's
    assert.matches("sti; .*interrupt 0x21; call interrupt 0x21, 0x100; inc ax; cli; "
      .. "xchg [abx, ]+; iret; return; .*hlt$", text)
    assert.equal(1, vm.cpu[0].bx)
    -- what it pushed has no trap flag (SDM volume 3, 6.12.1.2): the guest does not see the steps
    assert.equal(0, vm.memory:u16(vm.cpu[0].ss * 16 + (vm.cpu[0].sp - 2 & 0xffff)) & 0x100)
  end)

  it("has every interrupt of a timer from its handler's first instruction on", function()
    if process.emulated or process.program:find "tsan" then
      return pending "a handler takes longer there than its timer"
    end
    local vm <close> = support.guest("prot/ticks", { mode = "paged", irqchip = "pic" })
    local lines = told(vm, { calls = true, instructions = true, interrupts = true })
    assert.equal("20 ticks\n", vm.console:text())
    local delivered, begun, first = 0, 0, {}
    for i, line in ipairs(lines) do
      if line:find "^interrupt 0x20$" then delivered = delivered + 1 end
      if line:find "call interrupt 0x20, " then
        begun = begun + 1
        first[line:match "0x20, (.*)" .. ": " .. lines[i + 1]] = true
      end
    end
    assert.is_true(delivered >= 20 and begun == delivered)
    local target = next(first)
    assert.is_nil(next(first, target))
    assert.matches(": cmp dword ptr", target) -- guests/prot/ticks.S
  end)

  it("steps all of its vCPUs", function()
    -- inc ax; out 0x80, al; hlt
    local vm <close> = support.code("40 e6 80 f4", { cpus = 3 })
    local seen = {}
    vm:trace{ instructions = true, fn = function(line)
      local cpu, text = line:match "^cpu(%d) .* rip=%x+ (.*)"
      seen[cpu] = (seen[cpu] or "") .. text .. "; "
    end }
    assert.equal("halt", (support.run(vm)))
    local all = "inc ax; out 0x80, al; hlt; "
    assert.same({ ["0"] = all, ["1"] = all, ["2"] = all }, seen)
  end)

  it("leaves the guest as it was when it ends in the middle, and others stay", function()
    local vm <close> = support.code "b9 00 10 e2 fe e6 80 f4" -- mov cx, 0x1000; loop $; out; hlt
    local steps, exits, trace = 0, 0, nil
    vm:trace(function() exits = exits + 1 end)
    trace = vm:trace{ instructions = true, fn = function()
      steps = steps + 1
      if steps == 100 then trace:remove() end
    end }
    local handle <close> = vm:break_at(5)
    assert.equal("break", (support.run(vm)))
    assert.same({ 100, 5, 0 }, { steps, vm.cpu[0].rip, vm.cpu[0].cx })
    assert.equal("halt", (support.run(vm)))
    assert.same({ 100, 1 }, { steps, handle.hits })
    assert.is_true(exits >= 2)
  end)

  it("may be taken while a user steps, breaks, snapshots and restores", function()
    local vm <close> = support.code "40 43 41 f4" -- inc ax; inc bx; inc cx; hlt
    local lines = {}
    vm:trace{ instructions = true, fn = function(line)
      lines[#lines + 1] = line:match "%l+ %l+$"
    end }
    assert.equal("break", (vm.cpu[0]:step()))
    local snap <close> = vm:snapshot()
    assert.equal("break", (vm.cpu[0]:step(2)))
    vm:restore(snap)
    assert.equal("halt", (support.run(vm)))
    assert.same({ "inc ax", "inc bx", "inc cx", "inc bx", "inc cx" }, lines)
    local child <close> = vm:fork() -- which nobody traces
    child:reset()
    assert.equal("halt", (support.run(child)))
    assert.equal(5, #lines)
  end)

  it("has the names of hostile symbols as JSON", function()
    local formats = require "minikvm.debug.trace_formats"
    local format = formats.jsonl.make{ began = 0 }
    local line = format{ cpu = 0, kind = "call", ns = 0, exits = 0, rip = -1, linear = -1,
                         text = "", depth = 0, name = "a\0\"\\\n\xff", symbol = "\u{e9}" }
    local value = assert(json.decode(line))
    assert.same({ "a\0\"\\\n\u{ff}", "\u{e9}", "0xffffffffffffffff" },
                { value["function"], value.symbol, value.rip })
  end)

  it("has calls as slices of a track, by the functions' names", function()
    in_folder(function(folder)
      local vm <close> = support.vm{ coalesce = false }
      assert(vm:load "guests/boot/multiboot2.elf")
      vm:break_at("kernel+1")
      vm:trace{ calls = true, file = folder .. "t.json" }
      assert.equal("break", (support.run(vm)))
      local events = events_of(support.read_file(folder .. "t.json"))
      assert.same({ "kernel", "B", "kernel" },
                  { events[1].name, events[1].ph, events[1].args["function"] })
    end)
  end)

  it("can be an option of a new VM", function()
    in_folder(function(folder)
      local vm <close> = support.code(TALK, { trace = { file = folder .. "t.jsonl" } })
      support.run(vm)
      assert.matches('"what":"hlt"', support.read_file(folder .. "t.jsonl"), 1, true)
      local nothing, why, code = kvm.vm{ trace = { file = folder .. "none/t" } }
      assert.same({ nil, folder .. "none/t: No such file or directory", "ENOENT" },
                  { nothing, why, code })
    end)
  end)

  it("is refused with what it does not know", function()
    local vm <close> = support.code(TALK)
    for text, options in pairs{
      ["unknown option 'exit' (did you mean 'exits'?)"] = { exit = true },
      ["option 'format' is for a 'file'"] = { format = "text" },
      ["options 'file' and 'fn': one of them"] = { file = "x", fn = print },
      ["option 'format': expected \"text\" or"] = { file = "x", format = "xml" },
      ["option 'limit': expected a size"] = { file = "x", limit = 0 },
    } do
      assert.matches(text, support.message(vm.trace, vm, options), 1, true)
    end
    assert.matches("'fn': expected a function", support.message(vm.trace, vm, 1), 1, true)
  end)
end)
