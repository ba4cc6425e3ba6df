/* SPDX-License-Identifier: MIT */
/*
 * switch_ucontext.c: the context switch of <ucontext.h>, for architectures without assembly and for
 * comparison (WEIR_SWITCH=ucontext). A suspended context stands for a ucontext_t on its own stack.
 */
#include "runtime/switch.h"

#include <stddef.h>
#include <stdint.h>
#include <ucontext.h>

void weir__switch_ucontext(void **save_sp, void *load_sp)
{
	ucontext_t self;

	*save_sp = &self;
	swapcontext(&self, load_sp);
}

/* makecontext() passes ints: the two pointers travel in halves. */
static void start(unsigned entry_high, unsigned entry_low, unsigned arg_high, unsigned arg_low)
{
	uintptr_t entry = (uintptr_t)(((uint64_t)entry_high << 32) | entry_low);
	uintptr_t arg = (uintptr_t)(((uint64_t)arg_high << 32) | arg_low);

	((void (*)(void *))entry)((void *)arg);
}

void *weir__switch_prepare_ucontext(void *stack_top, void (*entry)(void *), void *arg)
{
	uintptr_t at = ((uintptr_t)stack_top - sizeof(ucontext_t)) & ~(uintptr_t)63;
	ucontext_t *volatile context =
		(ucontext_t *)at; /* getcontext() may return twice, says gcc */
	uint64_t e = (uintptr_t)entry, a = (uintptr_t)arg;

	if (getcontext(context) < 0)
		return NULL;
	/* makecontext() only adds base and size up; the real extent is the caller's knowledge. */
	context->uc_stack.ss_sp = (char *)at - 4096;
	context->uc_stack.ss_size = 4096;
	context->uc_link = NULL;
	makecontext(context, (void (*)(void))start, 4, (unsigned)(e >> 32), (unsigned)e,
		    (unsigned)(a >> 32), (unsigned)a);
	return context;
}

#if !WEIR__SWITCH_ASM
void weir__switch(void **save_sp, void *load_sp)
{
	weir__switch_ucontext(save_sp, load_sp);
}

void *weir__switch_prepare(void *stack_top, void (*entry)(void *), void *arg)
{
	return weir__switch_prepare_ucontext(stack_top, entry, arg);
}
#endif
