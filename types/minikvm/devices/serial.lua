---@meta minikvm.devices.serial

---A serial port on PCI.
---@class minikvm.devices.serial
local serial = {}

---Options of `serial.new`.
---@class minikvm.devices.serial.options
---@field on_output? fun(d: minikvm.device, byte: integer) the guest has sent one

---Describes it, for vm.pci:attach.
---@param options? minikvm.devices.serial.options
---@return minikvm.definition
function serial.new(options) end

---Bytes for the guest.
---@param d minikvm.device
---@param text string
function serial.send(d, text) end

return serial
