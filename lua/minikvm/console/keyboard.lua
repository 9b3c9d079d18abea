-- keyboard.lua - typing more at a guest's keyboard than it has room for, on top of the core's type
-- (src/lua/keyboard.c).

local core = require "minikvm.core"
local options = require "minikvm.options"

---@class minikvm.keyboard
local keyboard = core.methods "minikvm.keyboard"

local SLICE <const> = 0.005 -- seconds that the guest gets to read some
local TYPE = { timeout = "seconds" }

local type_some = keyboard.type

---Lets the guest read; false when it does not run any more by itself.
local function let_read(vm)
  if vm.state == "running" then
    core.sleep(SLICE)
    return true
  end
  return vm:run{ deadline = SLICE } == "deadline"
end

---Types ASCII on a US keyboard; "\n" is Enter, "\b" Backspace, "\t" Tab, other control characters
---Ctrl with a letter.
---  timeout  so many seconds the guest may take to read what does not fit; it runs meanwhile, on
---           this thread if it was not started
---@param text string
---@param opts? { timeout: number? }
---@return minikvm.keyboard? keyboard
---@return string? why
---@return string? code  "EINVAL", and nothing typed, for a character without a key; "ENOBUFS"
---@return integer? typed  characters that were
function keyboard:type(text, opts)
  local timeout = options.check("keyboard:type", opts, TYPE, 2).timeout
  local done, why, code, typed = type_some(self, text)
  if done or not timeout or code ~= "ENOBUFS" then return done, why, code, typed end
  local vm, give_up, all = core.vm_of_keyboard(self), core.now() + timeout, typed
  repeat
    local goes_on = let_read(vm)
    done, why, code, typed = type_some(self, text:sub(all + 1))
    all = all + (typed or 0)
  until done or not goes_on or core.now() > give_up
  return done, why, code, all
end
