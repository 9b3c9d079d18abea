---@meta minikvm.devices.edu

---QEMU's teaching device: `vm:attach(edu.new(), { mmio = …, irq = … })`.
---@class minikvm.devices.edu
---@field ID integer what the identification register reads
---@field IRQ_FACTORIAL integer interrupt status: a factorial is there
---@field IRQ_DMA integer interrupt status: a transfer is over
local edu = {}

---Options of `edu.new`.
---@class minikvm.devices.edu.options
---@field delay? number seconds that a factorial and a transfer take; 0.0001
---@field dma_mask? integer bits that addresses of transfers may have; 0x0fffffff
---@field on_error? fun(d: minikvm.device, text: string) a transfer that cannot be done

---Describes it, for vm:attach.
---@param options? minikvm.devices.edu.options
---@return minikvm.definition
function edu.new(options) end

---The same on PCI, for vm.pci:attach.
---@param options? minikvm.devices.edu.options
---@return minikvm.definition
function edu.pci(options) end

return edu
