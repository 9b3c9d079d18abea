---@meta minikvm.devices.i6300esb

---A watchdog of Intel's, which Linux has a driver for.
---@class minikvm.devices.i6300esb
local i6300esb = {}

---Options of `i6300esb.new`.
---@class minikvm.devices.i6300esb.options
---@field on_bite? fun(d: minikvm.device) the second stage is over; by default the run ends with reason `"shutdown"`

---Describes it, for vm.pci:attach.
---@param options? minikvm.devices.i6300esb.options
---@return minikvm.definition
function i6300esb.new(options) end

return i6300esb
