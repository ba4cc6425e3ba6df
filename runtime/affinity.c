/* SPDX-License-Identifier: MIT */
/*
 * affinity.c: sets of CPUs from malloc, doubled until the kernel's fits.
 */
#include "runtime/affinity.h"

#include <errno.h>

enum { CPUS_MAX = 1 << 20 };

int weir__affinity_get(pid_t tid, struct weir__affinity *ret)
{
	for (size_t cpus = CPU_SETSIZE; cpus <= CPUS_MAX; cpus *= 2) {
		struct weir__affinity now = { CPU_ALLOC(cpus), CPU_ALLOC_SIZE(cpus) };
		if (!now.set)
			return -ENOMEM;
		if (sched_getaffinity(tid, now.bytes, now.set) == 0) {
			*ret = now;
			return 0;
		}
		int err = -errno;
		weir__affinity_free(&now);
		if (err != -EINVAL) /* which means: too small */
			return err;
	}
	return -EINVAL;
}

void weir__affinity_free(struct weir__affinity *affinity)
{
	CPU_FREE(affinity->set);
	*affinity = (struct weir__affinity){ 0 };
}

int weir__affinity_set(pid_t tid, const struct weir__affinity *affinity)
{
	return sched_setaffinity(tid, affinity->bytes, affinity->set) == 0 ? 0 : -errno;
}

int weir__affinity_set_one(pid_t tid, unsigned cpu)
{
	struct weir__affinity one = { CPU_ALLOC(cpu + 1), CPU_ALLOC_SIZE(cpu + 1) };

	if (!one.set)
		return -ENOMEM;
	CPU_ZERO_S(one.bytes, one.set);
	CPU_SET_S(cpu, one.bytes, one.set);
	int err = weir__affinity_set(tid, &one);
	weir__affinity_free(&one);
	return err;
}

unsigned weir__affinity_count(const struct weir__affinity *affinity)
{
	return (unsigned)CPU_COUNT_S(affinity->bytes, affinity->set);
}

bool weir__affinity_has(const struct weir__affinity *affinity, unsigned cpu)
{
	return CPU_ISSET_S(cpu, affinity->bytes, affinity->set);
}

unsigned weir__affinity_count_own(void)
{
	struct weir__affinity own;

	if (weir__affinity_get(0, &own) < 0)
		return 0;
	unsigned count = weir__affinity_count(&own);
	weir__affinity_free(&own);
	return count;
}
