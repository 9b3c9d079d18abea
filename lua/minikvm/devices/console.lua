-- console.lua - virtio's console with one port, hvc0 of a Linux guest: text to and from a script.
--
--   local port = vm.pci:attach(console.new{ on_output = function(d, text) io.write(text) end })
--   console.send(port, "text")
--
-- Virtual I/O Device 1.2, 5.3. What is sent waits for the driver's buffers.

local core = require "minikvm.core"
local device = require "minikvm.device"
local kvm = require "minikvm"
local options = require "minikvm.options"

local M = {}

local function deliver(d)
  local s, free = d.state, d.own.free
  while #s.input > 0 and #free > 0 do
    local buffer = table.remove(free, 1)
    if not buffer:is_stale() then
      assert(buffer:write(s.input:sub(1, buffer.writable)))
      s.input = s.input:sub(buffer.written + 1)
      buffer:done()
    end
  end
end

---Text for the guest.
---@param d minikvm.device
---@param text string
function M.send(d, text)
  options.argument("console.send", "device", d, device.check)
  options.argument("console.send", "text", text, "string")
  if not d.state.input then core.blame(("console.send: device %s is no console"):format(d.name)) end
  d.state.input = d.state.input .. text
  deliver(d)
end

---@param opts { on_output: fun(device: minikvm.device, text: string) }
---@return minikvm.definition
function M.new(opts)
  local o = options.check("console.new", opts, { on_output = "function" })
  local on_output = o.on_output or function() end
  return kvm.virtio{
    name = "console", id = 3, class = 0x078000, queues = 2,
    on_buffer = function(d, queue, buffer)
      if queue == 0 then
        table.insert(d.own.free, buffer)
        return deliver(d)
      end
      local text = buffer:read()
      buffer:done()
      on_output(d, text)
    end,
    reset = function(d) d.state.input, d.own.free = "", {} end,
    on_reset = function(d) d.own.free = {} end,
    load = function(d, state) d.state, d.own.free = state, {} end,
  }
end

return M
