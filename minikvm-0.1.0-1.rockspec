rockspec_format = "3.0"
package = "minikvm"
version = "0.1.0-1"
source = {
  url = "git+file://.", -- for `luarocks make` in a checkout
}
description = {
  summary = "A scriptable virtual machine monitor on Linux KVM",
  license = "MIT",
}
supported_platforms = { "linux" }
dependencies = { "lua >= 5.4, < 5.5" }
external_dependencies = {
  CAPSTONE = { header = "capstone/capstone.h" },
  LIBSECCOMP = { header = "seccomp.h" },
  LIBDW = { header = "elfutils/libdw.h" },
  ZLIB = { header = "zlib.h" },
}
build = {
  type = "make",
  build_variables = { CFLAGS = "$(CFLAGS)" },
  build_target = "build/release/minikvm.so",
  install_pass = false,
  install = { lib = { minikvm = "build/release/minikvm.so" } },
}
