/* SPDX-License-Identifier: MIT */
/*
 * signal.h: what SIGINT, SIGTERM and SIGQUIT mean while a runtime runs.
 */
#ifndef WEIR_SIGNAL_H
#define WEIR_SIGNAL_H

#include "runtime/task.h"

/*
 * SIGINT and SIGTERM stop `runtime`, SIGQUIT (unless WEIR_DUMP_SIGNAL=0) lists its tasks. Does
 * nothing when another runtime has the signals.
 */
void weir__signals_catch(struct weir__runtime *runtime);

/*
 * Puts back what was there before, also for tasks' calls of weir_signal_wait(). No handler of ours
 * is at work for `runtime` any more when it returns.
 */
void weir__signals_release(struct weir__runtime *runtime);

/* In a child of fork(): the same, for a runtime that is the parent's. */
void weir__signals_forget(void);

#endif
