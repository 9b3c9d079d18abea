-- Solutions of docs/book/10-a-suite.md.

local t = require "minikvm.test"

t.describe("A suite: 1.", function()
  t.modes{ "real", "protected", "long" }(function(mode)
    -- mov al, 'A'; out 0xe9, al; hlt: the same bytes in all three
    local guest = t.guest{ mode = mode, image = { bytes = "\xb0\x41\xe6\xe9\xf4" } }

    t.it("prints a letter", function()
      local vm = guest()
      assert(vm:run{ deadline = 10 } == "halt")
      assert(vm.console:text() == "A")
    end)
  end)
end)

t.describe("A suite: 2.", function()
  local menu = t.guest{ mode = "paged", image = "os-1k/kernel.bin",
                        boot = function(vm) vm.console:expect "Select: " end }
  local calculator = menu:branch(function(vm)
    vm.console:sendline "6"
    vm.console:expect "Calculate: "
  end)
  local after_one_sum = calculator:branch(function(vm)
    vm.console:sendline "1 + 1"
    vm.console:expect "\n2\nCalculate: "
  end)

  t.it("a branch of a branch", function()
    local vm = after_one_sum()
    vm.console:sendline "2 + 2"
    vm.console:expect "\n4\n"
  end)

  t.it("the branch itself", function()
    local vm = calculator()
    assert(not vm.console:text():find "\n2\n")
    vm.console:sendline "q"
    vm.console:expect "Select: "
  end)

  t.it("the fixture", function()
    assert(not menu().console:text():find "Calculate")
  end)
end)
