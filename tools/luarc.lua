-- Prints a .luarc.json for a folder with the definitions in types/: tools/luarc.lua FOLDER
require "minikvm"
io.write(require("minikvm.cli.new").luarc(assert(arg[1], "tools/luarc.lua FOLDER")))
