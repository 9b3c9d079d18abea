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
 * the script makes, on the thread that called or, for handlers of VMs that were started, on theirs;
 * never in parallel, and an error that Lua raises there ends there. It opens no descriptor, and
 * replaces nothing of Lua's own libraries. From the first VM on one signal has a handler
 * (SA_ONSTACK), which minikvm_signal() chooses: it is unblocked in a thread while that runs a VM.
 * Threads of VMs have the signal mask of the thread that starts them. */
#ifndef MINIKVM_H
#define MINIKVM_H

#include <lua.h>

/* The version of this header; the library's own is kvm._VERSION. Semantic versioning 2.0. */
#define MINIKVM_VERSION "1.0.0"
#define MINIKVM_VERSION_MAJOR 1
#define MINIKVM_VERSION_MINOR 0
#define MINIKVM_VERSION_PATCH 0
/* For #if: 10203 is version 1.2.3. */
#define MINIKVM_VERSION_NUMBER                                                                     \
    (MINIKVM_VERSION_MAJOR * 10000 + MINIKVM_VERSION_MINOR * 100 + MINIKVM_VERSION_PATCH)

#ifdef __cplusplus
extern "C" {
#endif

/* Pushes the module's table; raises a Lua error when Lua's version or build does not fit. */
__attribute__((visibility("default"))) int luaopen_minikvm(lua_State *L);

/* The same for require "minikvm.test"; needed only when that may come before require "minikvm". The
 * module has such a function for each of its parts that are written in Lua. */
__attribute__((visibility("default"))) int luaopen_minikvm_test(lua_State *L);

/* Chooses the signal that interrupts guests (a kick), for the whole process and before the first VM
 * is made; it is SIGRTMIN + 6 otherwise. 0, EINVAL for one that cannot be it, or EBUSY: the program
 * has a handler for it, or VMs use another one already. */
__attribute__((visibility("default"))) int minikvm_signal(int number);

#ifdef __cplusplus
}
#endif

#endif
