/* SPDX-License-Identifier: MIT */
/*
 * cpus.h: how many workers make sense here.
 */
#ifndef WEIR_CPUS_H
#define WEIR_CPUS_H

/*
 * The CPUs the calling thread may use, or fewer when a cgroup above it (v2 or v1) grants less CPU
 * time, rounded up; 1 to 256. `root` stands before /proc and /sys: "" but in tests.
 */
unsigned weir__cpus_count(const char *root);

#endif
