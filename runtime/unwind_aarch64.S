/* SPDX-License-Identifier: MIT */
/*
 * unwind_aarch64.S: a call of the unwinder that looks as if a suspended task had made it.
 *
 * _Unwind_Reason_Code weir__unwind_suspended(void *sp, _Unwind_Trace_Fn fn, void *arg)
 *
 * `sp` points at the frame of switch_aarch64.S: x29 x30, x19..x28, d8..d15, 160 bytes. During the
 * call the canonical frame address is sp + 160.
 */
#ifdef __aarch64__
	.text

	.globl	weir__unwind_suspended
	.hidden	weir__unwind_suspended
	.type	weir__unwind_suspended, %function
	.p2align 4
weir__unwind_suspended:
	.cfi_startproc
	stp	x29, x30, [sp, #-32]!
	.cfi_def_cfa_offset 32
	.cfi_offset x29, -32
	.cfi_offset x30, -24
	mov	x29, sp
	.cfi_def_cfa_register x29
	str	x0, [x29, #16]
	mov	x0, x1
	mov	x1, x2
	.cfi_remember_state
	/* CFA = *(x29 + 16) + 160: def_cfa_expression(breg29 16, deref, plus_uconst 160) */
	.cfi_escape 0x0f, 6, 0x8d, 16, 0x06, 0x23, 0xa0, 0x01
	.cfi_offset x29, -160
	.cfi_offset x30, -152
	.cfi_offset x19, -144
	.cfi_offset x20, -136
	.cfi_offset x21, -128
	.cfi_offset x22, -120
	.cfi_offset x23, -112
	.cfi_offset x24, -104
	.cfi_offset x25, -96
	.cfi_offset x26, -88
	.cfi_offset x27, -80
	.cfi_offset x28, -72
	bl	_Unwind_Backtrace
	.cfi_restore_state
	ldp	x29, x30, [sp], #32
	.cfi_restore x29
	.cfi_restore x30
	.cfi_def_cfa sp, 0
	ret
	.cfi_endproc
	.size	weir__unwind_suspended, . - weir__unwind_suspended
#endif
	.section .note.GNU-stack, "", %progbits
