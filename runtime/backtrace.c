/* SPDX-License-Identifier: MIT */
/*
 * backtrace.c: return addresses of running and of parked tasks.
 *
 * Programs are built without frame pointers, so frames are found by the unwind tables that every
 * program for this ABI carries, through the compiler's own unwinder. It starts from the frame that
 * calls it; the hard idea is weir__unwind_suspended() (unwind_*.S): its unwind table says that its
 * caller's registers are those a suspended task has left on its stack. So the unwinder walks a
 * parked task without running on its stack, without touching it, and on any thread.
 *
 * Under the portable switch the registers lie elsewhere: there, frame pointers have to do, which
 * show the library's own frames and the first of the program's.
 */
#include "runtime/backtrace.h"

#include <ucontext.h>
#include <unwind.h>

#include "runtime/task.h"
#include "runtime/switch.h"

struct walk {
	uintptr_t *pcs;
	unsigned count;
	unsigned max;
	unsigned skip;
};

static _Unwind_Reason_Code step(struct _Unwind_Context *context, void *arg)
{
	struct walk *walk = arg;
	uintptr_t pc = _Unwind_GetIP(context), start = _Unwind_GetRegionStart(context);

	if (pc == 0 || walk->count == walk->max || start == weir__task_entry ||
	    start == (uintptr_t)weir__census_main)
		return _URC_END_OF_STACK;
	if (walk->skip > 0)
		walk->skip--;
	else
		walk->pcs[walk->count++] = pc;
	return _URC_NO_REASON;
}

__attribute__((noinline)) unsigned weir__backtrace(uintptr_t *ret, unsigned max, unsigned skip)
{
	struct walk walk = { .pcs = ret, .max = max, .skip = skip + 1 };

	(void)_Unwind_Backtrace(step, &walk);
	return walk.count;
}

/* ---- Suspended tasks ---------------------------------------------------- */

#if WEIR__SWITCH_ASM
/* _Unwind_Backtrace(fn, arg) as if called by the context that `sp` stands for. */
_Unwind_Reason_Code weir__unwind_suspended(void *sp, _Unwind_Trace_Fn fn, void *arg);
#endif

/* What swapcontext() has saved: program counter and frame pointer. */
static void saved_registers(const ucontext_t *context, uintptr_t *ret_pc, uintptr_t *ret_fp)
{
#if defined(__x86_64__)
	*ret_pc = (uintptr_t)context->uc_mcontext.gregs[REG_RIP];
	*ret_fp = (uintptr_t)context->uc_mcontext.gregs[REG_RBP];
#elif defined(__aarch64__)
	*ret_pc = context->uc_mcontext.pc;
	*ret_fp = context->uc_mcontext.regs[29];
#else
	(void)context;
	*ret_pc = *ret_fp = 0;
#endif
}

/* Frame pointers rise and stay within the stack, or the chain ends. */
__attribute__((no_sanitize("address", "thread"))) static unsigned
walk_frames(const struct weir__task *task, uintptr_t *ret, unsigned max)
{
	uintptr_t low = (uintptr_t)task->sp, high = (uintptr_t)task->stack->top;
	uintptr_t pc, fp;
	unsigned count = 0;

	saved_registers(task->sp, &pc, &fp);
	while (pc != 0 && count < max) {
		ret[count++] = pc;
		if (fp < low || fp >= high || high - fp < 2 * sizeof fp || fp % sizeof fp != 0)
			break;
		low = fp + 2 * sizeof fp;
		pc = ((const uintptr_t *)fp)[1];
		fp = ((const uintptr_t *)fp)[0];
	}
	return count;
}

unsigned weir__backtrace_task(const struct weir__task *task, uintptr_t *ret, unsigned max)
{
	if (!task->sp || !task->stack)
		return 0;
#if WEIR__SWITCH_ASM
	if (!task->worker->use_ucontext) {
		struct walk walk = { .pcs = ret, .max = max, .skip = 1 };

		(void)weir__unwind_suspended(task->sp, step, &walk);
		return walk.count;
	}
#endif
	return walk_frames(task, ret, max);
}
