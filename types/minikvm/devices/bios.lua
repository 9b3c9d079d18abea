---@meta minikvm.devices.bios

---BIOS services in Lua.
---@class minikvm.devices.bios
local bios = {}

---Options of `bios.new`.
---@class minikvm.devices.bios.options
---@field disks? minikvm.disk[] in the order in which they are booted from
---@field borrowed? minikvm.disk[] those of them that are another device's
---@field time? integer seconds since 1970 that the clock shows at first; those of the host
---@field on_error? fun(d: minikvm.device, text: string) what the host refused, and why a guest was stopped

---Describes it, for vm:attach without a place.
---@param options? minikvm.devices.bios.options
---@return minikvm.definition
function bios.new(options) end

return bios
