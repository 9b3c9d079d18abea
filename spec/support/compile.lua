-- compile.lua - small C guests for specs that need debugging information, in a folder of their own.

local process = require "support.process"

local M = {}

local FLAGS <const> = "-ffreestanding -fno-pic -no-pie -fno-stack-protector -fcf-protection=none "
  .. "-mgeneral-regs-only -mno-red-zone -nostdlib -static -w "
  .. "-Wl,-Ttext-segment=0x100000,--build-id "
  .. "-Wl,-z,noexecstack,--no-warn-rwx-segments "

---A folder that is removed, with all in it, when the variable that has it is closed.
---@return table folder  tostring is its path
function M.folder()
  local path = os.tmpname()
  assert(os.remove(path) and os.execute("mkdir " .. path))
  local meta = { __tostring = function() return path end }
  function meta.__close() os.execute("rm -r " .. path) end
  return setmetatable({ remove = meta.__close, made = {} }, meta)
end

---Writes a file into a folder.
---@return string path
function M.write(folder, name, text)
  local path = ("%s/%s"):format(tostring(folder), name)
  local file = assert(io.open(path, "wb"))
  file:write(text)
  file:close()
  return path
end

---Compiles and links a guest that begins at _start; its folder is where gcc runs.
---@param name string  "guest.c"
---@param text string  its source
---@param flags string  for gcc: "-g -O0 -m32"
---@return string path  of the ELF file
function M.guest(folder, name, text, flags)
  local key = name .. flags .. text
  if folder.made[key] then return folder.made[key] end
  M.write(folder, name, text)
  local out = name:gsub("%.c$", "") .. flags:gsub("[^%w]", "_") .. ".elf"
  local command = ("cd %s && gcc %s %s -o %s %s 2>gcc.txt"):format(tostring(folder), FLAGS, flags,
                                                                 out, name)
  if not os.execute(command) then
    local file = assert(io.open(tostring(folder) .. "/gcc.txt"))
    error(command .. "\n" .. file:read "a")
  end
  folder.made[key] = ("%s/%s"):format(tostring(folder), out)
  return folder.made[key]
end

---Of a list of compiler flags, those to try: all, but in an emulated machine, where gcc takes
---seconds, the last one.
function M.flags(list)
  return process.emulated and { list[#list] } or list
end

---Skips a test in an emulated machine, which has others of its kind: true when it did.
---@param pending function  busted's
function M.slow(pending)
  if process.emulated then pending "gcc takes seconds there" end
  return process.emulated ~= nil
end

---Skips a block where there is no gcc: true when it did.
---@param pending function  busted's
function M.without_gcc(pending)
  if os.execute "gcc --version >/dev/null 2>&1" then return false end
  pending "needs gcc"
  return true
end

return M
