-- kernel64.lua - the 64-bit kernel example (guests/kernel64): its text screen here, its keyboard on
-- stdin.
--
--   minikvm scripts/kernel64.lua                        in a terminal; Ctrl-A x leaves
--   printf 'help\nthreads\nhalt\n' | minikvm scripts/kernel64.lua    shows the last screen
--
-- Where stdout is no terminal, only the last screen is printed. Input that ends without a `halt`
-- gets a few seconds more.

local kvm = require "minikvm"
local cli = require "minikvm.cli"
require("minikvm.cli.args").explain(arg)

local here <const> = arg[0]:match "^.*/" or ""

local typed_in = not os.execute "test -t 0" -- what is typed is there already: a file or a pipe
local drawing = os.execute "test -t 1"

local vm = assert(kvm.vm{ name = "kernel64", mode = "long", memory = "2M", irqchip = "pic" })
assert(vm:load(here .. "../guests/kernel64/kernel64.bin"))
local screen = vm:screen()

-- The one that reads the terminal is a machine, too, whose console is our stdin: it hands each byte
-- to port 0x80, and Lua to the kernel's keyboard. So nobody waits for a key but it.
--   next: mov al, 2; mov dx, 0x500; out dx, al; in ax, dx   GETCHAR: byte in AL, status in AH
--         cmp ah, 1; je next; ja done; out 0x80, al; jmp next
--   done: hlt
local READER <const> = "\xb0\x02\xba\x00\x05\xee\xed\x80\xfc\x01\x74\xf4\x77\x04\xe6\x80\xeb\xee"
  .. "\xf4"

local function start_reader()
  local reader = assert(kvm.vm{ name = "reader", echo = false })
  assert(reader:load{ bytes = READER })
  reader.ports:on(0x80, { write = function(_, byte)
    vm.keyboard:type(byte == 13 and "\n" or string.char(byte)) -- what has no key is not typed
  end })
  reader.console:attach():echo(false)
  return reader:start()
end

local function draw()
  local y = 0
  for line in (screen:text() .. "\n"):gmatch "(.-)\n" do
    y = y + 1
    io.stdout:write(("\27[%d;1H%s\27[K"):format(y, line))
  end
  io.stdout:flush()
end

---Until the kernel halts, `reader` has seen Ctrl-A x, or that many seconds have passed.
local function watch(reader, seconds)
  local ends = os.time() + seconds
  if drawing then io.stdout:write "\27[2J" end
  while vm.state == "running" and (not reader or reader.state == "running") and os.time() < ends do
    if drawing then draw() end
    kvm.sleep(0.05)
  end
end

vm:start()
if typed_in then
  local ok, why = vm.keyboard:type(io.read "a")
  if not ok then io.stderr:write("kernel64.lua: ", why, "\n") end
  watch(nil, 3)
else
  local reader <close> = start_reader()
  watch(reader, math.huge)
end
if vm.state == "running" then vm:stop() end
if drawing then draw() else io.stdout:write(screen:text()) end
print()
local reason, info = vm:wait()
os.exit(reason == "stopped" and 0 or cli.conclude(vm.name, reason, info), true)
