/* minikvm.h - for C programs that embed Lua 5.4 and want its scripts to have virtual machines.
 *
 *     #include <lauxlib.h>
 *     #include <lualib.h>
 *     #include <minikvm.h>
 *
 *     int main(void)
 *     {
 *         lua_State *L = luaL_newstate();
 *         luaL_openlibs(L);
 *         luaL_requiref(L, "minikvm", luaopen_minikvm, 0);
 *         lua_pop(L, 1);
 *         int failed = luaL_dostring(L, "local kvm = require 'minikvm'; print(kvm.probe().host)");
 *         lua_close(L);
 *         return failed;
 *     }
 *
 * A program that need not load the module at once puts luaopen_minikvm into package.preload. The
 * module starts threads only for VMs that a script starts; Lua is entered only inside calls that
 * the script makes. It opens no descriptor and installs no signal handler unasked. */
#ifndef MINIKVM_H
#define MINIKVM_H

#include <lua.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Pushes the module's table; raises a Lua error when Lua's version or build does not fit. */
__attribute__((visibility("default"))) int luaopen_minikvm(lua_State *L);

/* The same for require "minikvm.test"; needed only when that may come before require "minikvm". */
__attribute__((visibility("default"))) int luaopen_minikvm_test(lua_State *L);

#ifdef __cplusplus
}
#endif

#endif
