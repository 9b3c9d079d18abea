---@meta minikvm.devices.rtc

---A PC's clock: `vm:attach(rtc.new(), { ports = 0x70, irq = 8 })`.
---@class minikvm.devices.rtc
local rtc = {}

---Options of `rtc.new`.
---@class minikvm.devices.rtc.options
---@field time? integer what it shows at first, in seconds since 1970 as UTC; the host's time
---@field speed? number seconds of the clock in one second; 1
---@field cmos? table<integer, integer> what the memory holds at first, index 0x0e to 0x7f

---Describes it, for vm:attach.
---@param options? minikvm.devices.rtc.options
---@return minikvm.definition
function rtc.new(options) end

return rtc
