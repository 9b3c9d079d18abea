---@meta minikvm.devices.vga

---A PC's text screen: `vm:attach(vga.new(), { ports = 0x3c0 })`.
---@class minikvm.devices.vga
---@field BASE integer address of video memory
---@field SIZE integer its bytes
local vga = {}

---Options of `vga.new`.
---@class minikvm.devices.vga.options

---Describes it, for vm:attach.
---@param options? minikvm.devices.vga.options
---@return minikvm.definition
function vga.new(options) end

---The VGA of a VM; nil when it has none.
---@param vm minikvm.vm
---@return minikvm.device?
function vga.of(vm) end

---Bytes of video memory, which begins again where it ends.
---@param d minikvm.device
---@param at integer from its beginning
---@param count integer
---@return string
function vga.video(d, at, count) end

---The first character shown, from the beginning of video memory.
---@param d minikvm.device
---@return integer
function vga.start(d) end

---Where the cursor is, from the beginning of video memory, and its lines of 0 to 31; nil when it is off.
---@param d minikvm.device
---@return integer? position
---@return integer? first
---@return integer? last
function vga.cursor(d) end

---Whether bit 7 of an attribute makes a character blink.
---@param d minikvm.device
---@return boolean
function vga.blinks(d) end

---The 16 colours as the guest has set them: red, green and blue of 0 to 255.
---@param d minikvm.device
---@return integer[][]
function vga.palette(d) end

return vga
