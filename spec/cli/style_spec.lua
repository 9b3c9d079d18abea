-- Colours, help and progress on terminals of any width, and none of it elsewhere: ECMA-48 for the
-- escapes, no-color.org for NO_COLOR; TERM=dumb knows no escapes (terminfo(5)).

local program = require "support.program"
local style = require "minikvm.cli.style"

local run = program.run

---What a command prints on a terminal of so many columns.
local function on_terminal(columns, command, settings)
  local words = ("stty rows 24 cols %d; exec env -u NO_COLOR TERM=xterm %s %s"):format(
    columns, settings or "", command)
  return program.start(words, { terminal = true }):finish()
end

---The text without what is between words.
local function letters(text) return (text:gsub("%s", "")) end

describe("text that fits:", function()
  it("lines are broken at spaces, indented as they were", function()
    assert.equal("  one\n  two\n\n  three", style.wrap("  one two\n\n  three", 7))
    assert.equal("abc\ndef\ng", style.wrap("abcdefg", 3))
    assert.equal("x   y", style.wrap("x   y", 5))
    assert.equal("x\ny", style.wrap("x   y", 4))
    assert.equal("long", style.wrap("long", nil))
    assert.equal(" a\n b", style.wrap("        a b", 4))
    assert.equal("a\nb", style.wrap("        ab", 1))
  end)

  it("is cut by what it takes on the screen", function()
    assert.equal("abc", style.cut("abcd", 3))
    assert.equal("éß", style.cut("éßé", 2))
    assert.equal("漢", style.cut("漢字", 3))
    assert.equal("", style.cut("漢字", 1))
    assert.equal("\xff\xfe", style.cut("\xff\xfe\xfd", 2))
  end)

  it("says how long", function()
    assert.same({ "1 s", "99 s", "2 min", "99 min", "2 h 5 min" },
                { style.duration(0.2), style.duration(99), style.duration(100),
                  style.duration(5940), style.duration(7500) })
  end)
end)

describe("on a terminal", function()
  if not program.has_terminal then return pending "needs script(1)" end

  it("help has no line that is too long, and every word", function()
    for _, command in ipairs{ "P --help", "P run --help", "P test --help" } do
      local whole = run(command).out
      for _, columns in ipairs{ 1, 7, 20, 40, 79 } do
        local r = on_terminal(columns, command)
        assert.equal(0, r.status)
        for line in r.out:gmatch "[^\n]+" do assert.is_true(#line <= columns, line) end
        if columns < 60 or command == "P --help" then
          assert.equal(letters(whole):sub(-400), letters(r.out):sub(-400))
        end
      end
    end
  end)

  it("verdicts have colours, unless they are not wanted or not known", function()
    assert.matches("^\27%[3[123]m%u?%l+ *\27%[0m", on_terminal(80, "P doctor").out)
    for _, settings in ipairs{ "NO_COLOR=1", "TERM=dumb", "TERM=", "-u TERM" } do
      assert.falsy(on_terminal(80, "P doctor", settings).out:find("\27", 1, true), settings)
    end
    assert.matches("\27[", on_terminal(80, "P doctor", "NO_COLOR=").out, 1, true)
    assert.falsy(run("TERM=xterm P doctor").out:find("\27", 1, true))
    local r = run "TERM=xterm P run /nowhere/a.bin"
    assert.equal("minikvm: a: /nowhere/a.bin: No such file or directory\n", r.err)
    r = on_terminal(80, "P run /nowhere/a.bin")
    assert.equal("\27[1mminikvm:\27[0m a: /nowhere/a.bin: No such file or directory\n", r.out)
  end)

  it("tests are told of on one line that fits, and that is gone at the end", function()
    local folder = os.tmpname()
    os.remove(folder)
    os.execute(("mkdir %s && echo 'it(\"a\", function() end)' >%s/long_name_spec.lua")
      :format(folder, folder))
    local command = ("P test --artefacts %s/kept %s"):format(folder, folder)
    for columns, shown in pairs{ [1] = false, [9] = false, [12] = "[0/1] long_",
                                 [40] = "[0/1] long_name_spec.lua" } do
      local out = on_terminal(columns, command).out
      local line = out:match "(%[0/1%][^\27\n]*)"
      assert.equal(shown, line or false)
      if shown then assert.matches(shown .. "\27[K\27[32mok", (out:gsub("\r", "")), 1, true) end
    end
    assert.falsy(on_terminal(40, command, "TERM=dumb").out:find("[0/1]", 1, true))
    os.execute("rm -r " .. folder)
  end)

  it("the emulated machine's specs have such a line, with the time that is left", function()
    local script = program.file [[
set -euo pipefail
name=x results=/nowhere work=/nowhere
. tools/machine.sh
specs=(spec/lua/copy_spec.lua spec/lua/options_spec.lua)
seconds_of_specs <(echo 'ok   60.00 s  spec/lua/copy_spec.lua (1 passed)') >"$1"
{ echo 'ok  120.00 s  spec/lua/copy_spec.lua (1 passed)'; printf 'half a line'; } | show "$1"
]]
    local seconds = os.tmpname()
    local command = ("bash %s %s"):format(script, seconds)
    local out = on_terminal(80, command).out
    assert.matches("ok  120.00 s  spec/lua/copy_spec.lua (1 passed)\n", out, 1, true)
    assert.matches("[1/2] 0 min, about 3 min left\27[Khalf a line", out, 1, true) -- twice as slow
    assert.equal("ok  120.00 s  spec/lua/copy_spec.lua (1 passed)\nhalf a line",
                 on_terminal(80, command, "TERM=dumb").out)
    os.remove(script)
    os.remove(seconds)
  end)
end)
