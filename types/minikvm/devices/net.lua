---@meta minikvm.devices.net

---A network card, and its wires.
---@class minikvm.devices.net
local net = {}

---Options of `net.new`.
---@class minikvm.devices.net.options
---@field hub? minikvm.hub the wire that it is on
---@field on_frame? fun(d: minikvm.device, frame: string) or who gets what the guest sends
---@field tap? string|fun(vm: minikvm.vm): string? or the name of an interface of the host's
---@field mac? string `"52:54:00:12:34:56"`
---@field mtu? integer bytes that the driver is told to send at most, 68 to 65521

---Describes it, for vm.pci:attach.
---@param options? minikvm.devices.net.options
---@return minikvm.definition
function net.new(options) end

---Hands a frame to the guest.
---@param d minikvm.device
---@param frame string
---@param after? number seconds by the VM's clock
---@return boolean taken
function net.send(d, frame, after) end

---Options of `net.hub`.
---@class minikvm.hub.options
---@field on_frame? fun(hub: minikvm.hub, frame: string, from: minikvm.device): boolean|string|nil `false`: nobody gets it; a string: that goes on instead
---@field capture? minikvm.capture has what goes over the wire

---A wire between cards, of any VMs of this script.
---@param options? minikvm.hub.options
---@return minikvm.hub
function net.hub(options) end

---A wire.
---@class minikvm.hub
---@field private ports table
---@field private most integer
---@field private on_frame? function
---@field private capture? minikvm.capture
---@field private wire table
---@field private arm function
local hub = {}

---Options of `hub:send`.
---@class minikvm.hub.send.options
---@field from? minikvm.device a card that does not get it
---@field after? number seconds by the clock of each VM

---Sends a frame to all cards.
---@param frame string
---@param options? minikvm.hub.send.options
---@return integer taken how many took it
function hub:send(frame, options) end

---Those that are plugged in.
---@return minikvm.device[]
function hub:cards() end

---Options of `net.capture`.
---@class minikvm.capture.options
---@field limit? minikvm.size bytes that it holds; `"64M"`

---Keeps the newest frames, for a file that tcpdump reads.
---@param options? minikvm.capture.options
---@return minikvm.capture
function net.capture(options) end

---Frames that were kept.
---@class minikvm.capture
---@field lost integer how many are there no more
---@field private records table
---@field private first integer
---@field private last integer
---@field private held integer
---@field private limit integer
---@field private zero number
local capture = {}

---One more.
---@param frame string
---@param seconds? number since 1970; now
function capture:add(frame, seconds) end

---How many there are.
---@return integer
function capture:count() end

---The file.
---@return string
function capture:bytes() end

---Writes the file.
---@param path string
---@return true? written
---@return string? why
---@return string? code
function capture:save(path) end

return net
