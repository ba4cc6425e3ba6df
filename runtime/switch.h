/* SPDX-License-Identifier: MIT */
/*
 * switch.h: leaving one stack for another.
 *
 * A suspended context is one pointer, the stack pointer it left behind; everything else lies on its
 * stack. The assembly versions save the callee-saved registers of the ABI and jump (a `ret` would
 * mispredict: 12-13 ns against 2-6). Floating-point control words are not saved: a task that
 * changes the rounding mode must restore it before it parks.
 */
#ifndef WEIR_SWITCH_H
#define WEIR_SWITCH_H

#include <stdbool.h>

#if defined(__x86_64__) || defined(__aarch64__)
#define WEIR__SWITCH_ASM 1
#else
#define WEIR__SWITCH_ASM 0
#endif

/* Saves this context's stack pointer in *save_sp and continues the context that load_sp stands for.
 */
void weir__switch(void **save_sp, void *load_sp);

/*
 * Builds a context on an empty stack that will call entry(arg). `stack_top` is 16-byte aligned;
 * entry never returns. Returns the value for load_sp.
 */
void *weir__switch_prepare(void *stack_top, void (*entry)(void *), void *arg);

/* The same two by <ucontext.h>: every architecture, 50 times slower (two system calls a switch). */
void weir__switch_ucontext(void **save_sp, void *load_sp);
void *weir__switch_prepare_ucontext(void *stack_top, void (*entry)(void *), void *arg);

#endif
