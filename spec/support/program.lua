-- program.lua - runs the minikvm program, or stock lua, as a user does: through a shell.

local lfs = require "lfs"

local M = {}

M.minikvm = os.getenv "MINIKVM" or "./minikvm"
M.lua = os.getenv "MINIKVM_LUA" or "lua5.4"

local function read_and_remove(path)
  local file = assert(io.open(path, "rb"))
  local text = file:read "a"
  file:close()
  os.remove(path)
  return text
end

---A temporary file with this text; the caller removes it.
---@param text? string
---@return string path
function M.file(text)
  local path = os.tmpname()
  local file = assert(io.open(path, "wb"))
  file:write(text or "")
  file:close()
  return path
end

---An empty folder nobody else uses; the caller removes it.
---@return string path
function M.folder()
  local path = os.tmpname()
  os.remove(path)
  assert(lfs.mkdir(path))
  return path
end

---A temporary file with machine code in hexadecimal digits.
---@return string path
function M.image(hex)
  return M.file((hex:gsub("%s", ""):gsub("%x%x", function(h)
    return string.char(tonumber(h, 16))
  end)))
end

---Runs a shell command in which P stands for the program.
---@param command string
---@param opts? { program: string?, stdin: string?, shell: string? }  stdin: what is fed to it,
---  nothing by default; shell: instead of sh
---@return { status: integer, out: string, err: string }  status: 128 + n after signal n
function M.run(command, opts)
  opts = opts or {}
  local program = opts.program or M.minikvm
  local stdin, out, err = M.file(opts.stdin or ""), os.tmpname(), os.tmpname()
  if opts.shell then
    local script = M.file(command:gsub("%f[%w]P%f[^%w]", program))
    command = ("%s %s; rm %s"):format(opts.shell, script, script)
  end
  local line = ("{ %s\n} <%s >%s 2>%s"):format(command:gsub("%f[%w]P%f[^%w]", program), stdin, out,
                                             err)
  local _, how, code = os.execute(line)
  os.remove(stdin)
  return { status = how == "signal" and 128 + code or code, out = read_and_remove(out),
           err = read_and_remove(err) }
end

---@class running  a command that runs beside the spec, on a terminal of its own if asked for
---@field pid integer  of the command's program
---@field out string   what it has printed so far, without carriage returns on a terminal
local Running = {}
Running.__index = Running

---Starts a shell command in which P stands for the program, which the shell becomes. It does not
---last longer than a minute. No shell stays between, whichever $SHELL is: Ctrl-C would end it.
---@param command string
---@param opts? { terminal: boolean? }  a terminal of its own (util-linux's script), stderr included
---@return running
function M.start(command, opts)
  local self = setmetatable({ out = "", terminal = opts and opts.terminal }, Running)
  local fifo, pid = os.tmpname(), os.tmpname()
  self.err = os.tmpname()
  assert(os.remove(fifo) and os.execute("mkfifo " .. fifo))
  self.script = M.file(("echo $$ >%s\n"):format(pid) .. command:gsub("%f[%w]P%f[^%w]", M.minikvm))
  local line = self.terminal and ("script -qec 'exec sh %s' /dev/null"):format(self.script)
    or "sh " .. self.script
  self.pipe = assert(io.popen(("exec timeout -s KILL 60 %s <%s 2>%s"):format(line, fifo, self.err)))
  self.input = assert(io.open(fifo, "w"))
  self.input:setvbuf "no"
  os.remove(fifo)
  self.pid_file = pid
  return self
end

---Reads until it has printed this text behind what was waited for before; an error when it ends
---first.
---@param text string
---@return running
function Running:wait(text)
  local from = self.seen or 1
  repeat
    local first, last = self.out:find(text, from, true)
    if first then
      self.seen = last + 1
      return self
    end
    local byte = self.pipe:read(1)
    if byte ~= "\r" or not self.terminal then self.out = self.out .. (byte or "") end
  until not byte
  error(("it ended before it printed %q; it printed %q"):format(text, self.out), 2)
end

---@param text string
---@return running
function Running:type(text)
  self.input:write(text)
  return self
end

---Waits until the program reads its input: after a prompt libedit has yet to change the terminal,
---and what is typed before that is not what it gets. proc(5): a read(2) of 0 is "0 0x0" on x86-64.
---@return running
function Running:reading()
  local file = assert(io.open(self.pid_file))
  local path = ("/proc/%d/syscall"):format(file:read "n")
  file:close()
  repeat
    local call <close> = assert(io.open(path))
  until call:read("a"):sub(1, 6) == "0 0x0 "
  return self
end

---@param signal string  "INT"
---@return running
function Running:kill(signal)
  local file = assert(io.open(self.pid_file))
  assert(os.execute(("kill -%s %d"):format(signal, file:read "n")))
  file:close()
  return self
end

---Its output is read to the end; before, its input ends. On a terminal it has to end by itself, for
---script(1) does what it likes at the end of its own input.
---@return { status: integer, out: string, err: string }  status: 128 + n after signal n
function Running:finish()
  if not self.terminal then self.input:close() end
  local rest = self.pipe:read "a"
  if self.terminal then self.input:close() end
  self.out = self.out .. (self.terminal and rest:gsub("\r", "") or rest)
  local _, how, code = self.pipe:close()
  os.remove(self.script)
  os.remove(self.pid_file)
  return { status = how == "signal" and 128 + code or code, out = self.out,
           err = read_and_remove(self.err) }
end

M.has_terminal = os.execute "script -qec true /dev/null </dev/null >/dev/null 2>&1" == true

---What --safe said on stderr, without the line on walls that an older kernel lacks.
function M.without_missing(err)
  return (err:gsub("^minikvm: %-%-safe: not there: [^\n]*\n", ""))
end

return M
