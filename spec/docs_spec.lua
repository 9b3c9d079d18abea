-- The documentation is true: every listing runs, in a process of its own; the commands of README.md
-- do; what docs/ says of names and numbers is what there is.
--
--   ```lua             a whole script: exits with 0; a ```text output behind it is what it prints
--   ```lua fragment    is only compiled
--   ```lua linux       the same where Linux can be booted; /boot/vmlinuz is a kernel that is there
--   ```sh              lines that begin with ./minikvm, minikvm, printf or lua5.4 (README.md only)
--   ```sh linux        such lines, where Linux can be booted; what is typed is "exit"
--   ```sh here         commands, in a folder of the document with the files that it shows;
--                      a ```text output behind it is what they print
--                      (~/minikvm/ is the checkout)
--   ```lua here        a whole script, in that folder
--   ```c kernel.c      a file of that folder, in whatever language
--   ```prompt FILE     a session of `minikvm prompt FILE`: lines that begin with "> " are typed,
--   ```prompt here …   what follows each is what it prints; in that folder
--   In what is printed … stands for any text of a line, a line of it for any lines.
--   | x | `command` |  in README.md: as a line of ```sh, or of ```sh linux

local lfs = require "lfs"
local kvm = require "minikvm" -- first: it brings the parts
local core = require "minikvm.core"
local program = require "support.program"
local process = require "support.process"
local support = require "support.guest"
local linux = require "support.linux"

local SECONDS <const>, LINUX_SECONDS <const> = 60, 200 -- the longest that a listing may take

local function documents()
  local paths = { "README.md" }
  for _, folder in ipairs{ "docs/", "docs/book/" } do
    for file in lfs.dir(folder) do
      if file:find "%.md$" then paths[#paths + 1] = folder .. file end
    end
  end
  table.sort(paths)
  return paths
end

---The fenced blocks of a text, in order: { kind = "lua fragment", line = 12, text = "…" }.
local function blocks(text)
  local list, open, number = {}, nil, 0
  for line in (text .. "\n"):gmatch "(.-)\n" do
    number = number + 1
    local fence = line:match "^%s*```%s*(.-)%s*$"
    if not fence and open then
      open.text = open.text .. line .. "\n"
    elseif fence and not open then
      open = { kind = fence, line = number, text = "" }
    elseif fence then
      list[#list + 1] = open
      open = nil
    end
  end
  assert(not open, "a block is not closed")
  return list
end

---The commands in the second column of a table, as blocks.
local function table_commands(text)
  local list = {}
  for command in text:gmatch "\n|[^|\n]*| `([^`\n]+)`[^|\n]*|" do
    local kind = command:find "minikvm linux" and "sh linux" or "sh"
    list[#list + 1] = { kind = kind, line = 0, text = command .. "\n" }
  end
  return list
end

---The command as it runs here: the program that is tested, and an end to it.
local function command_of(line, seconds)
  line = line:gsub("%./minikvm%f[%s]", "minikvm")
  return (line:gsub("%f[%w]minikvm%f[%s%z]", ("timeout %d P"):format(seconds)))
end

---Whether a text is what a document says; raises.
local function check_text(expected, got, context)
  local pattern = expected:gsub("%p", "%%%0"):gsub("\n…\n", "\n\0"):gsub("^…\n", "\0")
    :gsub("…", "[^\n]-"):gsub("\0", ".-")
  if not got:find("^" .. pattern .. "$") then
    error(("expected\n%s\ngot\n%s\n%s"):format(expected, got, context or ""), 0)
  end
end

---A stock lua cannot load a module with a sanitizer in it.
local function is_command(line)
  return line:find "^%.?/?minikvm" or line:find "^printf"
    or (line:find "^lua5%.4 " and not process.sanitized())
end

local function show(r)
  return ("status %d\n%s%s"):format(r.status, r.out, r.err)
end

local function run_listing(text, seconds)
  local path = program.file(text)
  local r = program.run(("timeout %d P %s"):format(seconds, path))
  os.remove(path)
  return r
end

local function has_kind(list, pattern)
  for _, block in ipairs(list) do
    if block.kind:find(pattern) then return true end
  end
  return false
end

local function check_listing(block, output, seconds)
  assert(load(block.text, "=listing"))
  if block.text:find "while true do end" and process.without_signals(pending) then return end
  local r = run_listing(block.text, seconds or SECONDS)
  assert.equal(0, r.status, show(r))
  if output then check_text(output.text, r.out) end
end

---What the block behind this one says that it prints.
local function output_of(list, i)
  local next_block = list[i + 1]
  return next_block and next_block.kind == "text output" and next_block or nil
end

local function check_command(line, seconds, stdin)
  local r = program.run(command_of(line, seconds), { stdin = stdin })
  assert.equal(0, r.status, show(r))
end

-- ---- a folder of a document's own ----

local FILE <const> = "^%a+ ([%w_]+%.%a+)$" -- the kind of a block that is a file

---Writes a file in which ~/minikvm is this checkout.
local function write(path, text)
  local file <close> = assert(io.open(path, "wb"))
  file:write((text:gsub("~/minikvm/", lfs.currentdir() .. "/")))
end

---The program, from whatever folder.
local function absolute(path)
  return path:find "^/" and path or lfs.currentdir() .. "/" .. path
end

local function check_commands(folder, block, output)
  local text = block.text
  if block.kind == "lua here" then
    write(folder .. "/script.lua", text)
    text = "minikvm script.lua\n"
  end
  write(folder .. "/.commands", text:gsub("%f[%w]minikvm%f[%s]", absolute(program.minikvm)))
  local r = program.run(("cd %s && timeout %d sh .commands"):format(folder, SECONDS))
  assert.equal(0, r.status, show(r))
  if output then check_text(output.text, r.out, show(r)) end
end

local MARK <const> = "\1" -- what the prompt is, so that answers can be told apart

---What is typed in a session, and what is printed for each; the instruction that comes next is
---marked as a prompt is.
local function read_session(text)
  local typed, printed = {}, {}
  for line in text:gmatch "([^\n]*)\n" do
    if line:find "^> " and not line:find "^> %S+  " then
      typed[#typed + 1] = line:sub(3)
      printed[#typed] = ""
    else
      printed[#typed] = printed[#typed] .. line .. "\n"
    end
  end
  return typed, printed
end

local function check_session(folder, arguments, text)
  local typed, printed = read_session(text)
  local r = program.run(("cd %s && timeout %d %s prompt %s"):format(folder, SECONDS,
      absolute(program.minikvm), arguments),
    { stdin = ("_PROMPT = %q\n%s\n"):format(MARK, table.concat(typed, "\n")) })
  local i = 0
  for answer in r.out:gmatch(MARK .. "([^" .. MARK .. "]*)") do
    i = i + 1
    if not typed[i] then break end
    check_text(printed[i], answer, ("line %q\n%s"):format(typed[i], show(r)))
  end
  assert.equal(#typed + 1, i, show(r)) -- the last one is the end of the input
end

---Carries out a document from its beginning.
local function follow(list)
  local folder = program.folder()
  local ok, problem = pcall(function()
    for i, block in ipairs(list) do
      local name = block.kind:match(FILE)
      if name then write(folder .. "/" .. name, block.text) end
      if block.kind:find "^%a+ here$" then check_commands(folder, block, output_of(list, i)) end
      local image = block.kind:match "^prompt here (.+)$"
      if image then check_session(folder, image, block.text) end
    end
  end)
  os.execute("rm -rf " .. folder)
  if not ok then error(problem, 0) end
end

-- ---- all of them ----

local function listings(path, list)
  for i, block in ipairs(list) do
    if block.kind == "lua" then
      it("the listing in line " .. block.line, function()
        check_listing(block, output_of(list, i))
      end)
    elseif block.kind:find "^prompt " and not block.kind:find "^prompt here " then
      it("the session in line " .. block.line, function()
        check_session(".", block.kind:match "^prompt (.+)$", block.text)
      end)
    elseif block.kind == "sh" and path == "README.md" then
      for line in block.text:gmatch "[^\n]+" do
        if is_command(line) then it(line, function() check_command(line, SECONDS) end) end
      end
    end
  end
end

local function linux_listings(list)
  for i, block in ipairs(list) do
    if block.kind == "lua linux" then
      it("the listing in line " .. block.line, function()
        local text = block.text:gsub("/boot/vmlinuz", linux.KERNEL)
        check_listing({ text = text }, output_of(list, i), LINUX_SECONDS)
      end)
    elseif block.kind == "sh linux" then
      for line in block.text:gmatch "[^\n]+" do
        if is_command(line) then
          it(line, function() check_command(line, LINUX_SECONDS, "exit\n") end)
        end
      end
    end
  end
end

describe("listings and commands of", function()
  for _, path in ipairs(documents()) do
    local text = assert(support.read_file(path))
    local list = blocks(text)
    if path == "README.md" then table.move(table_commands(text), 1, 20, #list + 1, list) end

    it(path .. ": fragments compile", function()
      for _, block in ipairs(list) do
        if block.kind == "lua fragment" or block.kind == "lua linux" then
          assert(load(block.text, "=line " .. block.line))
        end
      end
    end)

    describe(path .. ":", function()
      if not has_kind(list, "^lua$") and not has_kind(list, " here")
         and not has_kind(list, "^prompt ") or support.without_kvm(pending) then
        return
      end
      listings(path, list)
      if has_kind(list, " here") then
        it("what is done with its files", function() follow(list) end)
      end
    end)

    describe(path .. ", of Linux:", function()
      if not has_kind(list, " linux$") or linux.without_linux(pending) then return end
      linux_listings(list)
    end)
  end
end)

describe("docs", function()
  it("have links that lead somewhere", function()
    for _, path in ipairs(documents()) do
      local folder = path:match "^(.*/)" or ""
      for target in support.read_file(path):gmatch "%]%(([^)#%s]+)" do
        if not target:find "^%a+://" then
          assert(lfs.attributes(folder .. target), ("%s links to %s"):format(path, target))
        end
      end
    end
  end)

  ---The anchors of a page: its headings in lower case, blanks as hyphens, without punctuation.
  local function anchors(path)
    local found = {}
    for heading in ("\n" .. support.read_file(path)):gmatch "\n#+ ([^\n]+)" do
      local text = heading:gsub("%[([^%]]*)%]%b()", "%1"):lower():gsub("[^%w%s_-]", "")
      found[text:gsub(" ", "-")] = true
    end
    return found
  end

  it("have links to headings that are there", function()
    local count = 0
    for _, path in ipairs(documents()) do
      local folder = path:match "^(.*/)" or ""
      for target, anchor in support.read_file(path):gmatch "%]%(([^)#%s:]*)#([^)%s]+)%)" do
        local page = target == "" and path or folder .. target
        assert(anchors(page)[anchor], ("%s links to %s#%s"):format(path, target, anchor))
        count = count + 1
      end
    end
    assert(count > 50)
  end)

  it("README.md of docs/ leads to every page", function()
    local text = support.read_file "docs/README.md"
    for _, path in ipairs(documents()) do
      local page = path:match "^docs/([^/]+)$"
      if page and page ~= "README.md" then
        assert(text:find("](" .. page .. ")", 1, true), page .. " is missing")
      end
    end
  end)

  it("guests-and-scripts.md has every guest and script", function()
    local text = support.read_file "docs/guests-and-scripts.md"
    local count = 0
    for _, folder in ipairs{ "scripts", "guests/real", "guests/prot", "guests/long", "guests/boot",
                             "riscv/guests" } do
      for file in lfs.dir(folder) do
        local name, kind = file:match "^([%w_]+)%.([%a]+)$"
        local is_part = name and (name:find "^lib" or name == "start" or name == "traps")
        if name and (kind == "lua" or kind == "c" or kind == "S") and not is_part then
          local link = ("](../%s/%s) |"):format(folder, file)
          assert(text:find(link, 1, true), link .. " is missing")
          count = count + 1
        end
      end
    end
    assert(count > 80)
  end)

  it("lua-api.md has every method there is", function()
    local text = support.read_file "docs/lua-api.md"
    local kinds = { vm = "vm", cpu = "cpu", memory = "memory", ports = "ports", clock = "clock",
                    hypercalls = "hypercalls", console = "console", timer = "handle",
                    keyboard = "keyboard", handle = "handle", files = "policy",
                    snapshot = "snapshot", vmfiles = "files", cpuid = "cpuid",
                    worker = "worker" }
    for kind, object in pairs(kinds) do
      for name in pairs(core.methods("minikvm." .. kind)) do
        local found = text:find(object .. ":" .. name .. "(", 1, true)
          or kind == "memory" and text:find("`" .. name .. "`", 1, true)
        assert(found, ("%s:%s is not in docs/lua-api.md"):format(object, name))
      end
    end
    for name, value in pairs(kvm) do
      if type(value) == "function" then
        assert(text:find("kvm." .. name .. "(", 1, true), "kvm." .. name .. " is missing")
      end
    end
  end)

  it("abi.md has every number of src/base/abi.h", function()
    local text = support.read_file "docs/abi.md"
    for name, value in support.read_file("src/base/abi.h"):gmatch "#define (MK_[%w_]+) (%w+)" do
      local row = ("| `%s` | %s |"):format(name, value)
      assert(text:find(row, 1, true), "docs/abi.md has no row " .. row)
    end
  end)

  it("architecture.md names every file of src/ in the row of its room", function()
    local named, room = {}, nil
    for line in io.lines "docs/architecture.md" do
      local first, names = line:match "^| *([^|]-) *| ([^|]*)|"
      if first and first ~= "" then room = first:match "^`(.*)`$" or "." end
      for name in (first and names or ""):gmatch "`([%w_]+)`" do
        named[room .. "/" .. name] = true
      end
    end
    local count = 0
    for file in io.popen "cd src && find * -name '*.[ch]'":lines() do
      local name = file:gsub("%.[ch]$", "")
      assert(named[name] or named["./" .. name], "src/" .. file .. " is missing")
      count = count + 1
    end
    assert(count > 50)
  end)
end)
