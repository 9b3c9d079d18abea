-- gdb.lua - what a debugger costs: a breakpoint by gdb's remote protocol and back, steps, memory.
-- The client is Python inside gdb, which speaks the protocol over a Unix socket; a round trip of
-- nothing is what it and the kernel take. Takes gdb (Debian: gdb).

local kvm = require "minikvm"
local report = require "report"

if not os.execute "gdb -nx -batch >/dev/null 2>&1" then
  report.finish "there is no gdb here (Debian: gdb)"
end

local CLIENT <const> = [[
import socket, time
line = socket.socket(socket.AF_UNIX)
line.connect(%q)
rest = b""
def raw():
    global rest
    while True:
        end = rest.find(b"#")
        if end >= 0 and len(rest) >= end + 3:
            data, rest = rest[rest.find(b"$") + 1:end], rest[end + 3:]
            return data
        rest += line.recv(1 << 20)
def ask(data):
    data = data.encode()
    line.sendall(b"$" + data + b"#%%02x" %% (sum(data) & 255))
    return raw()
def measure(name, *words):
    for i in range(300):
        begin = time.time()
        for word in words: ask(word)
        print(name, time.time() - begin)
ask("qSupported:swbreak+"); ask("QStartNoAckMode"); ask("?")
measure("trip", "qC")
ask("Z0,1002,1")
measure("continue", "vCont;c")
measure("gdb", "z0,1002,1", "vCont;s:1", "Z0,1002,1", "vCont;c", "g")
ask("z0,1002,1")
measure("step", "vCont;s:1")
for i in range(20):
    begin = time.time()
    for at in range(0x100000, 0x200000, 0x8000): ask("m%%x,8000" %% at)
    print("memory", 1.048576 / (time.time() - begin))
line.sendall(b"$k#6b")
]]

local function measure(cpus)
  local vm <close> = assert(kvm.vm{ mode = "protected", cpus = cpus, echo = false })
  assert(vm:load({ bytes = "\x40\x40\x90\xeb\xfb" }, { cpu = "all" })) -- inc eax twice; nop; again
  local words = {} -- nothing that run lengths would shorten
  for i = 1, 1 << 18 do words[i] = ("<I4"):pack(i * 2654435761 & 0xffffffff) end
  vm.memory:write(0x100000, table.concat(words))
  local path, out = os.tmpname(), os.tmpname()
  local server <close> = assert(vm:gdb{ at = "unix:" .. path .. ".socket" })
  local file = assert(io.open(path .. ".py", "w"))
  file:write(CLIENT:format(server.address))
  file:close()
  local gdb = io.popen(("exec timeout 60 gdb -nx -batch -x %s.py </dev/null >%s 2>&1"):format(
    path, out))
  vm:run{ deadline = 60 }
  gdb:close() -- when it has ended
  local figures = {}
  for line in io.lines(out) do
    local name, value = line:match "^(%a+) ([%d.e-]+)$"
    assert(name, line)
    figures[name] = figures[name] or {}
    table.insert(figures[name], tonumber(value))
  end
  for _, name in ipairs{ path, path .. ".py", out } do os.remove(name) end
  return figures
end

report.title "gdb: 300 of each, 20 of memory, median and quartiles"
for _, cpus in ipairs{ 1, 4 } do
  local f, of = measure(cpus), (", of %d vCPU%s"):format(cpus, cpus == 1 and "" or "s")
  report.line("a round trip of nothing" .. of, f.trip, "us", 1e6)
  report.line("continue to a breakpoint and back" .. of, f.continue, "us", 1e6, 1000)
  report.line("the same as gdb does it" .. of, f.gdb, "us", 1e6)
  report.line("one step" .. of, f.step, "us", 1e6)
  report.line("1 MiB of memory" .. of, f.memory, "MB/s", 1, -50)
end
report.finish()
