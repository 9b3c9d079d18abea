---@meta minikvm.cli

---How `minikvm run` reports results, after `require "minikvm"`.
---@class minikvm.cli
---@field private attempt function
---@field private help function
---@field private specs function
---@field private hint function
---@field private usage_error function
---@field private main function
local cli = {}

---Reports on stderr an end that is not clean; returns the process's exit status for it.
---@param name string of the VM
---@param reason? minikvm.reason
---@param info minikvm.result|string
---@return integer status
function cli.conclude(name, reason, info) end

return cli
