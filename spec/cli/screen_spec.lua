-- `minikvm run --screen`: the terminal as a guest's screen and keyboard.

local blocks = require "minikvm.console.blocks"
local keys = require "minikvm.console.keys"
local program = require "support.program"
local support = require "support.guest"

describe("what a terminal sends", function()
  local function names(...)
    local k, found = keys.new(), {}
    for _, bytes in ipairs{ ... } do
      for _, key in ipairs(k:feed(bytes)) do found[#found + 1] = table.concat(key, "-") end
    end
    for _, key in ipairs(k:flush()) do found[#found + 1] = table.concat(key, "-") end
    return table.concat(found, " ")
  end

  it("is taken for keys", function() -- xterm, "Control Sequences", PC-Style Function Keys
    for bytes, expected in pairs{
      ["aA1 "] = "a A 1 space", ["\r\n\t\127\b"] = "enter enter tab backspace backspace",
      ["\3\0\27x"] = "ctrl-c ctrl-space alt-x", ["\27[A\27OB\27[H\27[4~"] = "up down home end",
      ["\27OP\27[15~\27[24~"] = "f1 f5 f12", ["\27[1;2A\27[3;5~"] = "shift-up ctrl-delete",
      ["\27[1;4Q\27[Z"] = "shift-alt-f2 shift-tab", ["\27[[A\27[[E"] = "f1 f5",
      ["\27"] = "esc", ["\27\27"] = "esc esc", ["\27[99~\27[?1x\27[200~y"] = "y", ["é\xff"] = "",
    } do
      assert.equal(expected, names(bytes), bytes)
    end
  end)

  it("may come in pieces, and ends somewhere", function()
    assert.equal("up f5 x", names("\27", "[", "A\27[1", "5~x"))
    assert.is_true(#names("\27[" .. ("1;"):rep(100000)) < 10000000)
  end)
end)

describe("a framebuffer in a terminal", function()
  -- 2 x 2 pixels of blue, green, red and a byte: red and green above blue and white.
  local PIXELS <const> = "\0\0\255\0" .. "\0\255\0\0" .. "\255\0\0\0" .. "\255\255\255\0"
  local vm = { memory = { read = function(_, at, n) return PIXELS:sub(at + 1, at + n) end } }
  local there = { at = 0, width = 2, height = 2, pitch = 8 }

  it("is half blocks in 24-bit colours or xterm's cube, the upper pixel in the foreground",
     function()
    assert.equal("\27[1;1H\27[0;38;2;255;0;0;48;2;0;0;255m▀\27[0;38;2;0;255;0;48;2;255;255;255m▀",
                 blocks.changes(vm, there, {}, 2, 1, true))
    assert.equal("\27[1;1H\27[0;38;5;196;48;5;21m▀\27[0;38;5;46;48;5;231m▀",
                 blocks.changes(vm, there, {}, 2, 1, false))
  end)

  it("is drawn again where it has changed, and fits any terminal", function()
    local shown = {}
    assert.equal(2, select(2, blocks.changes(vm, there, shown, 80, 2, true):gsub("%d;1H", "")))
    assert.equal("", blocks.changes(vm, there, shown, 80, 2, true))
    assert.equal("\27[1;1H\27[0;38;2;255;0;0;49m▀", blocks.changes(vm, there, {}, 1, 1, true)
                 :gsub("48;2;%d+;%d+;%d+", "49"))
  end)
end)

describe("minikvm run --screen", function()
  it("says what it needs", function()
    local image = program.image "f4"
    for words, why in pairs{
      [""] = "--screen: standard input and output are to be a terminal",
      ["--json "] = "--screen is for one image that runs, without --json and --input",
      [image .. " "] = "--screen is for one image that runs",
    } do
      local r = program.run(("P run --screen %s%s"):format(words, image))
      if why:find "standard" and support.without_kvm(function() end) then break end
      assert.matches(why, r.err, 1, true)
      assert.is_true(r.status > 0)
    end
    os.remove(image)
  end)

  if support.without_kvm(pending) then return end
  if not program.has_terminal then return pending "needs util-linux's script" end

  -- Shows R, then the scancodes that it reads at port 0x60 as two digits each.
  local GUEST <const> = "b800b8 8ec0 31ff b41f b052 ab" -- mov ax, 0xb800 ... stosw
    .. "e464 a801 74fa e460 88c3 c0e804" -- next: in al, 0x64 ... in al, 0x60 ... shr al, 4
    .. "e80900 88d8 240f e80200 ebe7" -- call digit; mov al, bl ... call digit; jmp next
    .. "3c0a 7202 0407 0430 ab c3" -- digit: cmp al, 10 ... stosw; ret
  local MODES <const> = [[stty -a | tr " " "\n" | grep -x -e icanon -e echo | tr "\n" ,]]
  local FAREWELL <const> = "\27[0m\27[?25h\27[?7h\27[?1049l"

  ---What a terminal of this size is sent while a guest runs on it.
  local function on_terminal(size, use)
    local path, pidfile = program.image(GUEST), program.file ""
    local t = program.start(("stty %s; sh -c 'echo $$ >%s; exec P run --screen %s'; "
      .. "echo \"[$?]\"; %s"):format(size, pidfile, path, MODES), { terminal = true })
    t:wait "\27[?1049h"
    t:wait "R"
    use(t, tonumber(program.run("cat " .. pidfile).out))
    local out = t:finish().out
    os.remove(path)
    os.remove(pidfile)
    return out
  end

  -- IBM PS/2 Hardware Interface Technical Reference, "Scan Code Set 1"
  it("shows the text screen, and gives the keyboard its keys", function()
    local out = on_terminal("rows 25 cols 80", function(t)
      t:type("a"):wait "1E9E"
      t:type("\27[A"):wait "E048E0C8"
      t:type("\27[15~"):wait "3FBF"
      t:type("\3"):wait "1D2EAE9D"
      t:type "\1x"
    end)
    assert.matches("\27[0;97;44m1E9E", out, 1, true)
    local _, last = out:find(FAREWELL, 1, true)
    assert.matches("^R1E9EE048E0C83FBF1D2EAE9D\n.*%[0%]", out:sub(last + 1))
    assert.matches("icanon,echo,$", out)
  end)

  it("shows a corner in a terminal of 1 x 1", function()
    local out = on_terminal("rows 1 cols 1", function(t) t:type "\1x" end)
    assert.is_nil(out:find "\27%[%d*[2-9];%d+H")
    assert.matches("icanon,echo,$", out)
  end)

  for _, signal in ipairs{ "TERM", "INT", "HUP" } do
    it("leaves the terminal as it was after SIG" .. signal, function()
      local out = on_terminal("rows 25 cols 80", function(t, pid)
        os.execute(("kill -%s %d"):format(signal, pid))
        t:wait "]"
      end)
      local _, last = out:find(FAREWELL, 1, true)
      assert.is_nil(out:find("\27", last + 1, true))
      assert.matches("%[[1-9]%d*%]", out)
      assert.matches("icanon,echo,$", out)
    end)
  end
end)
