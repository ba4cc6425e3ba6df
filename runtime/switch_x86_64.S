/* SPDX-License-Identifier: MIT */
/*
 * switch_x86_64.S: the context switch of the System V ABI. See switch.h.
 *
 * Frame of a suspended context, from its stack pointer up:
 *	r15 r14 r13 r12 rbx rbp, address to continue at
 */
#ifdef __x86_64__
	.text

	.globl	weir__switch
	.hidden	weir__switch
	.type	weir__switch, @function
	.p2align 4
weir__switch:
	.cfi_startproc
	pushq	%rbp
	.cfi_adjust_cfa_offset 8
	.cfi_rel_offset %rbp, 0
	pushq	%rbx
	.cfi_adjust_cfa_offset 8
	.cfi_rel_offset %rbx, 0
	pushq	%r12
	.cfi_adjust_cfa_offset 8
	.cfi_rel_offset %r12, 0
	pushq	%r13
	.cfi_adjust_cfa_offset 8
	.cfi_rel_offset %r13, 0
	pushq	%r14
	.cfi_adjust_cfa_offset 8
	.cfi_rel_offset %r14, 0
	pushq	%r15
	.cfi_adjust_cfa_offset 8
	.cfi_rel_offset %r15, 0
	movq	%rsp, (%rdi)
	movq	%rsi, %rsp		/* the other frame has the same shape: the CFI stays true */
	popq	%r15
	.cfi_adjust_cfa_offset -8
	.cfi_restore %r15
	popq	%r14
	.cfi_adjust_cfa_offset -8
	.cfi_restore %r14
	popq	%r13
	.cfi_adjust_cfa_offset -8
	.cfi_restore %r13
	popq	%r12
	.cfi_adjust_cfa_offset -8
	.cfi_restore %r12
	popq	%rbx
	.cfi_adjust_cfa_offset -8
	.cfi_restore %rbx
	popq	%rbp
	.cfi_adjust_cfa_offset -8
	.cfi_restore %rbp
	popq	%rcx
	.cfi_adjust_cfa_offset -8
	.cfi_register %rip, %rcx
	jmp	*%rcx
	.cfi_endproc
	.size	weir__switch, . - weir__switch

/* void *weir__switch_prepare(void *stack_top, void (*entry)(void *), void *arg) */
	.globl	weir__switch_prepare
	.hidden	weir__switch_prepare
	.type	weir__switch_prepare, @function
	.p2align 4
weir__switch_prepare:
	.cfi_startproc
	leaq	-64(%rdi), %rax		/* 7 words used; the eighth keeps entry's alignment */
	leaq	start(%rip), %rcx
	xorl	%r8d, %r8d
	movq	%r8, 0(%rax)		/* r15 */
	movq	%r8, 8(%rax)		/* r14 */
	movq	%rdx, 16(%rax)		/* r13: arg */
	movq	%rsi, 24(%rax)		/* r12: entry */
	movq	%r8, 32(%rax)		/* rbx */
	movq	%r8, 40(%rax)		/* rbp: ends the frame chain */
	movq	%rcx, 48(%rax)
	movq	%r8, 56(%rax)
	ret
	.cfi_endproc
	.size	weir__switch_prepare, . - weir__switch_prepare

/* The first thing on a new stack; rsp is 8 below a 16-byte boundary, as after a call. */
	.type	start, @function
	.p2align 4
start:
	.cfi_startproc
	.cfi_undefined %rip		/* nothing called us: unwinders stop here */
	movq	%r13, %rdi
	subq	$8, %rsp
	.cfi_adjust_cfa_offset 8
	leaq	1f(%rip), %rax		/* a call that is never returned from, and not predicted to be */
	pushq	%rax
	jmp	*%r12
1:	ud2
	.cfi_endproc
	.size	start, . - start
#endif
	.section .note.GNU-stack, "", @progbits
