# SPDX-License-Identifier: MIT
# How the suites find each other: tests/test_alloc_heap.c exports alloc_heap_suite(), and that is all.

.DEFAULT_GOAL := all
SUITES := $(patsubst tests/test_%.c,%,$(sort $(wildcard tests/test_*.c)))

# Rewritten only when a file came or went, so that nothing is rebuilt otherwise.
$B/tests/suites.h: FORCE
	@mkdir -p $(@D) && printf 'SUITE(%s)\n' $(SUITES) > $@.new
	@cmp -s $@ $@.new && rm $@.new || mv $@.new $@
$B/tests/main.o: $B/tests/suites.h
$B/tests/main.o: FLAGS += -I$B/tests
# Units are tested through their internal headers. main.c declares what the other files export.
$B/tests/test_%.o: FLAGS += -I. -D_GNU_SOURCE= -Wno-missing-prototypes

docs: $B/tests/run  ## docs/environment.md from the option table
	$(Q)UPDATE_DOCS=1 CK_RUN_CASE=documentation $< runtime_config

# The scenarios of the simulator are programs: they see the public headers alone.
SIM_OBJS := $(patsubst %.c,$B/%.o,$(wildcard tests/sim*.c))
$B/tests/sim%.o: FLAGS += -D_GNU_SOURCE=
$B/tests/sim: $(SIM_OBJS) $B/libweir.a
	$(call say,LD) $(CC) $(BASE) $^ $(LDLIBS) -o $@
sim: $B/tests/sim  ## the library's own scenarios with 10,000 seeds each (SEEDS=) in the simulator
	$(Q)$(RUN) $< -n $(or $(SEEDS),10000)

DRIVEN_SUITES := $(filter-out alloc_%,$(SUITES))
test-sim: $B/have-test $B/tests/run  ## the suites in the simulator, with the seeds 1 to 10 (SEEDS=)
	$(Q)for seed in $$(seq $(or $(SEEDS),10)); do echo "-- seed: $$seed"; \
		printf '%s\n' $(DRIVEN_SUITES) | WEIR_DRIVER=sim WEIR_SIM_SEED=$$seed \
		xargs -n 1 -P $(JOBS) $(RUN) $B/tests/run || exit 1; done

FORCE:
.PHONY: FORCE docs sim test-sim
