std = "lua54"
max_line_length = 100
files["spec/"] = { std = "+busted" }
files["lua/minikvm/cli/safe.lua"] = { globals = { "io", "os", "package" } } -- it takes them away
