-- Solutions of docs/book/02-a-guest-that-speaks.md.

local kvm = require "minikvm"
local t = require "minikvm.test"

local function machine(bytes)
  local vm = assert(kvm.vm{ mode = "real", echo = false, coalesce = false })
  assert(vm:load{ bytes = bytes })
  return vm
end

t.describe("A guest that speaks:", function()
  t.needs_kvm()

  t.it("1. the digits, an exit for each", function()
    -- mov al, '0'; again: out 0xe9, al; inc al; cmp al, '9' + 1; jne again; hlt
    local vm <close> = machine "\xb0\x30\xe6\xe9\xfe\xc0\x3c\x3a\x75\xf8\xf4"
    local reason, info = vm:run{ deadline = 5 }
    assert(reason == "halt" and info.by.io == 10)
    assert(vm.console:text() == "0123456789")
  end)

  t.it("2. exit code 42, twice", function()
    for _, bytes in ipairs{
      "\xba\x00\x05\xb3\x2a\xb0\x00\xee", -- mov dx, 0x500; mov bl, 42; mov al, 0; out dx, al
      "\xb0\x2a\xe6\xf4",                 -- mov al, 42; out 0xf4, al
    } do
      local vm <close> = machine(bytes)
      local reason, info = vm:run{ deadline = 5 }
      assert(reason == "exit" and info.code == 42)
    end
  end)

  t.it("3. ten bytes in one exit", function()
    -- xor ebx, ebx; mov ecx, 10; mov dx, 0x500; mov al, 0x10; out dx, al; hlt
    local code = "\x66\x31\xdb\x66\xb9\x0a\0\0\0\xba\x00\x05\xb0\x10\xee\xf4"
    local vm <close> = machine(code)
    local reason, info = vm:run{ deadline = 5 }
    assert(reason == "halt" and info.by.io == 1)
    assert(vm.console:text() == code:sub(1, 10))
  end)
end)
