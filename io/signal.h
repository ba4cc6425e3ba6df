/* SPDX-License-Identifier: MIT */
/*
 * signal.h: what SIGINT, SIGTERM and SIGQUIT mean while a runtime runs.
 */
#ifndef WEIR_SIGNAL_H
#define WEIR_SIGNAL_H

#include "runtime/task.h"

/*
 * SIGINT and SIGTERM stop `runtime`, SIGQUIT (unless WEIR_DUMP_SIGNAL=0) lists its tasks. False
 * when they are another runtime's already; then nothing has changed.
 */
WEIR_MUST bool weir__signals_catch(struct weir__runtime *runtime);

/* Puts back what was there before; no handler of ours runs any more when it returns. */
void weir__signals_release(void);

/* In a child of fork(): the same, for a runtime that is the parent's. */
void weir__signals_forget(void);

#endif
