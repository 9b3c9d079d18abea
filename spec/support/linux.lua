-- linux.lua - what the specs that boot Linux share: whether that can be done here.

local host = require "minikvm.linux.host"
local kvm = require "minikvm"

local M = {}

M.KERNEL = host.find_kernel()

---Skips the current block of specs, saying why, where Linux cannot be booted: true when it did.
---@param pending function  busted's
function M.without_linux(pending)
  local why = host.problem(kvm, "test") or not M.KERNEL and select(2, host.find_kernel())
    or os.execute "command -v busybox >/dev/null" == nil and "there is no busybox"
  if why then pending(why) end
  return why and true or false
end

return M
