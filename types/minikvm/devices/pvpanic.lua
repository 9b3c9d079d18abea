---@meta minikvm.devices.pvpanic

---Tells of a guest that has panicked.
---@class minikvm.devices.pvpanic
---@field PANICKED integer event: the kernel has panicked
---@field CRASH_LOADED integer event: it has, and boots a kernel for a dump
---@field SHUTDOWN integer event: it shuts down
local pvpanic = {}

---Options of `pvpanic.new`.
---@class minikvm.devices.pvpanic.options
---@field on_event? fun(d: minikvm.device, event: integer) by default a panic ends the run with reason `"panic"`

---Describes it, for vm.pci:attach.
---@param options? minikvm.devices.pvpanic.options
---@return minikvm.definition
function pvpanic.new(options) end

return pvpanic
