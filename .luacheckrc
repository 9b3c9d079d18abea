std = "lua54"
max_line_length = 100
files["spec/"] = { std = "+busted" }
files["lua/minikvm/cli/safe_script.lua"] = { globals = { "io", "os", "package", "string" } } -- it takes them away
files["spec/c/embed.lua"] = { read_globals = { "arm", "disarm", "ok" } } -- of test_embed.c
files["spec/fuzz/"] = { read_globals = { "load_program", "set_traps" } } -- of its lua.c
