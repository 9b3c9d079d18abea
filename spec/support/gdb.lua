-- gdb.lua - real gdb in batch mode on VMs of a spec, and a client that speaks its protocol.

local beside = require "support.beside"
local process = require "support.process"
local program = require "support.program"
local support = require "support.guest"

local M = {}

local MARK <const> = "---"

M.COUNT = "ff 05 00 20 00 00 eb f8" -- inc dword [0x2000]; again

---Skips the current block of specs where there is no gdb: true when it did.
---@param pending function  busted's
---@param slow? boolean  not in an emulated machine
function M.without_gdb(pending, slow)
  if slow and process.emulated then
    pending "it is the same on every host, and gdb takes seconds there"
    return true
  end
  if os.execute "gdb -nx -batch >/dev/null 2>&1" then return false end
  pending "needs gdb (Debian: gdb)"
  return true
end

---Runs a shell command beside the spec.
local function launch(command, path)
  return beside.start("HOME=/nonexistent timeout -s KILL 60 " .. command, path)
end

---Starts gdb with these commands beside the spec, which has to run the VM for it to be served.
---@param commands string[]
---@param words? string  of its command line, such as an ELF file
---@return beside
function M.start(commands, words)
  local head = { "set pagination off", "set confirm off", "set width 0", "set remotetimeout 30" }
  table.move(commands, 1, #commands, #head + 1, head)
  local path = program.file(table.concat(head, "\n") .. "\n")
  return launch(("gdb -nx -batch -iex 'set debuginfod enabled off' %s -x %s"):format(words or "",
                                                                                 path), path)
end

---The output behind `echo ---\n`.
---@param output string
function M.behind_mark(output)
  local _, last = output:find(MARK .. "\n", 1, true)
  return last and output:sub(last + 1) or error("gdb did not get there: " .. output, 2)
end

M.MARK = "echo " .. MARK .. "\\n"

---gdb on a VM from the beginning of its run to the end of it. When gdb goes, by itself or because
---its time is up, the run ends: nobody would let the guest go on.
---@param vm minikvm.vm
---@param commands string[]  behind "target remote"
---@param opts? { words: string?, gdb: table?, run: table? }
---@return string output  of gdb, behind the mark if there is one
---@return string reason  of the run
---@return table info
function M.debug(vm, commands, opts)
  opts = opts or {}
  local gdb <close> = assert(vm:gdb(opts.gdb or { lost = "stop" }))
  local list = { "target remote " .. gdb.address }
  table.move(commands, 1, #commands, 2, list)
  local started = M.start(list, opts.words)
  local reason, info = vm:run(opts.run or { deadline = 40 })
  local output = started:finish()
  if output:find(MARK, 1, true) then output = M.behind_mark(output) end
  return output, reason, info
end

---Python code that gdb runs, with a client of the remote protocol: connect(), send(bytes),
---packet(text), receive(), ask(text).
local CLIENT <const> = [[
import socket, sys, time
ADDRESS = %q
def connect():
    global line, rest
    if ADDRESS.startswith("/"):
        line = socket.socket(socket.AF_UNIX)
        line.connect(ADDRESS)
    else:
        host, port = ADDRESS.rsplit(":", 1)
        line = socket.create_connection((host, int(port)))
        line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    line.settimeout(10)
    rest = b""
    return line
def send(data):
    line.sendall(data)
def framed(data):
    if isinstance(data, str): data = data.encode("latin1")
    return b"$" + data + b"#%%02x" %% (sum(data) & 255)
def packet(data):
    send(framed(data))
def byte():
    global rest
    if not rest:
        rest = line.recv(1 << 20)
        if not rest: return b""
    first, rest = rest[:1], rest[1:]
    return first
def raw():
    global rest
    while True:
        at = rest.find(b"$")
        end = rest.find(b"#", at)
        if at >= 0 and end >= 0 and len(rest) >= end + 3:
            data, told = rest[at + 1:end], rest[end + 1:end + 3]
            rest = rest[end + 3:]
            assert int(told, 16) == sum(data) & 255, "wrong sum"
            return data
        more = line.recv(1 << 20)
        if not more: return None
        rest += more
def receive():
    data = raw()
    if data is None: return "closed"
    out = bytearray()
    i = 0
    while i < len(data):
        if data[i] == ord("*"):
            i += 1
            out += out[-1:] * (data[i] - 29)
        elif data[i] == ord("}"):
            i += 1
            out.append(data[i] ^ 0x20)
        else:
            out.append(data[i])
        i += 1
    return out.decode("latin1")
def ask(data):
    packet(data)
    return receive()
def quiet():
    connect()
    ask("qSupported:swbreak+;hwbreak+;vContSupported+")
    ask("QStartNoAckMode")
]]

---Starts such a client; what it prints is finish()'s output.
---@param address string
---@param code string  Python
---@return beside
function M.client(address, code)
  local path = program.file(CLIENT:format(address) .. code)
  os.rename(path, path .. ".py")
  return launch(("gdb -nx -batch -x %s.py"):format(path), path .. ".py")
end

---Runs Python code as a client of a VM that counts in memory, and stands still before its first
---instruction.
---@param code string  as for client()
---@param opts? table  of vm:gdb
---@param mode? string  of the VM, protected by default
---@return string output  of the client
---@return string reason  of the run
---@return minikvm.vm
function M.against(code, opts, mode)
  local vm = support.vm{ mode = mode or "protected" }
  vm:load{ bytes = support.bytes(M.COUNT) }
  local server = assert(vm:gdb(opts))
  local client = M.client(server.address, code)
  local reason = vm:run{ deadline = 20 }
  server:remove()
  return client:finish(), reason, vm
end

return M
