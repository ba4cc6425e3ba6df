/* SPDX-License-Identifier: MIT */
/*
 * switch_alone: the context switch with nothing around it, so that it also runs under an emulator.
 *
 * The claims: entry gets its argument on a stack aligned as the ABI wants; control arrives where it
 * was sent and nowhere else; every callee-saved register and every local survives. C cannot see
 * registers: probe_switch() fills all of them with known values, switches, and stores what it finds
 * on its return.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include "runtime/switch.h"

enum { CONTEXTS_MAX = 7, REGISTERS_MAX = 20, STACK_BYTES = 32 * 1024, SWITCHES = 100000 };

struct context {
	uint64_t before[REGISTERS_MAX]; /* the assembly knows these two offsets: 0 and 160 */
	uint64_t after[REGISTERS_MAX];
	void *sp;
	unsigned id;
	unsigned entries;
};

/* The context that runs; whoever switches sets it first. probe_switch() reads it on its way back.
 */
struct context *active;

void probe_switch(void **save_sp, void *load_sp, struct context *self);
void probe_entry(void *arg); /* enter(arg, stack pointer at entry) */
void enter(void *arg, uintptr_t sp);

#if defined(__x86_64__)
enum { REGISTERS = 6, SP_BELOW_ALIGNED = 8 };
__asm__(".text\n"
	".globl probe_switch\n"
	"probe_switch:\n"
	"	push %rbp; push %rbx; push %r12; push %r13; push %r14; push %r15; sub $8, %rsp\n"
	"	mov 0(%rdx), %rbp; mov 8(%rdx), %rbx; mov 16(%rdx), %r12\n"
	"	mov 24(%rdx), %r13; mov 32(%rdx), %r14; mov 40(%rdx), %r15\n"
	"	call weir__switch\n"
	"	mov active(%rip), %rdx\n"
	"	mov %rbp, 160(%rdx); mov %rbx, 168(%rdx); mov %r12, 176(%rdx)\n"
	"	mov %r13, 184(%rdx); mov %r14, 192(%rdx); mov %r15, 200(%rdx)\n"
	"	add $8, %rsp; pop %r15; pop %r14; pop %r13; pop %r12; pop %rbx; pop %rbp\n"
	"	ret\n"
	".globl probe_entry\n"
	"probe_entry:\n"
	"	mov %rsp, %rsi\n"
	"	jmp enter\n");
#elif defined(__aarch64__)
enum { REGISTERS = 19, SP_BELOW_ALIGNED = 0 };
__asm__(".text\n"
	".globl probe_switch\n"
	"probe_switch:\n"
	"	stp x29, x30, [sp, #-160]!\n"
	"	stp x19, x20, [sp, #16]; stp x21, x22, [sp, #32]; stp x23, x24, [sp, #48]\n"
	"	stp x25, x26, [sp, #64]; stp x27, x28, [sp, #80]; stp d8, d9, [sp, #96]\n"
	"	stp d10, d11, [sp, #112]; stp d12, d13, [sp, #128]; stp d14, d15, [sp, #144]\n"
	"	ldp x19, x20, [x2, #0]; ldp x21, x22, [x2, #16]; ldp x23, x24, [x2, #32]\n"
	"	ldp x25, x26, [x2, #48]; ldp x27, x28, [x2, #64]; ldp d8, d9, [x2, #80]\n"
	"	ldp d10, d11, [x2, #96]; ldp d12, d13, [x2, #112]; ldp d14, d15, [x2, #128]\n"
	"	ldr x29, [x2, #144]\n"
	"	bl weir__switch\n"
	"	adrp x2, active\n"
	"	ldr x2, [x2, #:lo12:active]\n"
	"	stp x19, x20, [x2, #160]; stp x21, x22, [x2, #176]; stp x23, x24, [x2, #192]\n"
	"	stp x25, x26, [x2, #208]; stp x27, x28, [x2, #224]; stp d8, d9, [x2, #240]\n"
	"	stp d10, d11, [x2, #256]; stp d12, d13, [x2, #272]; stp d14, d15, [x2, #288]\n"
	"	str x29, [x2, #304]\n"
	"	ldp x19, x20, [sp, #16]; ldp x21, x22, [sp, #32]; ldp x23, x24, [sp, #48]\n"
	"	ldp x25, x26, [sp, #64]; ldp x27, x28, [sp, #80]; ldp d8, d9, [sp, #96]\n"
	"	ldp d10, d11, [sp, #112]; ldp d12, d13, [sp, #128]; ldp d14, d15, [sp, #144]\n"
	"	ldp x29, x30, [sp], #160\n"
	"	ret\n"
	".globl probe_entry\n"
	"probe_entry:\n"
	"	mov x1, sp\n"
	"	b enter\n");
#else
#error "no assembly switch for this architecture: nothing to test"
#endif

_Static_assert((int)REGISTERS <= (int)REGISTERS_MAX, "a slot for every callee-saved register");

static struct context contexts[CONTEXTS_MAX];
static _Alignas(16) char stacks[CONTEXTS_MAX][STACK_BYTES];
static unsigned population; /* contexts taking part; contexts[0] is main() */
static unsigned switches;
static uint64_t random_state = 88172645463325252u;

static uint64_t random_next(void)
{
	random_state ^= random_state << 13;
	random_state ^= random_state >> 7;
	random_state ^= random_state << 17;
	return random_state;
}

static void expect(int truth, const char *claim, const struct context *self)
{
	if (truth)
		return;
	printf("switch_alone: FAILED: %s (context %u of %u, switch %u)\n", claim, self->id,
	       population, switches);
	exit(1);
}

/* One switch away from `self`, and everything that must hold when control is back. */
static void away(struct context *self, struct context *next)
{
	volatile uint64_t local = random_next();
	uint64_t copy = local;

	for (int i = 0; i < REGISTERS; i++)
		self->before[i] = random_next();
	switches++;
	active = next;
	probe_switch(&self->sp, next->sp, self);
	expect(active == self, "control arrives where it was sent", self);
	expect(local == copy, "locals survive", self);
	for (int i = 0; i < REGISTERS; i++)
		expect(self->after[i] == self->before[i], "callee-saved registers survive", self);
}

/* Any context but this one; with two it is the other: ping-pong. */
static struct context *other(const struct context *self)
{
	return &contexts[(self->id + 1 + random_next() % (population - 1)) % population];
}

/* The life of every context but main(): to random others until main() has seen enough. */
void enter(void *arg, uintptr_t sp)
{
	struct context *self = arg;

	expect(self == active, "the argument arrives", self);
	expect((sp + SP_BELOW_ALIGNED) % 16 == 0, "the stack is aligned at entry", self);
	expect(sp > (uintptr_t)stacks[self->id] &&
		       sp <= (uintptr_t)(stacks[self->id] + STACK_BYTES),
	       "it is the stack that was prepared", self);
	expect(self->entries++ == 0, "entry runs once", self);
	for (;;)
		away(self, other(self));
}

static void run(unsigned n)
{
	population = n;
	switches = 0;
	for (unsigned i = 0; i < n; i++) {
		contexts[i] = (struct context){ .id = i };
		if (i > 0)
			contexts[i].sp = weir__switch_prepare(stacks[i] + STACK_BYTES, probe_entry,
							      &contexts[i]);
	}
	active = &contexts[0];
	while (switches < SWITCHES)
		away(&contexts[0], other(&contexts[0]));
	for (unsigned i = 1; i < n; i++)
		expect(contexts[i].entries == 1, "every context ran", &contexts[i]);
}

int main(void)
{
	run(2);
	run(CONTEXTS_MAX);
	printf("switch_alone: %d switches among 2 and among %d stacks: registers, locals, "
	       "alignment, "
	       "order hold\n",
	       SWITCHES, CONTEXTS_MAX);
	return 0;
}
