---@meta minikvm.device.virtio

---What devices of kvm.virtio may need besides.
---@class minikvm.device.virtio
---@field private define function
---@field private define_in function
local virtio = {}

---Tells the driver that the bytes of a device's configuration are others now.
---@param d minikvm.device
function virtio.config_changed(d) end

return virtio
