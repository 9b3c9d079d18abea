# minikvm - build, test, install. `make help` lists the targets.

VERSION := $(shell sed -n 's/^.define MINIKVM_VERSION "\(.*\)"/\1/p' include/minikvm.h)
BUILD ?= release
# WEAK=0 leaves out src/x86/weak, what stands in for a KVM that cannot run all of a guest.
WEAK ?= 1
B := build/$(BUILD)$(if $(filter 0,$(WEAK)),-stock)
PREFIX ?= /usr/local
MAKEFLAGS += --no-builtin-rules --no-print-directory

LUA_PC := $(firstword $(foreach p,lua5.4 lua-5.4 lua54 lua,\
	$(if $(shell pkg-config --exists '$(p) >= 5.4' '$(p) < 5.5' 2>/dev/null && echo yes),$(p))))
LUA_CFLAGS = $(if $(LUA_PC),$(shell pkg-config --cflags $(LUA_PC)))
LUA_LIBS = $(if $(LUA_PC),$(shell pkg-config --libs $(LUA_PC)))
# The program takes Lua in, as lua5.4 itself does, where there is an archive of it: calls into a shared
# library cost a handler 3 % more. Modules find its functions in the program either way.
LUA_ARCHIVE = $(filter /%,$(shell $(CC) -print-file-name=lib$(patsubst -l%,%,$(firstword $(filter -llua%,$(LUA_LIBS)))).a 2>/dev/null))
LUA_LINK = $(if $(LUA_ARCHIVE),$(LUA_ARCHIVE) -lm -ldl,$(LUA_LIBS))
CAPSTONE_CFLAGS = $(shell pkg-config --cflags capstone)
LIBDW_CFLAGS = $(shell pkg-config --cflags libdw)
SECCOMP_CFLAGS = $(shell pkg-config --cflags libseccomp)
SECCOMP_LIBS = $(shell pkg-config --libs libseccomp)
ZLIB_CFLAGS = $(shell pkg-config --cflags zlib)
ZLIB_LIBS = $(shell pkg-config --libs zlib)
# The program takes zlib in, too, a library less to load at its start. Its segments share pages for
# the same reason.
ZLIB_ARCHIVE = $(filter /%,$(shell $(CC) -print-file-name=libz.a 2>/dev/null))
LUA ?= $(firstword $(foreach l,lua5.4 lua54 lua,$(if $(shell command -v $(l)),$(l))))

CC ?= gcc
ifeq ($(BUILD),fuzz) # libFuzzer is clang's
ifeq ($(findstring clang,$(CC)),)
override CC := clang
endif
endif
WARN := -Wall -Wextra -Wshadow -Wundef -Wwrite-strings -Wmissing-prototypes -Wvla $(if $(CI),-Werror)
OPT_release := -O2 -g -flto=auto -fno-plt
OPT_asan := -O1 -g -fsanitize=address,undefined -fno-omit-frame-pointer
OPT_tsan := -O1 -g -fsanitize=thread
OPT_cov := -O0 -g --coverage
OPT_fuzz := -Wno-gnu-variable-sized-type-not-at-end -Wno-missing-field-initializers -O1 -g -fsanitize=fuzzer-no-link,address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer
OPT := $(OPT_$(BUILD))
ifeq ($(OPT),)
$(error BUILD=$(BUILD): there are release, asan, tsan, cov and fuzz)
endif
CPPFLAGS += -D_GNU_SOURCE -Iinclude -Isrc -DMK_VERSION='"$(VERSION)"'
ALL_CFLAGS = -std=gnu11 -fPIC -fvisibility=hidden -pthread $(WARN) $(OPT) $(CFLAGS)

# A folder of src/ is a room (docs/architecture.md). Only src/lua and the program know Lua.
PROGRAM_SRC := $(wildcard src/*.c)
GLUE_SRC := $(wildcard src/lua/*.c)
LEFT_OUT := $(if $(filter 0,$(WEAK)),$(filter-out %/none.c,$(wildcard src/x86/weak/*.c)),src/x86/weak/none.c)
CORE_SRC := $(filter-out $(GLUE_SRC) $(PROGRAM_SRC) $(LEFT_OUT),$(sort $(shell find src -name "*.c")))
obj = $(patsubst src/%.c,$(B)/%.o,$(1))
MODULE_OBJ := $(call obj,$(CORE_SRC) $(GLUE_SRC))
LUA_PARTS := $(sort $(shell find lua/minikvm -name "*.lua")) $(B)/abi.lua $(B)/cli/argparse.lua \
	$(B)/linux/program.lua $(B)/cli/api.lua
part = $(subst /,.,$(patsubst %/init,%,$(patsubst %.lua,%,$(patsubst lua/minikvm/%,%,$(patsubst $(B)/%,%,$(1))))))

.PHONY: all demo test bench lint format install uninstall deb clean help deps guests os-1k riscv riscv-build
.DELETE_ON_ERROR:

# What is for RISC-V is built where there is a compiler for it; `make riscv` installs one.
RISCV := $(shell command -v riscv64-linux-gnu-gcc)

TESTS := $(patsubst spec/c/%.c,$(B)/%,$(wildcard spec/c/*.c)) $(B)/test_fuzz

all: $(B)/minikvm $(B)/minikvm.so minikvm minikvm.so guests os-1k $(if $(RISCV),riscv-build) ## build everything

help: ## this list
	@sed -n 's/^\([a-z0-9-]*\):.*## \(.*\)/  make \1\t\2/p' Makefile | expand -t 20
	@echo "  BUILD=release|asan|tsan|cov chooses the build folder and its flags"
	@echo "  WEAK=0 leaves out what helps a KVM that is neither Intel's nor AMD's"

deps: ## install the packages that are missing (Debian), or name them
	@./tools/deps

demo: ## build, then run four guests in parallel
	@./tools/deps build
	@$(MAKE) all
	@./minikvm scripts/multi_vm.lua

test: deps ## build, then run every test
	@$(MAKE) all $(TESTS) $(B)/faults.so
	@BUILD=$(BUILD) ./tools/test

.PHONY: faults
faults: deps ## faults, made on purpose, under a sanitizer: every allocation, ioctl, … fails once; and kill -9
	@$(MAKE) BUILD=asan build/asan/minikvm build/asan/faults.so guests
	@$(LUA) tools/faults $(FAULTS)

# Stands before the C library, and lets calls of the program's fail (LD_PRELOAD). Not of the product.
$(B)/faults.so: tools/faults.c Makefile | $(B)/deps
	$(CC) -std=gnu11 -O1 -g -fPIC -fvisibility=hidden -fno-omit-frame-pointer -fno-builtin -pthread $(WARN) \
		$(CPPFLAGS) $(LUA_CFLAGS) -shared -o $@ $<

.PHONY: test-stock test-vmx
test-stock: deps ## the specs that run guests in an emulated machine with a stock KVM of AMD (kvm_amd)
	@$(MAKE) all $(TESTS)
	@./tools/linux-kernel >/dev/null
	@BUILD=$(BUILD) ./tools/stock

test-vmx: deps ## guests, modes and interrupts in an emulated machine with a stock KVM of Intel (kvm_intel)
	@$(MAKE) all
	@BUILD=$(BUILD) ./tools/vmx

riscv: ## a hypervisor for RISC-V and two guests of its, under QEMU; Ctrl-A x leaves
	@./tools/deps riscv
	@$(MAKE) -s -C riscv run

.PHONY: docs
docs: ## the documentation as HTML, with search: build/docs/html
	@./tools/deps docs
	@sphinx-build -q -W --keep-going -b html -c docs -d build/docs/doctrees . build/docs/html
	@echo "build/docs/html/index.html"

.PHONY: fuzz fuzz-build
fuzz-build: deps ## the targets of spec/fuzz under libFuzzer, with sanitizers (clang)
	@./tools/deps fuzz
	@$(MAKE) -s BUILD=fuzz build/fuzz/fuzz/all build/fuzz/minikvm

fuzz: fuzz-build ## tries each of them with bytes of any kind: TIME=60 (seconds) TARGETS="..." JOBS=2 RANDOM_GUESTS=10000
	@./tools/fuzz

bench: deps ## measure, as ratios in one run
	@$(MAKE) all
	@BUILD=$(BUILD) ./tools/bench

$(B)/bench/%: bench/%.c Makefile
	@mkdir -p $(@D)
	$(CC) $(ALL_CFLAGS) $(CPPFLAGS) -o $@ $<

# --- the program and the module ---

# The links at the root serve whoever works in the checkout; they follow the last build.
minikvm minikvm.so: %: $(B)/% FORCE
	@[ "$$(readlink $@)" = $< ] || ln -sfn $< $@
FORCE:

$(B)/minikvm: $(call obj,$(PROGRAM_SRC)) $(MODULE_OBJ) $(B)/$(if $(LUA_ARCHIVE),embed_program,embed).o
	$(CC) $(ALL_CFLAGS) -Wl,-E -Wl,-z,noseparate-code -o $@ $^ $(LUA_LINK) $(or $(ZLIB_ARCHIVE:%=-Wl,--exclude-libs,libz.a %),$(ZLIB_LIBS)) $(LDFLAGS)

# Not linked against liblua: a second copy of it in the process would not share its state.
# Not unloaded when a state is closed: its allocator and its threads are called after that.
# MODULE_LDFLAGS is for packages, which give it a name for the linker.
$(B)/minikvm.so: $(MODULE_OBJ) $(B)/embed.o
	$(CC) $(ALL_CFLAGS) -shared -Wl,-z,nodelete -o $@ $^ $(ZLIB_LIBS) $(LDFLAGS) $(MODULE_LDFLAGS)

$(call obj,$(PROGRAM_SRC) $(GLUE_SRC)): USES = $(LUA_CFLAGS)
$(patsubst %,$(B)/lua/%.o,disasm blocks blocks_find): USES = $(LUA_CFLAGS) $(CAPSTONE_CFLAGS)
$(patsubst %,$(B)/lua/%.o,dwarf dwarf_lines dwarf_dies dwarf_frames): USES = $(LUA_CFLAGS) $(LIBDW_CFLAGS)
$(B)/lua/zlib.o: USES = $(LUA_CFLAGS) $(ZLIB_CFLAGS)

# What the build needs is looked for once in a build folder.
$(B)/deps: tools/deps
	@./tools/deps --check
	@mkdir -p $(@D)
	@touch $@

$(B)/%.o: src/%.c Makefile | $(B)/deps
	@mkdir -p $(@D)
	$(CC) $(ALL_CFLAGS) $(CPPFLAGS) $(USES) -MMD -MP -c -o $@ $<

$(B):
	@mkdir -p $@

# A program that embeds Lua and the module.
$(B)/test_embed: spec/c/test_embed.c $(MODULE_OBJ) $(B)/embed.o Makefile
	$(CC) $(ALL_CFLAGS) $(CPPFLAGS) $(LUA_CFLAGS) -Ispec/c -MMD -MP -o $@ $< $(MODULE_OBJ) $(B)/embed.o $(LUA_LINK) $(ZLIB_LIBS) $(LDFLAGS)

# The seccomp filters of src/jail, out of its table.
$(B)/filters: tools/filters.c src/jail/calls.c src/jail/calls.h src/jail/jail.h Makefile | $(B)/deps
	$(CC) $(ALL_CFLAGS) $(CPPFLAGS) $(SECCOMP_CFLAGS) -o $@ tools/filters.c src/jail/calls.c $(SECCOMP_LIBS)

$(B)/jail/filters.h: $(B)/filters
	@mkdir -p $(@D)
	@$< > $@

$(B)/jail/filter.o: $(B)/jail/filters.h
$(B)/jail/filter.o: USES = -I$(B)/jail

# Unit tests of the core in C: no Lua, and most need no KVM.
$(filter-out $(B)/test_embed $(B)/test_fuzz,$(TESTS)): $(B)/%: spec/c/%.c $(call obj,$(CORE_SRC)) Makefile
	$(CC) $(ALL_CFLAGS) $(CPPFLAGS) -Ispec/c -MMD -MP -o $@ $< $(call obj,$(CORE_SRC)) $(ZLIB_LIBS) $(LDFLAGS)

# --- what is tried with bytes of any kind (spec/fuzz): under libFuzzer, and with the inputs that are kept ---

FUZZ_SRC := $(filter-out spec/fuzz/engine.c spec/fuzz/replay.c,$(wildcard spec/fuzz/*.c))
FUZZ_TARGETS := $(sort $(shell sed -n 's/^FUZZ_TARGET.\([a-z0-9_]*\),.*/\1/p' $(FUZZ_SRC)))
fuzz_obj = $(patsubst spec/fuzz/%.c,$(B)/fuzz/%.o,$(FUZZ_SRC) spec/fuzz/$(1).c)
fuzz_link = $(CC) $(ALL_CFLAGS) $(1) -Wl,-E -o $@ $(filter %.o,$^) $(LUA_LINK) $(ZLIB_LIBS) $(LDFLAGS)

$(B)/fuzz/%.o: spec/fuzz/%.c Makefile | $(B)/deps
	@mkdir -p $(@D)
	$(CC) $(ALL_CFLAGS) $(CPPFLAGS) $(LUA_CFLAGS) -Ispec/fuzz -Ispec/c -MMD -MP -c -o $@ $<

$(B)/fuzz/all: $(call fuzz_obj,engine) $(MODULE_OBJ) $(B)/embed.o
	@$(call fuzz_link,-fsanitize=fuzzer)
	@for t in $(FUZZ_TARGETS); do ln -sf all $(@D)/$$t; done

$(B)/test_fuzz: $(call fuzz_obj,replay) $(MODULE_OBJ) $(B)/embed.o
	$(call fuzz_link)

# The Lua parts with a table of their names: in the module byte for byte, because the Lua that loads it
# may be another one; in the program as bytecode of the Lua that it takes in, where it does.
embedded = echo '.section .rodata'; \
	$(foreach f,$(LUA_PARTS),f=$(f); n=$(call part,$(f)); echo "name_$$n: .asciz \"$$n\""; \
	echo "start_$$n: .incbin \"$(1)\""; echo "end_$$n: .byte 0";) \
	echo '.section .data.rel.ro,"aw"'; echo '.balign 8'; \
	echo '.globl mk_embedded'; echo '.hidden mk_embedded'; echo 'mk_embedded:'; \
	$(foreach f,$(LUA_PARTS),n=$(call part,$(f)); echo ".quad name_$$n, start_$$n, end_$$n";) \
	echo '.quad 0, 0, 0'; echo '.section .note.GNU-stack,"",@progbits'

# In the module require of a stock Lua looks for luaopen_minikvm_NAME: one function for all parts.
openers = echo '.text'; echo '.hidden mk_lua_load_part'; \
	$(foreach f,$(LUA_PARTS),n=luaopen_minikvm_$(subst .,_,$(call part,$(f))); \
	echo ".globl $$n"; echo ".type $$n, @function"; echo "$$n:";) \
	echo 'jmp mk_lua_load_part'

$(B)/embed.S: $(LUA_PARTS) Makefile | $(B)
	@{ $(call embedded,$$f); $(call openers); } > $@

# What a start loads of the command line goes without the lines and names that messages would have.
STRIPPED := cli.interpreter cli cli.args cli.kinds cli.run cli.run_options cli.say

$(B)/embed_program.S: $(LUA_PARTS) $(B)/bytecode Makefile
	@mkdir -p $(B)/parts
	@$(foreach f,$(LUA_PARTS),$(B)/bytecode $(f) $(call part,$(f)) $(B)/parts/$(call part,$(f)) \
		$(filter $(STRIPPED),$(call part,$(f))) &&) \
	{ $(call embedded,$(B)/parts/$$n); } > $@

$(B)/bytecode: tools/bytecode.c Makefile | $(B)/deps
	$(CC) $(ALL_CFLAGS) $(LUA_CFLAGS) -o $@ $< $(LUA_LINK)

# A part may be called linux, which gcc defines as a macro.
$(B)/embed.o $(B)/embed_program.o: $(B)/%.o: $(B)/%.S
	$(CC) -Ulinux -c -o $@ $<

# The command line's parser (Debian: lua-argparse) becomes a part, so that no other file is needed.
ARGPARSE = $(shell $(LUA) -e 'print(package.searchpath("argparse", package.path))')
$(B)/cli/argparse.lua: | $(B)/deps
	@mkdir -p $(@D)
	@cp "$(ARGPARSE)" $@

# What `help` at the prompt shows.
$(B)/cli/api.lua: docs/lua-api.md | $(B)
	@mkdir -p $(@D)
	@{ echo '-- made from docs/lua-api.md'; echo 'return [==['; cat $<; echo ']==]'; } > $@

# The same numbers for Lua as for C and assembly.
$(B)/abi.lua: src/base/abi.h Makefile | $(B)
	@{ echo '-- made from src/base/abi.h'; echo 'return require("minikvm.strict").module({'; \
	sed -n 's/^#define MK_\([A-Z0-9_]*\) \([0-9a-fx]*\).*/  \1 = \2,/p' $<; echo '}, "minikvm.abi")'; } > $@

# The agent of Linux guests, as a part that returns its bytes.
guests/build/agent/agent: $(wildcard guests/agent/*) guests/Makefile src/base/abi.h
	@$(MAKE) -s -C guests agent

$(B)/linux/program.lua: guests/build/agent/agent
	@mkdir -p $(@D)
	@{ echo "-- made from guests/agent"; printf 'return "'; \
	od -An -v -tx1 $< | tr -d '\n' | sed 's/ /\\x/g'; echo '"'; } > $@

-include $(wildcard $(B)/*.d $(B)/*/*.d $(B)/*/*/*.d)

# --- guests ---

guests:
	@$(MAKE) -s -C guests

os-1k:
	@$(MAKE) -s -C os-1k

riscv-build:
	@$(MAKE) -s -C riscv

# --- care ---

lint: ## luacheck, layer check, compiler warnings as errors
	@./tools/lint

format: ## clang-format (Debian 12's, 14) over src, include, bench, spec/c and riscv
	clang-format -i $$(find src include bench spec/c spec/fuzz riscv -name '*.[ch]')

install uninstall: export PREFIX := $(PREFIX)
install uninstall: export DESTDIR := $(DESTDIR)

install: all ## program, module, header, guest kit, manuals, completions, scripts and docs below PREFIX
	@B=$(B) VERSION=$(VERSION) LUA_PC=$(LUA_PC) ./tools/install

uninstall: ## remove what `make install` put below PREFIX
	@B=$(B) ./tools/install --remove

deb: ## Debian packages of what is committed or changed, checked by lintian, in build/deb
	@./tools/deb

clean: ## remove what was built
	rm -rf build minikvm minikvm.so
	@$(MAKE) -s -C guests clean
	@$(MAKE) -s -C os-1k clean
	@$(MAKE) -s -C riscv clean

