rockspec_format = "3.0"
package = "minikvm"
version = "1.0.0-1"
source = {
  url = "git+file://.", -- the checkout, for `luarocks make`; tools/dist fills in a release's archive
}
description = {
  summary = "Virtual machines on Linux KVM, scripted in Lua",
  detailed = [[
    A small virtual machine monitor whose user interface is a programming language: it boots kernels
    of 16, 32 and 64 bits and Linux, answers any port or address by a Lua function, and branches as
    many tests as you like from a machine that has booted once. The module, and the program minikvm,
    which is a Lua interpreter with the module built in and runs test suites.]],
  homepage = "https://minikvm.example", -- a release's own: tools/dist fills it in
  license = "MIT",
  labels = { "kvm", "virtualization", "testing", "hardware", "linux" },
}
supported_platforms = { "linux" }
dependencies = { "lua >= 5.4, < 5.5" }
external_dependencies = {
  CAPSTONE = { header = "capstone/capstone.h" },
  LIBEDIT = { header = "editline/readline.h" },
  LIBSECCOMP = { header = "seccomp.h" },
  LIBDW = { header = "elfutils/libdw.h" },
  ZLIB = { header = "zlib.h" },
}
build = {
  type = "make",
  build_variables = { CFLAGS = "$(CFLAGS)" },
  build_target = "build/release/minikvm.so build/release/minikvm",
  install_pass = false,
  install = {
    lib = { minikvm = "build/release/minikvm.so" },
    bin = { minikvm = "build/release/minikvm" },
  },
  copy_directories = { "docs", "types" },
}
test_dependencies = { "busted >= 2.0", "luafilesystem >= 1.8" }
test = { type = "command", command = "tools/test" }
