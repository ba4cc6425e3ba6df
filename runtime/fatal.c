/* SPDX-License-Identifier: MIT */
/*
 * fatal.c: says which task broke, and where, before the process dies.
 *
 * Two ways in: weir__fatal() for a failed assert, and a handler of SIGSEGV and SIGBUS that
 * recognises a task which has run into the guard below its stack. The handler runs on a signal
 * stack of the worker's, because the task's own is full.
 *
 * Everything here is async-signal-safe: write, open, read, close and arithmetic. Frames are found
 * by frame pointers, between the bounds of the stack they are on, so that a damaged chain ends the
 * list and not the report. They are printed as module+offset, for addr2line; modules come from
 * /proc/self/maps, since dladdr and backtrace_symbols take the loader's lock.
 */
#include "runtime/fatal.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <ucontext.h>
#include <unistd.h>

#include "alloc/alloc_internal.h"

enum {
	/* Ours takes 12 KiB; a handler that we pass a fault on to may want more. */
	SIGNAL_STACK_BYTES = 64 * 1024,
	SIGNAL_STACK_GUARD = 64 * 1024, /* the largest page there is */
	/* Of a deep recursion: the innermost frames, and the outermost, where it came from. */
	FRAMES_FIRST = 12,
	FRAMES_LAST = 4,
	FRAMES_MAX = 1 << 16,
	RED_ZONE_BYTES = 256, /* what a leaf function may use below its stack pointer */
	/* How far below the guard a large frame may have put the stack pointer. */
	JUMP_BYTES_MAX = 1 << 20,
};

/* The registers a list of frames starts from. */
struct registers {
	uintptr_t pc, fp, sp;
};

struct text {
	char bytes[4096];
	size_t len;
};

/* A line of /proc/self/maps, and the module it belongs to. */
struct mapping {
	uintptr_t low, high;
	uintptr_t module_low; /* where the first mapping of the same file begins */
	char path[256];	      /* empty: anonymous */
};

static void on_fault(int number, siginfo_t *info, void *context);
static bool is_overflow(const struct weir__task_info *task, uintptr_t address, uintptr_t sp);
static void pass_on(int number, siginfo_t *info, void *context);
static void say_task(struct text *text, const struct weir__task_info *task);
static void say_frames(struct text *text, const struct registers *at,
		       const struct weir__task_info *task);
static void say(struct text *text, const char *string);
static void say_number(struct text *text, uint64_t number);
static void say_frame(struct text *text, unsigned index, uintptr_t pc);
static void flush(struct text *text);
static bool find_mapping(uintptr_t address, struct mapping *ret);

static struct sigaction previous_segv, previous_bus; /* written before the handler is in place */

/* Of this thread. Touched in attach and detach only, which never park. */
static _Thread_local char *signal_stack;
static _Thread_local stack_t previous_stack;

/* ---- Registers: the one place that knows the machine -------------------- */

#if defined(__x86_64__)
static struct registers interrupted(const void *context)
{
	const greg_t *r = ((const ucontext_t *)context)->uc_mcontext.gregs;
	return (struct registers){ (uintptr_t)r[REG_RIP], (uintptr_t)r[REG_RBP],
				   (uintptr_t)r[REG_RSP] };
}
#elif defined(__aarch64__)
static struct registers interrupted(const void *context)
{
	const mcontext_t *m = &((const ucontext_t *)context)->uc_mcontext;
	return (struct registers){ m->pc, m->regs[29], m->sp };
}
#else
static struct registers interrupted(const void *context)
{
	(void)context;
	return (struct registers){ 0, 0, 0 };
}
#endif

/* ---- Set-up ------------------------------------------------------------- */

static void init_once(void)
{
	struct sigaction action = { .sa_sigaction = on_fault, .sa_flags = SA_SIGINFO | SA_ONSTACK };
	sigemptyset(&action.sa_mask);
	sigaction(SIGSEGV, NULL, &previous_segv);
	sigaction(SIGBUS, NULL, &previous_bus);
	sigaction(SIGSEGV, &action, NULL);
	sigaction(SIGBUS, &action, NULL);
}

void weir__fatal_init_process(void)
{
	static pthread_once_t once = PTHREAD_ONCE_INIT;
	pthread_once(&once, init_once);
}

void weir__fatal_mask(sigset_t *ret)
{
	static const int own[] = { SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGTRAP, SIGSYS };
	sigfillset(ret);
	for (size_t i = 0; i < sizeof(own) / sizeof(*own); i++)
		sigdelset(ret, own[i]);
}

int weir__fatal_attach_thread(void)
{
	if (signal_stack != NULL)
		return 0;
	char *base = mmap(NULL, SIGNAL_STACK_GUARD + SIGNAL_STACK_BYTES, PROT_READ | PROT_WRITE,
			  MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK, -1, 0);
	if (base == MAP_FAILED)
		return -ENOMEM;
	stack_t stack = { .ss_sp = base + SIGNAL_STACK_GUARD, .ss_size = SIGNAL_STACK_BYTES };
	if (mprotect(base, SIGNAL_STACK_GUARD, PROT_NONE) < 0 ||
	    sigaltstack(&stack, &previous_stack) < 0) {
		munmap(base, SIGNAL_STACK_GUARD + SIGNAL_STACK_BYTES);
		return -ENOMEM;
	}
	signal_stack = base;
	return 0;
}

void weir__fatal_detach_thread(void)
{
	if (signal_stack == NULL)
		return;
	sigaltstack(&previous_stack, NULL);
	munmap(signal_stack, SIGNAL_STACK_GUARD + SIGNAL_STACK_BYTES);
	signal_stack = NULL;
}

/* ---- The two reports ---------------------------------------------------- */

__attribute__((noinline)) void weir__fatal(const char *what, const char *where)
{
	struct text text = { .len = 0 };
	struct weir__task_info task;
	bool has_task = weir__fatal_task_info(&task);
	struct registers here = {
		.pc = (uintptr_t)__builtin_return_address(0),
		.fp = *(uintptr_t *)__builtin_frame_address(0),
		.sp = (uintptr_t)__builtin_frame_address(0),
	};
	say(&text, "------ weir " WEIR_VERSION ": cut here ------\nweir: ");
	say(&text, what);
	say(&text, "\nweir: at ");
	say(&text, where);
	if (has_task) {
		say(&text, ", worker ");
		say_number(&text, (uint64_t)task.worker);
		say(&text, ", in ");
		say_task(&text, &task);
	}
	say(&text, "\n");
	say_frames(&text, &here, has_task ? &task : NULL);
	say(&text,
	    "------ weir: cut here; this is a bug in weir or memory was overwritten ------\n");
	flush(&text);
	abort();
}

/* The size that was asked for; the guard and the colouring of the top may have come off it. */
static unsigned stack_kib(const struct weir__task_info *task)
{
	static const unsigned class_kib[] = { 32, 64, 256, 1024 };
	size_t bytes = (size_t)(task->stack_top - task->stack_base);
	unsigned i = 0;
	while (i < sizeof(class_kib) / sizeof(*class_kib) - 1 && bytes > class_kib[i] * 1024)
		i++;
	return class_kib[i];
}

static const char *hint(unsigned kib)
{
	if (kib < 256)
		return "weir: try .stack = WEIR_STACK_256K when spawning it, or "
		       "WEIR_STACK_KB=256\n";
	if (kib < 1024)
		return "weir: try .stack = WEIR_STACK_1M when spawning it, or WEIR_STACK_KB=1024\n";
	return "weir: no stack is larger; put large arrays into weir_alloc() and bound recursion\n";
}

static void say_overflow(const struct registers *at, const struct weir__task_info *task)
{
	struct text text = { .len = 0 };
	unsigned kib = stack_kib(task);
	say(&text, "weir: stack overflow in ");
	say_task(&text, task);
	say(&text, ", stack ");
	say_number(&text, kib);
	say(&text, " KiB\n");
	say(&text, hint(kib));
	say_frames(&text, at, task);
	flush(&text);
}

static void say_guarded(const struct registers *at, const struct weir__guarded *guarded,
			uintptr_t address)
{
	struct text text = { .len = 0 };
	struct weir__task_info task;
	uintptr_t begin = (uintptr_t)guarded->block, end = begin + guarded->size;
	uintptr_t distance = address >= end ? address - end : address - begin;
	const char *place = " bytes behind the beginning";
	if (address < begin) {
		distance = begin - address;
		place = " bytes before the beginning";
	} else if (address >= end) {
		place = " bytes behind the end";
	}
	say(&text, guarded->is_freed ? "weir: use after free, " : "weir: access out of bounds, ");
	say_number(&text, distance);
	say(&text, place);
	say(&text, " of a block of ");
	say_number(&text, guarded->size);
	say(&text, " bytes\nweir: allocated at\n");
	say_frame(&text, 0, (uintptr_t)guarded->allocated_by);
	if (guarded->is_freed) {
		say(&text, "weir: freed at\n");
		say_frame(&text, 0, (uintptr_t)guarded->freed_by);
	}
	say(&text, "weir: used in ");
	if (weir__fatal_task_info(&task)) {
		say_task(&text, &task);
		say(&text, "\n");
		say_frames(&text, at, &task);
	} else {
		say(&text, "a thread without tasks\n");
		say_frame(&text, 0, at->pc);
	}
	flush(&text);
}

/* After a report the fault takes its course: the earlier handler, or death by the real signal. */
static void on_fault(int number, siginfo_t *info, void *context)
{
	static atomic_flag reported = ATOMIC_FLAG_INIT;
	struct weir__task_info task;
	int saved = errno;
	struct registers at = interrupted(context);
	struct weir__guarded guarded;
	if (info->si_code > 0 && weir__guard_find(info->si_addr, &guarded) &&
	    !atomic_flag_test_and_set_explicit(&reported, memory_order_relaxed))
		say_guarded(&at, &guarded, (uintptr_t)info->si_addr);
	/* SEGV_ACCERR by mprotect, SEGV_MAPERR by MADV_GUARD_INSTALL; 0 or less: it was sent. */
	if (info->si_code > 0 && weir__fatal_task_info(&task) &&
	    is_overflow(&task, (uintptr_t)info->si_addr, at.sp) &&
	    !atomic_flag_test_and_set_explicit(&reported, memory_order_relaxed))
		say_overflow(&at, &task);
	errno = saved;
	pass_on(number, info, context);
}

static bool is_below_stack(const struct weir__task_info *task, uintptr_t sp)
{
	uintptr_t base = (uintptr_t)task->stack_base;
	return sp < base && sp >= base - task->guard_bytes - JUMP_BYTES_MAX;
}

/* In the guard; or between it and a stack pointer that one large frame has moved over it. */
static bool is_overflow(const struct weir__task_info *task, uintptr_t address, uintptr_t sp)
{
	uintptr_t base = (uintptr_t)task->stack_base;
	uintptr_t low = is_below_stack(task, sp) ? sp - RED_ZONE_BYTES : base;
	if (low > base - task->guard_bytes)
		low = base - task->guard_bytes;
	return address >= low && address < base;
}

static void pass_on(int number, siginfo_t *info, void *context)
{
	const struct sigaction *previous = number == SIGSEGV ? &previous_segv : &previous_bus;
	if (previous->sa_flags & SA_SIGINFO) {
		previous->sa_sigaction(number, info, context);
		return;
	}
	if (previous->sa_handler != SIG_DFL && previous->sa_handler != SIG_IGN) {
		previous->sa_handler(number);
		return;
	}
	bool was_sent = info->si_code <= 0;
	if (was_sent && previous->sa_handler == SIG_IGN)
		return;
	/* A fault comes again when we return. What was sent does not: send it again. */
	signal(number, SIG_DFL);
	if (was_sent)
		raise(number);
}

static void say_task(struct text *text, const struct weir__task_info *task)
{
	say(text, "task \"");
	say(text, task->name);
	say(text, "\" (id ");
	say_number(text, task->id);
	say(text, "), spawned at ");
	say(text, task->site);
}

/* ---- Frames ------------------------------------------------------------- */

/* Where to look for frames: from some registers up to the end of the stack they are on. */
struct chain {
	struct registers at;
	uintptr_t low, high;
};

/* A task's stack by its bounds, since its guard must not be read; another by its mapping. */
static void chain_init(struct chain *chain, const struct registers *at,
		       const struct weir__task_info *task)
{
	struct mapping mapping;
	chain->at = *at;
	chain->low = chain->high = at->sp;
	if (task != NULL && is_below_stack(task, at->sp)) {
		chain->low = (uintptr_t)task->stack_base;
		chain->high = (uintptr_t)task->stack_top;
	} else if (task != NULL && at->sp >= (uintptr_t)task->stack_base &&
		   at->sp < (uintptr_t)task->stack_top) {
		chain->high = (uintptr_t)task->stack_top;
	} else if (find_mapping(at->sp, &mapping)) {
		chain->high = mapping.high;
	}
}

/*
 * The next frame's program counter, 0 at the end. Frame pointers rise and stay within the stack; a
 * chain that does not is damaged, or comes from code built without them, and ends.
 */
static uintptr_t chain_next(struct chain *chain)
{
	uintptr_t pc = chain->at.pc, fp = chain->at.fp;
	chain->at.pc = 0;
	if (fp >= chain->low && fp < chain->high && chain->high - fp >= 2 * sizeof(fp) &&
	    fp % sizeof(fp) == 0) {
		const uintptr_t *frame = (const uintptr_t *)fp;
		chain->low = fp + 2 * sizeof(fp);
		chain->at.fp = frame[0];
		chain->at.pc = frame[1];
	}
	return pc;
}

static void say_hex(struct text *text, uintptr_t number)
{
	char digits[2 * sizeof(number) + 3];
	size_t at = sizeof(digits) - 1;
	digits[at] = '\0';
	do {
		digits[--at] = "0123456789abcdef"[number & 15];
	} while ((number >>= 4) != 0);
	digits[--at] = 'x';
	digits[--at] = '0';
	say(text, digits + at);
}

static void say_frame(struct text *text, unsigned index, uintptr_t pc)
{
	struct mapping mapping;
	say(text, "  #");
	say_number(text, index);
	say(text, "  ");
	say_hex(text, pc);
	if (find_mapping(pc, &mapping) && mapping.path[0] != '\0') {
		say(text, "  ");
		say(text, mapping.path);
		say(text, "+");
		say_hex(text, pc - mapping.module_low);
	}
	say(text, "\n");
}

static void say_frames(struct text *text, const struct registers *at,
		       const struct weir__task_info *task)
{
	struct chain chain, again;
	unsigned count = 0;
	uintptr_t pc;
	chain_init(&chain, at, task);
	again = chain;
	while (count < FRAMES_MAX && chain_next(&chain) != 0)
		count++;
	for (unsigned i = 0; i < count && (pc = chain_next(&again)) != 0; i++) {
		if (i < FRAMES_FIRST || i + FRAMES_LAST >= count) {
			say_frame(text, i, pc);
		} else if (i == FRAMES_FIRST) {
			say(text, "  ... ");
			say_number(text, count - FRAMES_FIRST - FRAMES_LAST);
			say(text, " more ...\n");
		}
	}
}

/* ---- Modules: /proc/self/maps ------------------------------------------- */

struct reader {
	int fd;
	ssize_t len, at;
	char bytes[1024];
};

/* The next character, -1 at the end. */
static int next(struct reader *reader)
{
	if (reader->at == reader->len) {
		reader->len = read(reader->fd, reader->bytes, sizeof(reader->bytes));
		reader->at = 0;
		if (reader->len <= 0) {
			reader->len = 0;
			return -1;
		}
	}
	return (unsigned char)reader->bytes[reader->at++];
}

/* A hexadecimal number and the character behind it. */
static uintptr_t next_hex(struct reader *reader)
{
	uintptr_t number = 0;
	for (;;) {
		int c = next(reader);
		if (c >= '0' && c <= '9')
			number = number << 4 | (uintptr_t)(c - '0');
		else if (c >= 'a' && c <= 'f')
			number = number << 4 | (uintptr_t)(c - 'a' + 10);
		else
			return number;
	}
}

/* One line: "low-high perms offset device inode   path". */
static bool next_mapping(struct reader *reader, struct mapping *ret)
{
	size_t len = 0;
	int c, fields = 4;
	ret->low = next_hex(reader);
	ret->high = next_hex(reader);
	while ((c = next(reader)) != -1 && c != '\n' && (fields > 0 || c == ' '))
		fields -= c == ' ' && fields > 0;
	for (; c != -1 && c != '\n'; c = next(reader))
		if (len < sizeof(ret->path) - 1)
			ret->path[len++] = (char)c;
	ret->path[len] = '\0';
	return c != -1;
}

static bool find_mapping(uintptr_t address, struct mapping *ret)
{
	struct reader reader = { .fd = open("/proc/self/maps", O_RDONLY | O_CLOEXEC) };
	struct mapping module = { .low = 0 };
	bool found = false;
	if (reader.fd < 0)
		return false;
	while (!found && next_mapping(&reader, ret)) {
		ret->module_low = ret->low;
		if (ret->path[0] != '\0' && strcmp(ret->path, module.path) == 0)
			ret->module_low = module.low;
		else if (ret->path[0] != '\0')
			module = *ret;
		found = address >= ret->low && address < ret->high;
	}
	close(reader.fd);
	return found;
}

/* ---- Text --------------------------------------------------------------- */

static void flush(struct text *text)
{
	for (size_t done = 0; done < text->len;) {
		ssize_t written = write(STDERR_FILENO, text->bytes + done, text->len - done);
		if (written < 0 && errno == EINTR)
			continue;
		if (written <= 0)
			break;
		done += (size_t)written;
	}
	text->len = 0;
}

static void say(struct text *text, const char *string)
{
	for (; *string != '\0'; string++) {
		if (text->len == sizeof(text->bytes))
			flush(text);
		text->bytes[text->len++] = *string;
	}
}

static void say_number(struct text *text, uint64_t number)
{
	char digits[24];
	size_t at = sizeof(digits) - 1;
	digits[at] = '\0';
	do {
		digits[--at] = (char)('0' + number % 10);
	} while ((number /= 10) != 0);
	say(text, digits + at);
}
