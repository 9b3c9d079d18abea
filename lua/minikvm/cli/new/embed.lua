-- embed.lua - `minikvm new embed`: a C program whose Lua scripts have virtual machines.
return {
  { "Makefile", [==[
# Where minikvm is not installed, MINIKVM_CHECKOUT is a folder in which it was built.
ifdef MINIKVM_CHECKOUT
FLAGS = -I$(MINIKVM_CHECKOUT)/include $(shell pkg-config --cflags lua5.4) \
        $(realpath $(MINIKVM_CHECKOUT)/minikvm.so) $(shell pkg-config --libs lua5.4)
else
FLAGS = $(shell pkg-config --cflags --libs minikvm 2>/dev/null)
endif

NAME: main.c
	$(if $(strip $(FLAGS)),,$(error pkg-config finds no minikvm: make MINIKVM_CHECKOUT=FOLDER))
	gcc -Wall -Wextra -O2 -g -o $@ main.c $(FLAGS)

run: NAME
	./NAME script.lua

test: NAME
	test "$$(./NAME script.lua)" = "the guest says 42"

clean:
	rm -f NAME

.PHONY: run test clean
]==] },
  { "main.c", [==[
/* A program with a Lua of its own, which has the module "minikvm". It gives scripts one function,
 * answer(), whose result a guest gets. */
#include <lauxlib.h>
#include <lualib.h>
#include <minikvm.h>
#include <stdio.h>

static int answer(lua_State *L)
{
    lua_pushinteger(L, 42);
    return 1;
}

int main(int argc, char **argv)
{
    lua_State *L = luaL_newstate();
    int failed;

    if (!L || argc != 2) {
        fprintf(stderr, "usage: %s script.lua\n", argv[0]);
        return 2;
    }
    luaL_openlibs(L);
    luaL_requiref(L, "minikvm", luaopen_minikvm, 0);
    lua_pop(L, 1);
    lua_register(L, "answer", answer);
    failed = luaL_dofile(L, argv[1]);
    if (failed)
        fprintf(stderr, "%s: %s\n", argv[0], lua_tostring(L, -1));
    lua_close(L);
    return failed;
}
]==] },
  { "script.lua", [==[
local kvm = require "minikvm"

local vm <close> = assert(kvm.vm{ mode = "real", echo = false })
vm.ports:on(0x80, { read = function() return answer() end }) -- the program's function
vm:load{ bytes = "\xe4\x80\xe6\xf4" }                          -- in al, 0x80; out 0xf4, al
local _, info = vm:run{ deadline = 5 }
print("the guest says " .. info.code)
]==] },
}
