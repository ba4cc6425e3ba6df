/* SPDX-License-Identifier: MIT */
/*
 * switch.h: leaving one stack for another.
 *
 * A suspended context is one pointer, the stack pointer it left behind; everything else lies on its
 * stack. The assembly versions save the callee-saved registers of the ABI and jump (a `ret` would
 * mispredict: 12-13 ns against 2-6). Floating-point control words are not saved: a task that
 * changes the rounding mode must restore it before it parks.
 *
 * A switch that is called leaves its return address on the processor's stack of predicted returns,
 * and then every return of the task that goes on is predicted wrongly. So the scheduler's own is
 * inlined, without a call.
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

#ifdef __x86_64__
/*
 * The same, with the same frame. Pushes: the function it is inlined into must call another
 * somewhere, or it might keep locals below its stack pointer.
 */
static inline __attribute__((always_inline)) void weir__switch_inline(void **save_sp, void *load_sp)
{
	__asm__ volatile("leaq 1f(%%rip), %%rcx\n\t"
			 "pushq %%rcx\n\tpushq %%rbp\n\tpushq %%rbx\n\t"
			 "pushq %%r12\n\tpushq %%r13\n\tpushq %%r14\n\tpushq %%r15\n\t"
			 "movq %%rsp, (%0)\n\t"
			 "movq %1, %%rsp\n\t"
			 "popq %%r15\n\tpopq %%r14\n\tpopq %%r13\n\tpopq %%r12\n\t"
			 "popq %%rbx\n\tpopq %%rbp\n\tpopq %%rcx\n\t"
			 "jmp *%%rcx\n"
			 "1:"
			 : "+D"(save_sp), "+S"(load_sp)
			 :
			 : "rax", "rcx", "rdx", "r8", "r9", "r10", "r11", "xmm0", "xmm1", "xmm2",
			   "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", "xmm11",
			   "xmm12", "xmm13", "xmm14", "xmm15",
#ifdef __AVX512F__
			   "xmm16", "xmm17", "xmm18", "xmm19", "xmm20", "xmm21", "xmm22", "xmm23",
			   "xmm24", "xmm25", "xmm26", "xmm27", "xmm28", "xmm29", "xmm30", "xmm31",
			   "k1", "k2", "k3", "k4", "k5", "k6", "k7",
#endif
			   "memory", "cc");
}
#else
static inline void weir__switch_inline(void **save_sp, void *load_sp)
{
	weir__switch(save_sp, load_sp);
}
#endif

/*
 * Builds a context on an empty stack that will call entry(arg). `stack_top` is 16-byte aligned;
 * entry never returns. Returns the value for load_sp.
 */
void *weir__switch_prepare(void *stack_top, void (*entry)(void *), void *arg);

/* The same two by <ucontext.h>: every architecture, 50 times slower (two system calls a switch). */
void weir__switch_ucontext(void **save_sp, void *load_sp);
void *weir__switch_prepare_ucontext(void *stack_top, void (*entry)(void *), void *arg);

#endif
