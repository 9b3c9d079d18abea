-- Misuse of any object's fields and methods is an error of the script's line, which names the
-- nearest field there is; never one inside minikvm's own Lua parts.

local support = require "support.guest"
local kvm = require "minikvm"
local core = require "minikvm.core"

local METHODS <const> = { -- of the objects made in Lua
  device = { raise = 1, lower = 1, after = 1, every = 1, keep = 1, is_ram = 1, dma_read = 1,
             dma_write = 1, hits = 1, detach = 1 },
  screen = { row = 1, cursor = 1, text = 1, cell = 1, expect = 1 },
  listener = { remove = 1 },
}

describe("misuse", function()
  if support.without_kvm(pending) then return end
  local vm, objects

  setup(function()
    vm = assert(kvm.vm{ echo = false, irqchip = "pic" })
    vm:load{ bytes = "\xf4" }
    local device = vm:attach(kvm.device{ name = "thing", registers = { [0] = "STATUS" } },
                             { ports = 0x300 })
    objects = {
      vm = vm, cpu = vm.cpu[0], memory = vm.memory, ports = vm.ports, mmio = vm.mmio,
      msrs = vm.msrs, cpuid = vm.cpuid, hypercalls = vm.hypercalls, console = vm.console,
      clock = vm.clock, keyboard = vm.keyboard, files = vm.files, device = device,
      snapshot = vm:snapshot(), screen = vm:screen(), policy = kvm.files{},
      handle = vm.ports:on(0x200, { read = function() return 1 end }),
      timer = vm.clock:after(1000, print), listener = vm.console:on_line(print),
    }
  end)

  teardown(function() vm:close() end)

  it("of fields raises, read and written, and name the nearest", function()
    for path, meant in pairs{ ["vm.rum"] = "run", ["cpu.raxx"] = "rax", ["memory.u34"] = "u32",
                              ["ports.overide"] = "override", ["console.sned"] = "send",
                              ["clock.nwo"] = "now", ["keyboard.tpye"] = "type",
                              ["files.usag"] = "usage", ["handle.hist"] = "hits",
                              ["timer.hitz"] = "hits", ["snapshot.mod"] = "mode",
                              ["device.stat"] = "state", ["screen.tetx"] = "text",
                              ["listener.remov"] = "remove", ["policy.clos"] = "close" } do
      local name, key = path:match "(.*)%.(.*)"
      local _, why = pcall(function() return objects[name][key] end)
      assert.matches("^spec/lua/strict_spec.lua:%d+: .* '" .. key .. "' %(did you mean '" .. meant
                     .. "'%?%)$", why)
      local ok, text = pcall(function() objects[name][key] = 1 end)
      assert.is_false(ok)
      assert.matches("^spec/lua/strict_spec.lua:%d+: .*'" .. key .. "'", text)
    end
    assert.error_matches(function() return kvm.vmm end, "kvm has no 'vmm' %(did you mean 'vm'")
    assert.is_nil(vm.symbols.nothing_of_this_name)
  end)

  it("a device's registers have the names that it was given", function()
    local d = objects.device
    assert.error_matches(function() d.reg.STATUZ = 1 end,
      "there is no register of device thing 'STATUZ' %(did you mean 'STATUS'%?%)")
    assert.error_matches(function() return d.reg.STAT end, "no register of device thing 'STAT'")
    d.reg.STATUS = 5
    assert.equal(5, d.reg.STATUS)
    assert.error_matches(function() d.mine = 1 end, "device's own goes into d.state, or into d.own")
    d.own.mine = vm
    vm:reset()
    assert.equal(vm, d.own.mine)
    assert.error_matches(function() d.reg.STATUZ = 1 end, "no register") -- after a reset, too
  end)

  it("of any method is blamed on the script", function()
    -- What runs the guest or waits (those with arguments that are wrong in any case), ends an
    -- object, or makes a file named "1.5".
    local out, waits = {}, { "vm.run", "vm.wait_break", "cpu.step", "console.expect",
                             "console.try_expect", "console.type", "screen.expect",
                             "keyboard.type" }
    for _, name in ipairs(waits) do out[name] = true end
    for name in ([[vm.close vm.start cpu.step_over snapshot.close policy.close
                   console.interact console.attach console.log console.output
                   snapshot.save screen.png]]):gmatch "%S+" do
      out[name] = true
    end
    local values = { false, -1, 1.5, "x", {}, { foo = 1 }, print, 1 << 62, n = 9 }
    values[9] = nil
    local tried, wrong = 0, {}
    local function try(what, fn, ...)
      local ok, why = pcall(function(...) fn(...) end, ...)
      tried = tried + 1
      if not ok and not tostring(why):find "^spec/lua/strict_spec.lua:%d+: " then
        wrong[#wrong + 1] = ("%s: %s"):format(what, tostring(why))
      end
    end
    for name, object in pairs(objects) do
      for method in pairs(core.kind(object) and core.methods(core.kind(object)) or METHODS[name]) do
        if not out[name .. "." .. method] then
          local what, fn = name .. ":" .. method, object[method]
          for i = 1, values.n do
            for j = 1, values.n, 3 do try(what, fn, object, values[i], values[j]) end
          end
          try(what .. " without an object", fn)
          try(what .. " of a table", fn, {})
        end
      end
    end
    for _, path in ipairs(waits) do
      local name, method = path:match "(.*)%.(.*)"
      local object = objects[name]
      local fn = object[method]
      try(path .. " without an object", fn)
      try(path .. " of a table", fn, {})
      try(path, fn, object, method == "run" and "x" or {}) -- an empty list of patterns; no text
      try(path, fn, object, method == "run" and { deadlin = 1 } or "x", { timeot = 1 })
    end
    for name, fn in pairs(kvm) do
      for i = 1, type(fn) == "function" and name ~= "sleep" and values.n or 0 do
        try("kvm." .. name, fn, values[i])
      end
    end
    assert.same({}, wrong)
    assert(tried > 2000)
  end)
end)
