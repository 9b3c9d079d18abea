-- program.lua - runs the minikvm program, or stock lua, as a user does: through a shell.

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
---@return string path
function M.file(text)
  local path = os.tmpname()
  local file = assert(io.open(path, "wb"))
  file:write(text)
  file:close()
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
---@param opts? { program: string?, stdin: string?, shell: string? }  stdin: what is fed to it, nothing
---  by default; shell: instead of sh
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

---Runs a command on a terminal of its own (util-linux's script), typing what the shell command
---`typist` prints. What the terminal showed is `out`, carriage returns removed.
---@return { status: integer, out: string, err: string }
function M.on_terminal(command, typist)
  local inner = command:gsub("%f[%w]P%f[^%w]", M.minikvm)
  local r = M.run(("{ %s\n} | script -qec '%s' /dev/null"):format(typist, inner))
  r.out = r.out:gsub("\r", "")
  return r
end

M.has_terminal = os.execute "script -qec true /dev/null </dev/null >/dev/null 2>&1" == true

return M
