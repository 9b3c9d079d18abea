---@meta minikvm.devices.ata

---A channel of a PC's ATA controller: `vm:attach(ata.new{ … }, { ports = 0x1f0, irq = 14 })`.
---@class minikvm.devices.ata
local ata = {}

---Options of `ata.new`.
---@class minikvm.devices.ata.options
---@field disks? minikvm.disk[] one or two
---@field on_error? fun(d: minikvm.device, text: string) what the host refused, which the guest gets as an error

---Describes it, for vm:attach.
---@param options minikvm.devices.ata.options
---@return minikvm.definition
function ata.new(options) end

return ata
