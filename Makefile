# SPDX-License-Identifier: MIT
# `make demo` shows it, `make test` proves it, `make help` lists the rest.
# SAN=address builds into build-address/; CC=clang into build-clang/; V=1 shows the commands.
# A new source, test, bench or example file needs no edit here.

VERSION := 0.1.0
SOMAJOR := 0
B       := build$(if $(filter clang,$(CC)),-clang)$(if $(SAN),-$(subst $(comma),-,$(SAN)))
comma   := ,
Q       := $(if $(V),,@)
say      = $(if $(V),,@printf '  %-7s %s\n' $(1) $(patsubst $B/%,%,$@);)

LAYERS  := alloc runtime io
SRCS    := $(wildcard $(LAYERS:%=%/*.c))
ASMS    := $(wildcard $(LAYERS:%=%/*.S))
HEADERS := $(LAYERS:%=$B/include/weir/%.h) $B/include/weir/weir.h
OBJS    := $(SRCS:%.c=$B/%.o) $(ASMS:%.S=$B/%.o)

CFLAGS  ?= -O2 -g
WARN    := -Wall -Wextra -Wshadow -Wstrict-prototypes -Wmissing-prototypes -Wpointer-arith -Wvla \
           $(if $(CI),-Werror)
BASE    := -std=gnu11 $(CFLAGS) $(WARN) $(if $(SAN),-fsanitize=$(SAN)) -fno-omit-frame-pointer -pthread -MMD -MP
LIBFLAGS := $(BASE) -fPIC -fvisibility=hidden -ftls-model=initial-exec -I. -I$B/include
APPFLAGS := $(BASE) -I$B/include
LDLIBS  := -luring

all: lib  ## the libraries
lib: layers $B/libweir.a $B/libweir.so

$B/include/weir/weir.h:
	@mkdir -p $(@D)
	@ln -sf ../../../io/weir.h $@
$B/include/weir/%.h:
	@mkdir -p $(@D)
	@ln -sf ../../../$*/$*.h $@

$B/%.o: %.c | $(HEADERS)
	@mkdir -p $(@D)
	$(call say,CC) $(CC) $(LIBFLAGS) -c $< -o $@
$B/%.o: %.S
	@mkdir -p $(@D)
	$(call say,AS) $(CC) $(LIBFLAGS) -c $< -o $@
$B/libweir.a: $(OBJS)
	$(call say,AR) rm -f $@; $(AR) rcs $@ $^
$B/libweir.so.$(VERSION): $(OBJS)
	$(call say,LD) $(CC) $(LIBFLAGS) -shared -Wl,-z,defs -Wl,-soname,libweir.so.$(SOMAJOR) $^ $(LDLIBS) -o $@
$B/libweir.so: $B/libweir.so.$(VERSION)
	@ln -sf libweir.so.$(VERSION) $B/libweir.so.$(SOMAJOR)
	@ln -sf libweir.so.$(SOMAJOR) $@

layers: $(HEADERS)  ## alloc <- runtime <- io, and nothing back
	$(Q)! grep -nE '#include *[<"](weir/)?(runtime|io)[/.]' alloc/*.[chS]
	$(Q)! grep -nE '#include *[<"](weir/)?io[/.]' runtime/*.[chS]

help:  ## this list
	@sed -n 's/^\([a-z-]*\):[^#]*## \(.*\)/  \1\t\2/p' $(MAKEFILE_LIST)
clean:  ## removes what was built
	$(Q)rm -rf build build-*

.PHONY: all lib layers help clean
-include $(OBJS:.o=.d)
