/* SPDX-License-Identifier: MIT */
/*
 * sim_sync.c: scenarios of what tasks of different workers wait with: it excludes whom it should,
 * wakes whom it should, once, and a wait that was given up takes nothing with it.
 */
#include "sim.h"

const struct sim_scenario sim_sync_scenarios[] = {
	{ NULL, NULL },
};
