# guest.mk - flags and rules for guests, to include in a Makefile of one's own:
#
#   GUESTS16 = boot.bin                # of boot.S, which includes real.inc
#   GUESTS32 = kernel.bin              # of kernel.S, which includes prot.inc
#   GUESTS64 = hello.bin               # of hello.c, which includes minikvm.h and has a main()
#   COVERED = hello.bin                # those of them that record which of their blocks ran
#   include $(shell pkg-config --variable=guest_mk minikvm)
#
#   all: $(GUESTS)
#
# GUESTS are all three. What is built on the way stays below build/: build/hello.elf has the symbols
# and line numbers of hello.bin. docs/writing-a-guest.md

# The default goal stays the one of the Makefile that includes this.
guest_mk_goal := $(.DEFAULT_GOAL)
GUEST_KIT := $(patsubst %/,%,$(dir $(lastword $(MAKEFILE_LIST))))

# The assembly is written for GNU as; CC may be a compiler that brings another assembler.
GUEST_CC ?= gcc
OBJCOPY ?= objcopy
GUEST_INCLUDE := -I$(firstword $(wildcard $(GUEST_KIT)/include) $(GUEST_KIT)/../src/base)
GUEST_FLAGS := -m32 -Wa,--fatal-warnings $(GUEST_INCLUDE) -MMD -MP

LONG_WARN := -Wall -Wextra -Wshadow -Wundef -Wwrite-strings -Wmissing-prototypes -Wvla
LONG_FLAGS := -std=gnu11 -m64 -O2 -g -masm=intel -ffreestanding -fno-builtin -fno-pic -mcmodel=small \
              -mno-red-zone -fno-stack-protector -fcf-protection=none \
              -fno-asynchronous-unwind-tables -ffunction-sections -fdata-sections \
              -Wa,--fatal-warnings $(LONG_WARN) $(GUEST_INCLUDE) -MMD -MP
LONG_LD := $(LD) -m elf_x86_64 -n -nostdlib -static --gc-sections -z noexecstack \
           --no-warn-rwx-segments --build-id=none

GUESTS := $(GUESTS16) $(GUESTS32) $(GUESTS64)

$(GUESTS16:%.bin=build/%.elf): build/%.elf: %.S
	@mkdir -p $(@D)
	$(GUEST_CC) $(GUEST_FLAGS) -I$(GUEST_KIT)/real -c -o build/$*.o $<
	$(LD) -m elf_i386 -n -Ttext 0 -e 0 -o $@ build/$*.o

$(GUESTS32:%.bin=build/%.elf): build/%.elf: %.S
	@mkdir -p $(@D)
	$(GUEST_CC) $(GUEST_FLAGS) -I$(GUEST_KIT)/prot -c -o build/$*.o $<
	$(LD) -m elf_i386 -n -T $(GUEST_KIT)/prot/prot.lds --no-warn-rwx-segments -o $@ build/$*.o

GUEST_LIB := $(sort $(notdir $(basename $(wildcard $(GUEST_KIT)/long/lib*.c)))) start traps
ifneq ($(GUESTS64),)
build/kit/%.o: $(GUEST_KIT)/long/%.c
	@mkdir -p $(@D)
	$(GUEST_CC) $(LONG_FLAGS) -mgeneral-regs-only -c -o $@ $<

build/kit/%.o: $(GUEST_KIT)/long/%.S
	@mkdir -p $(@D)
	$(GUEST_CC) $(LONG_FLAGS) -c -o $@ $<

$(COVERED:%.bin=build/%.o): LONG_FLAGS += -fsanitize-coverage=trace-pc

$(GUESTS64:%.bin=build/%.o): build/%.o: %.c
	@mkdir -p $(@D)
	$(GUEST_CC) $(LONG_FLAGS) -I$(GUEST_KIT)/long -mgeneral-regs-only -c -o $@ $<

$(GUESTS64:%.bin=build/%.elf): build/%.elf: build/%.o $(GUEST_LIB:%=build/kit/%.o)
	$(LONG_LD) -T $(GUEST_KIT)/long/guest.lds -o $@ $^
endif

ifneq ($(strip $(GUESTS)),)
$(GUESTS): %.bin: build/%.elf
	$(OBJCOPY) -O binary -R .note.gnu.property $< $@
-include $(wildcard build/*.d build/kit/*.d)
endif
.DEFAULT_GOAL := $(guest_mk_goal)
