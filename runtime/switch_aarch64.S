/* SPDX-License-Identifier: MIT */
/*
 * switch_aarch64.S: the context switch of AAPCS64. See switch.h.
 *
 * Frame of a suspended context, 160 bytes from its stack pointer up:
 *	x29 x30, x19..x28, d8..d15
 */
#ifdef __aarch64__
	.text

	.globl	weir__switch
	.hidden	weir__switch
	.type	weir__switch, %function
	.p2align 4
weir__switch:
	.cfi_startproc
	sub	sp, sp, #160
	.cfi_adjust_cfa_offset 160
	stp	x29, x30, [sp, #0]
	.cfi_rel_offset x29, 0
	.cfi_rel_offset x30, 8
	stp	x19, x20, [sp, #16]
	.cfi_rel_offset x19, 16
	.cfi_rel_offset x20, 24
	stp	x21, x22, [sp, #32]
	.cfi_rel_offset x21, 32
	.cfi_rel_offset x22, 40
	stp	x23, x24, [sp, #48]
	.cfi_rel_offset x23, 48
	.cfi_rel_offset x24, 56
	stp	x25, x26, [sp, #64]
	.cfi_rel_offset x25, 64
	.cfi_rel_offset x26, 72
	stp	x27, x28, [sp, #80]
	.cfi_rel_offset x27, 80
	.cfi_rel_offset x28, 88
	stp	d8, d9, [sp, #96]
	stp	d10, d11, [sp, #112]
	stp	d12, d13, [sp, #128]
	stp	d14, d15, [sp, #144]
	mov	x9, sp
	str	x9, [x0]
	mov	sp, x1			/* the other frame has the same shape: the CFI stays true */
	ldp	x19, x20, [sp, #16]
	ldp	x21, x22, [sp, #32]
	ldp	x23, x24, [sp, #48]
	ldp	x25, x26, [sp, #64]
	ldp	x27, x28, [sp, #80]
	ldp	d8, d9, [sp, #96]
	ldp	d10, d11, [sp, #112]
	ldp	d12, d13, [sp, #128]
	ldp	d14, d15, [sp, #144]
	ldp	x29, x30, [sp, #0]
	add	sp, sp, #160
	.cfi_adjust_cfa_offset -160
	mov	x16, x30
	br	x16
	.cfi_endproc
	.size	weir__switch, . - weir__switch

/* void *weir__switch_prepare(void *stack_top, void (*entry)(void *), void *arg) */
	.globl	weir__switch_prepare
	.hidden	weir__switch_prepare
	.type	weir__switch_prepare, %function
	.p2align 4
weir__switch_prepare:
	.cfi_startproc
	sub	x0, x0, #160
	adr	x9, start
	stp	xzr, x9, [x0, #0]	/* x29 zero ends the frame chain */
	stp	x1, x2, [x0, #16]	/* x19: entry, x20: arg */
	stp	xzr, xzr, [x0, #32]
	stp	xzr, xzr, [x0, #48]
	stp	xzr, xzr, [x0, #64]
	stp	xzr, xzr, [x0, #80]
	stp	xzr, xzr, [x0, #96]
	stp	xzr, xzr, [x0, #112]
	stp	xzr, xzr, [x0, #128]
	stp	xzr, xzr, [x0, #144]
	ret
	.cfi_endproc
	.size	weir__switch_prepare, . - weir__switch_prepare

/* The first thing on a new stack. */
	.type	start, %function
	.p2align 4
start:
	.cfi_startproc
	.cfi_undefined x30		/* nothing called us: unwinders stop here */
	mov	x0, x20
	mov	x30, xzr
	blr	x19
	brk	#1
	.cfi_endproc
	.size	start, . - start
#endif
	.section .note.GNU-stack, "", %progbits
