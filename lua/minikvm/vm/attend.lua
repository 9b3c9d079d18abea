-- vm/attend.lua - who wants a VM's attention: its debugger, its view. When the core was asked for
-- it (src/vm/vm.h, mk_vm_attend) all of them are called, on a vCPU's thread between two entries.

local core = require "minikvm.core"

local M = {}

---By VM: functions by who wants them.
local wanted = setmetatable({}, { __mode = "k" })

---@param vm minikvm.vm
---@param who "gdb"|"view"
---@param fn function?  nil: not any more
function M.set(vm, who, fn)
  local list = wanted[vm] or {}
  wanted[vm], list[who] = list, fn
  local function call()
    if list.view then list.view() end
    if list.gdb then list.gdb() end
  end
  core.set_attend(vm, next(list) and call or nil, list.gdb ~= nil)
end

return M
