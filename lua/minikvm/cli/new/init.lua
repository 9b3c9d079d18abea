-- new/init.lua - minikvm new: a small folder that builds, runs and tests at once, to begin from.
--
-- Each kind is a file of this folder that returns { { name, text }, … }; NAME in both becomes the
-- project's. A folder that cannot be written whole is taken away again.

local args = require "minikvm.cli.args"

local M = {}

local FAILED <const> = 1

local KINDS <const> = { "kernel16", "kernel32", "kernel64", "device", "suite", "embed" }

M.spec = {
  program = "minikvm new",
  summary = "Makes a small folder that builds, runs and tests at once, to begin from.",
  options = {},
  rest = { key = "words", value = "words", names = { "kind", "name" }, min = 2, max = 2,
           help = "the kind: kernel16, kernel32 (C, Multiboot2) or kernel64 (C), a kernel with"
             .. " tests; device, one in Lua with a driver and tests; suite, tests for an image;"
             .. " embed, a C program with virtual machines. Then the name, which becomes the"
             .. " folder's" },
  notes = "In the folder: make, make run, make test. They call minikvm, or what MINIKVM names.",
}

local function contains(list, word)
  for _, one in ipairs(list) do
    if one == word then return true end
  end
end

---nil, or what is wrong with the words.
local function check(kind, name)
  if not contains(KINDS, kind) then
    local hint = require("minikvm.options").hint(kind, KINDS)
    return ("no kind %q%s; there are %s"):format(kind, hint, table.concat(KINDS, ", "))
  elseif not name:find "^%a[%w_]*$" then
    return ("%q is no name for a project: letters, digits and _, a letter first"):format(name)
  end
end

---Where the definitions for editors are, by the program: beside it in an installed copy, or at the
---root of a checkout; nil when they are not there.
---@return string?
local function types_folder()
  local lfs = require "lfs"
  local program = lfs.symlinkattributes("/proc/self/exe", "target") or ""
  for _, up in ipairs{ "/[^/]*/[^/]*$", "/[^/]*/[^/]*/[^/]*$" } do -- bin/minikvm, build/x/minikvm
    local root = program:gsub(up, "")
    for _, below in ipairs{ "/share/minikvm/types", "/types" } do
      if lfs.attributes(root .. below .. "/minikvm.lua", "mode") == "file" then
        return root .. below
      end
    end
  end
end

---What lua-language-server is told (.luarc.json): Lua's version, and where the definitions of this
---API, of Busted and of its assertions are.
---@param types string?  their folder
---@return string
function M.luarc(types)
  local json = require "minikvm.json"
  local library = { types, types and "${3rd}/busted/library", types and "${3rd}/luassert/library" }
  for i, path in ipairs(library) do library[i] = "    " .. json.encode(path) end
  return ([[{
  "runtime.version": "Lua 5.4",
  "workspace.checkThirdParty": false,
  "workspace.library": [
%s
  ]
}
]]):format(table.concat(library, ",\n"))
end

---Makes the folder `name` of a kind; nil and the reason when that fails, and nothing is left then.
---@return boolean? ok
---@return string? why
function M.make(kind, name)
  local lfs, missing = require("minikvm.folder").lfs()
  if not lfs then return nil, missing end
  local made, why = lfs.mkdir(name)
  if not made then
    return nil, ("cannot make the folder %s: %s"):format(name, why)
  end
  local written = {}
  local own = require("minikvm.cli.new." .. kind)
  local files = table.move(own, 1, #own, 2, { { ".luarc.json", M.luarc(types_folder()) } })
  for _, file in ipairs(files) do
    local path = name .. "/" .. file[1]:gsub("NAME", name)
    local text = file[1]:find "%.bin$" and file[2] or file[2]:gsub("%f[%w]NAME%f[%W]", name)
    written[#written + 1] = path
    local ok, reason = require("minikvm.core").write_file(path, text)
    if not ok then
      for _, one in ipairs(written) do os.remove(one) end
      lfs.rmdir(name)
      return nil, reason
    end
  end
  return true
end

---@param argv string[]
---@return integer status
function M.main(argv)
  local opts, status = args.handle(M.spec, argv)
  if not opts then return status end
  local kind, name = opts.words[1], opts.words[2]
  local wrong = check(kind, name)
  if wrong then return args.complain(M.spec, wrong) end
  local ok, why = M.make(kind, name)
  if not ok then
    io.stderr:write("minikvm new: ", why, "\n")
    return FAILED
  end
  print(("%s/ is there: cd %s && make test"):format(name, name))
  return 0
end

return M
