/* SPDX-License-Identifier: MIT */
/*
 * unwind_x86_64.S: a call of the unwinder that looks as if a suspended task had made it.
 *
 * _Unwind_Reason_Code weir__unwind_suspended(void *sp, _Unwind_Trace_Fn fn, void *arg)
 *
 * `sp` points at the frame of switch_x86_64.S: r15 r14 r13 r12 rbx rbp, address to continue at.
 * During the call the canonical frame address is sp + 56, where the registers lie below it.
 */
#ifdef __x86_64__
	.text

	.globl	weir__unwind_suspended
	.hidden	weir__unwind_suspended
	.type	weir__unwind_suspended, @function
	.p2align 4
weir__unwind_suspended:
	.cfi_startproc
	pushq	%rbp
	.cfi_def_cfa_offset 16
	.cfi_offset %rbp, -16
	movq	%rsp, %rbp
	.cfi_def_cfa_register %rbp
	pushq	%rdi			/* -8(%rbp): sp */
	pushq	%rdi			/* keeps the alignment */
	movq	%rsi, %rdi
	movq	%rdx, %rsi
	.cfi_remember_state
	/* CFA = *(rbp - 8) + 56: def_cfa_expression(breg6 -8, deref, plus_uconst 56) */
	.cfi_escape 0x0f, 5, 0x76, 0x78, 0x06, 0x23, 56
	.cfi_offset %rip, -8
	.cfi_offset %rbp, -16
	.cfi_offset %rbx, -24
	.cfi_offset %r12, -32
	.cfi_offset %r13, -40
	.cfi_offset %r14, -48
	.cfi_offset %r15, -56
	call	_Unwind_Backtrace@PLT
	.cfi_restore_state
	leave
	.cfi_def_cfa %rsp, 8
	ret
	.cfi_endproc
	.size	weir__unwind_suspended, . - weir__unwind_suspended
#endif
	.section .note.GNU-stack, "", @progbits
