# SPDX-License-Identifier: MIT
# `make demo` shows it, `make test` proves it, `make help` lists the rest.
# SAN=address,undefined builds into build-address-undefined/, CC=clang into build-clang/; V=1 shows the
# commands. A new source, test, bench or example file needs no edit here.

comma   := ,
ARCH    := $(firstword $(subst -, ,$(shell $(CC) -dumpmachine 2>/dev/null || uname -m)))
VERSION := $(shell sed -n 's/^.define WEIR_VERSION "\(.*\)"/\1/p' runtime/runtime.h)
SONAME  := libweir.so.$(firstword $(subst ., ,$(VERSION)))
B       := build$(if $(findstring clang,$(CC)),-clang)$(if $(SAN),-$(subst $(comma),-,$(SAN)))
PREFIX  ?= /usr/local
LIBDIR  ?= $(PREFIX)/lib
Q       := $(if $(V),,@)
say      = $(if $(V),,@printf '  %-7s %s\n' $(1) $(patsubst $B/%,%,$@);)

LAYERS  := alloc runtime io
HEADERS := $(LAYERS:%=$B/include/weir/%.h) $B/include/weir/weir.h
SRCS    := $(wildcard $(LAYERS:%=%/*.c) $(LAYERS:%=%/*_$(ARCH).S))
OBJS    := $(addprefix $B/,$(addsuffix .o,$(basename $(SRCS))))
LIBS    := $B/libweir.a $B/libweir.so
LLHTTP  := $(patsubst /usr/share/%.c,$B/%.o,$(wildcard /usr/share/llhttp/*.c))
HTTP    := $(shell grep -ls '<llhttp.h>' examples/*.c)
# examples/NAME_*.c are parts of examples/NAME.c
EXAMPLE_PARTS := $(wildcard examples/*_*.c)
EXAMPLES := $(patsubst %.c,$B/%,$(filter-out $(EXAMPLE_PARTS) $(if $(LLHTTP),,$(HTTP)),$(wildcard examples/*.c)))
# bench_guard counts by valgrind's client requests: it is left out where their header is not
BENCH_MAINS := $(filter-out $(if $(wildcard /usr/include/valgrind/callgrind.h),,bench/bench_guard.c),$(wildcard bench/bench_*.c bench/rival_*.c bench/echoload.c bench/meter.c))
BENCHES := $(BENCH_MAINS:%.c=$B/%)
BENCH_OBJS := $(patsubst %.c,$B/%.o,$(filter-out $(BENCH_MAINS) bench/bench_guard.c bench/count_malloc.c bench/alloc_uncounted.c,$(wildcard bench/*.c)))
TESTS   := $(patsubst %.c,$B/%.o,$(wildcard tests/main.c tests/test_*.c))
-include tests/tests.mk

CFLAGS  ?= -O2 -g
WARN    := -Wall -Wextra -Wshadow -Wstrict-prototypes -Wmissing-prototypes -Wpointer-arith -Wvla \
           $(if $(CI),-Werror)
BASE    := -std=gnu11 $(CFLAGS) -fno-omit-frame-pointer -momit-leaf-frame-pointer -pthread -MMD -MP \
           $(if $(SAN),-fsanitize=$(SAN) -fno-sanitize-recover=all) \
           $(if $(findstring thread,$(SAN)),$(if $(findstring clang,$(CC)),,-Wno-tsan))
LIBFLAGS := $(BASE) $(WARN) -fPIC -fvisibility=hidden -ftls-model=initial-exec -D_GNU_SOURCE= -I. -I$B/include
APPFLAGS := $(BASE) $(WARN) -I$B/include
LDLIBS  := -luring

all: lib examples  ## the libraries and the examples
lib: layers $(LIBS)  ## libweir.a and libweir.so
examples: $(EXAMPLES)  ## build/examples/*
	$(if $(LLHTTP),,@echo '  SKIP    $(HTTP): no llhttp here; `make deps` installs node-llhttp')
bench-build: $(BENCHES) $B/bench/count_malloc.so

deps:  ## installs the packages that demo and test need (apt), or prints the command
	@.ci/deps run
demo: deps  ## servers on loopback under load, and one table of what it cost; half a minute
	@$(MAKE) -s -j$$(nproc) --no-print-directory examples bench-build
	@B=$B bench/demo

# RUN goes in front of the suites (valgrind, setarch, taskset), JOBS of them at a time; those whose names match SKIP
# are left out. The allocator knows no driver, so its suites run with the first alone. On a busy machine every
# task of theirs may look as if it held its worker, so the reports of that are off but where they are tested.
JOBS := $(shell nproc)
DRIVERS := uring epoll sim
test: $B/have-test $B/tests/switch_alone $B/tests/run  ## every Check suite, on io_uring, on epoll, simulated
	$(Q)$B/tests/switch_alone
	$(Q)for d in $(DRIVERS); do echo "-- driver: $$d"; \
		case $$d in $(firstword $(DRIVERS))) s="$(SUITES)";; *) s="$(DRIVEN_SUITES)";; esac; \
		printf '%s\n' $$s | grep -vxE '$(or $(SKIP),-)' | WEIR_STALL_MS=0 WEIR_DRIVER=$$d xargs -n 1 -P $(JOBS) $(RUN) $B/tests/run || exit 1; done
preload-smoke: $B/libweir-malloc.so  ## git, python3, sqlite3, redis-server and gcc on weir's heaps
	$(Q)tests/preload_smoke.sh $<
soak: $B/have-test $B/tests/run  ## the allocator's stress for a minute at each of three debug levels
	$(Q)WEIR_SOAK_SECONDS=60 CK_TIMEOUT_MULTIPLIER=10 $B/tests/run alloc_stress
test-examples: examples bench-build  ## the examples, driven by curl, wrk, redis-cli and redis-benchmark
	$(Q)B=$B tests/examples.sh
test-cgroup: examples bench-build  ## a server in a cgroup of 64 MB, under a load that wants more; needs root
	$(Q)B=$B tests/cgroup.sh
test-vm: examples $B/have-test $B/tests/run  ## on a kernel of its own, under qemu (PARTS=, VM_KERNEL=); half an hour
	$(Q)B=$B tests/vm.sh $(PARTS)
test-gdb: $B/libweir.a  ## the gdb script, on a live process and on a core file
	$(Q)CC=$(CC) B=$B tests/gdb.sh
check-asan:  ## the tests under AddressSanitizer and UBSan
	$(Q)CK_TIMEOUT_MULTIPLIER=5 $(MAKE) --no-print-directory SAN=address,undefined test
# What is simulated is one thread, nothing there for TSan to see; and tasks are the same on every driver.
check-tsan:  ## the tests under ThreadSanitizer (which needs the old address layout: setarch -R)
	$(Q)for run in 'DRIVERS=uring SKIP=io_.*sim.*' 'DRIVERS=epoll SKIP=alloc_.*|runtime_.*|io_.*sim.*'; do \
		CK_TIMEOUT_MULTIPLIER=10 CK_EXCLUDE_TAGS=slow TSAN_OPTIONS=atexit_sleep_ms=0 \
		$(MAKE) --no-print-directory SAN=thread RUN='setarch -R' $$run test || exit 1; done
model:  ## the lock-free pieces, model-checked with spin
	$(Q)tests/model/run.sh
# Threads take turns, or one that waits for another keeps it from running. Memcheck does not see what the kernel writes
# through a ring; leaks are AddressSanitizer's part.
check-valgrind: $B/have-test $B/tests/run  ## the tests tagged fast or net under memcheck, on epoll
	$(Q)printf '%s\n' $(SUITES) | CK_TIMEOUT_MULTIPLIER=20 CK_INCLUDE_TAGS="fast net" WEIR_STALL_MS=0 WEIR_DRIVER=epoll \
		xargs -n 1 -P $(JOBS) valgrind -q --fair-sched=yes --leak-check=no --error-exitcode=9 $B/tests/run
rivals:  ## weir and its rivals, which come from their registries once (Rust, Go, libuv)
	$(Q)B=$B python3 bench/report --build
bench:  ## weir beside its rivals: build/bench/report.html; about 15 minutes (ROWS="kv SET": only such rows)
	@.ci/deps bench || true
	$(Q)B=$B python3 bench/report $(if $(ROWS),--only "$(ROWS)")
bench-alloc: bench-build $B/libweir-malloc.so $B/tests/run  ## the allocator beside four others, what it must reach, plots; 10 minutes
	$(Q)B=$B bench/alloc_plots
bench-quick:  ## the core rows of it; about 90 seconds
	@.ci/deps bench || true
	$(Q)B=$B python3 bench/report --quick
bench-keep:  ## copies the last report to bench/results, to be committed
	$(Q)B=$B python3 bench/report --keep
# RECORD=1 makes the counts the baseline.
bench-guard: $B/bench/bench_guard  ## instructions of the hot paths against bench/baseline.csv
	$(Q)B=$B python3 bench/report/guard.py $(if $(RECORD),--record)

layers: $(HEADERS)  ## alloc <- runtime <- io, and nothing back
	$(Q)! grep -snE '# *include *[<"](.*/)?((runtime|io)[/.]|weir\.h|liburing)' alloc/*.[chS]
	$(Q)! grep -snE '# *include *[<"](.*/)?(io[/.]|weir\.h|liburing)' runtime/*.[chS]
	$(Q)! grep -snE '# *include *[<"].*(alloc|runtime|io)/' examples/*.[ch] bench/*.[ch]
symbols: $(LIBS)  ## the same at link time; nothing foreign exported, no executable stack
	$(Q)tests/symbols.sh $B
headers: $(HEADERS)  ## each public header alone, C11 and C++11, -Wpedantic -Werror
	$(Q)tests/headers.sh $B/include
doc-examples: $(HEADERS)  ## every C block of README.md and docs/ compiles, cancellation.md has every call, and tests named are there
	$(Q)CC=$(CC) tests/doc_examples.sh $B/include
	$(Q)CC=$(CC) tests/call_table.sh $B/include
	$(Q)tests/scenario_table.sh
lint:  ## clang-format, line and function length, SPDX lines
	$(Q)tests/lint.sh
# The liburing headers are the same on every machine, unlike what lies beside them in /usr/include.
cross: B := build-aarch64
cross:  ## compiles for aarch64 and runs the context switch under qemu
	@.ci/deps --check cross
	@mkdir -p $B/foreign && ln -sfn /usr/include/liburing /usr/include/liburing.h $B/foreign
	$(Q)$(MAKE) --no-print-directory B=$B CC=aarch64-linux-gnu-gcc CFLAGS='$(CFLAGS) -I$B/foreign' cross-objects
	$(Q)qemu-aarch64 $B/tests/switch_alone
cross-objects: $(OBJS) $B/tests/switch_alone

install: lib $B/libweir-malloc.so  ## DESTDIR= PREFIX=/usr/local LIBDIR=$PREFIX/lib
	$(Q)VERSION=$(VERSION) SONAME=$(SONAME) PREFIX=$(PREFIX) LIBDIR=$(LIBDIR) .ci/package/install $B "$(DESTDIR)"
uninstall:
	$(Q)rm -rf $(DESTDIR)$(PREFIX)/include/weir $(DESTDIR)$(LIBDIR)/cmake/weir
	$(Q)rm -rf $(DESTDIR)$(PREFIX)/share/weir $(DESTDIR)$(PREFIX)/share/doc/weir
	$(Q)rm -f $(DESTDIR)$(LIBDIR)/libweir.* $(DESTDIR)$(LIBDIR)/libweir-malloc.so $(DESTDIR)$(LIBDIR)/pkgconfig/weir.pc
clean:  ## removes what was built
	$(Q)rm -rf build build-*
help:  ## this list
	@sed -n 's/^\([a-z-]*\):[^#]*## \(.*\)/  \1\t\2/p' $(MAKEFILE_LIST) | expand -t 18

# The public headers, laid out as an installed program sees them.
$B/include/weir/weir.h:
	@mkdir -p $(@D) && ln -srf io/weir.h $@
$B/include/weir/%.h:
	@mkdir -p $(@D) && ln -srf $*/$*.h $@

# One question to the machine per build directory; it ends the build with the line to type.
$B/have-%:
	@mkdir -p $(@D)
	@.ci/deps --check $*
	@touch $@

$B/%.o: FLAGS = $(APPFLAGS)
$B/alloc/%.o: FLAGS = $(LIBFLAGS)
$B/runtime/%.o: FLAGS = $(LIBFLAGS)
$B/io/%.o: FLAGS = $(LIBFLAGS)
$B/tests/%.o: FLAGS = $(APPFLAGS) $(shell pkg-config --cflags check)
$B/examples/%.o: FLAGS = $(APPFLAGS) -I/usr/share/include/llhttp
$B/%.o: %.c Makefile | $(HEADERS) $B/have-build
	@mkdir -p $(@D)
	$(call say,CC) $(CC) $(FLAGS) -c $< -o $@
$B/%.o: %.S Makefile | $(HEADERS) $B/have-build
	@mkdir -p $(@D)
	$(call say,AS) $(CC) $(FLAGS) -c $< -o $@
$(LLHTTP): $B/llhttp/%.o: /usr/share/llhttp/%.c
	@mkdir -p $(@D)
	$(call say,CC) $(CC) $(CFLAGS) -w -I/usr/share/include/llhttp -c $< -o $@
$B/bench/count_malloc.so: bench/count_malloc.c Makefile
	@mkdir -p $(@D)
	$(call say,LD) $(CC) -O2 $(WARN) -fPIC -shared -pthread $< -ldl -o $@

$B/libweir.a: $(OBJS)
	$(call say,AR) rm -f $@; $(AR) rcs $@ $^
$B/libweir.so.$(VERSION): $(OBJS)
	$(call say,LD) $(CC) $(LIBFLAGS) -shared $(if $(SAN),,-Wl,-z,defs) -Wl,-z,nodelete -Wl,--version-script=io/libweir.map \
		-Wl,-soname,$(SONAME) $^ $(LDLIBS) -o $@
$B/libweir.so: $B/libweir.so.$(VERSION)
	@ln -sf $(<F) $B/$(SONAME) && ln -sf $(SONAME) $@
# The allocator alone, under the names of the malloc family, and the option table.
# Initialised before all else, so that its handlers are the last before a fork and the first after it: others may allocate.
$B/libweir-malloc.so: $B/alloc/preload/malloc.o $(filter $B/alloc/% $B/runtime/config%,$(OBJS)) alloc/preload/malloc.map
	$(call say,LD) $(CC) $(LIBFLAGS) -shared $(if $(SAN),,-Wl,-z,defs) -Wl,-z,initfirst \
		-Wl,--version-script=$(lastword $^) $(filter %.o,$^) -o $@
$(EXAMPLES): %: %.o $B/libweir.a
	$(call say,LD) $(CC) $(BASE) $(filter %.o,$^) $(filter %.a,$^) $(LDLIBS) -o $@
$(HTTP:%.c=$B/%): $(LLHTTP)
$(foreach part,$(notdir $(EXAMPLE_PARTS:.c=)),$(eval $B/examples/$(firstword $(subst _, ,$(part))): $B/examples/$(part).o))
# Rivals, echoload and meter have nothing of weir in them.
$(filter $B/bench/bench_%,$(BENCHES)): $B/libweir.a
$B/bench/bench_alloc_steps: $B/bench/alloc_uncounted.o
$(BENCHES): %: %.o $(BENCH_OBJS)
	$(call say,LD) $(CC) $(BASE) $^ $(LDLIBS) -lm -o $@
$(TESTS): | $B/have-test
$B/tests/run: $(TESTS) $B/libweir.a
	$(call say,LD) $(CC) $(BASE) $^ $$(pkg-config --libs check) $(LDLIBS) -o $@
# Nothing but the switch: no runtime, so no sanitizer that would have to be told of it.
$B/tests/switch_alone: tests/switch_alone.c runtime/switch_$(ARCH).S Makefile | $B/have-build
	@mkdir -p $(@D)
	$(call say,LD) $(CC) -std=gnu11 -O2 -g $(WARN) -static -I. -I$B/include $(filter-out Makefile,$^) -o $@

.SECONDARY:
.PHONY: all lib soak preload-smoke examples bench-build rivals deps demo test test-examples test-cgroup test-gdb check-asan check-tsan check-valgrind \
	bench bench-alloc bench-quick bench-keep bench-guard \
	layers symbols headers doc-examples lint model cross cross-objects install uninstall clean help
-include $(wildcard $B/*/*.d $B/*/*/*.d)
