/* SPDX-License-Identifier: MIT */
/*
 * dump.c: all tasks of a runtime as text.
 *
 * Every task is reachable from the first: a task has its open scopes, a scope its tasks. The walk
 * goes through the links that are there, so depth costs no stack, and copies what it finds: names
 * live only as long as their tasks. Symbols are looked up when the workers run again.
 *
 * A list belongs to the worker of the scope's opener, most of a task's record to the worker it runs
 * on. What is of a worker that is not here is left alone; name, site and id do not change.
 */
#include "runtime/dump.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "runtime/join.h"
#include "runtime/wait_kind.h"

WEIR__SECTION_BOUNDS(const struct weir__wait_kind, weir_wait_kinds);

enum {
	TASKS_MAX = 100000, /* shown; the others are counted */
	INDENT_MAX = 40,
	DETAIL_MAX = 160,
};

/* A growing array of bytes, straight from the kernel. Offsets into it stay. */
struct heap {
	char *at;
	size_t len, cap;
};

struct entry {
	uint64_t id;
	const char *site;  /* static */
	const char *label; /* static; what it waits for */
	weir_fn fn;
	int64_t for_ns;	       /* parked; -1: not known */
	int64_t left_ns;       /* to its deadline; INT64_MAX: none */
	uint32_t name, detail; /* in texts; 0: none */
	uint32_t pcs;	       /* in frames */
	uint32_t depth;
	uint32_t scopes;
	uint32_t stack_used, stack_bytes, stack_touched;
	uint16_t worker;
	uint8_t frames;
	uint8_t state;
	bool is_here;
	bool is_cancelled;
	bool is_interrupted; /* its wait is being ended */
};

struct weir__dump {
	const struct weir__runtime *runtime;
	unsigned workers;
	int64_t now_ns;
	uint64_t tasks;	     /* all that were found */
	struct heap entries; /* of struct entry, from offset 0 */
	struct heap texts;
	struct heap frames;
	uint32_t last_pcs, last_frames;
	bool is_short; /* of memory */
};

static bool heap_grow(struct heap *heap, size_t need)
{
	size_t cap = heap->cap ? heap->cap * 2 : 1 << 16;

	while (cap < need)
		cap *= 2;
	if (cap > UINT32_MAX)
		return false;
	void *at = heap->at ? mremap(heap->at, heap->cap, cap, MREMAP_MAYMOVE)
			    : mmap(NULL, cap, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
				   -1, 0);
	if (at == MAP_FAILED)
		return false;
	heap->at = at;
	heap->cap = cap;
	return true;
}

static void heap_free(struct heap *heap)
{
	if (heap->at)
		munmap(heap->at, heap->cap);
}

/* Returns the offset, 0 when memory is short. */
static uint32_t heap_add(struct weir__dump *dump, struct heap *heap, const void *data, size_t bytes)
{
	size_t at = heap->len;

	if (at + bytes > heap->cap && !heap_grow(heap, at + bytes)) {
		dump->is_short = true;
		return 0;
	}
	memcpy(heap->at + at, data, bytes);
	heap->len += bytes;
	return (uint32_t)at;
}

/* ---- One task ----------------------------------------------------------- */

static uint32_t add_text(struct weir__dump *dump, const char *text)
{
	return text ? heap_add(dump, &dump->texts, text, strlen(text) + 1) : 0;
}

static void add_frames(struct weir__dump *dump, struct entry *entry, const uintptr_t *pcs,
		       unsigned count)
{
	size_t bytes = count * sizeof *pcs;

	entry->frames = (uint8_t)count;
	entry->pcs = dump->last_pcs;
	if (count == 0 || (dump->last_frames == count &&
			   memcmp(dump->frames.at + dump->last_pcs, pcs, bytes) == 0))
		return; /* tasks of one kind wait in one place */
	entry->pcs = heap_add(dump, &dump->frames, pcs, bytes);
	dump->last_pcs = entry->pcs;
	dump->last_frames = count;
	if (entry->pcs == 0)
		entry->frames = 0;
}

static void look_at_stack(const struct weir__task *task, const void *sp, struct entry *entry)
{
	if (!task->stack)
		return;
	entry->stack_bytes = (uint32_t)(task->stack->top - task->stack->base);
	entry->stack_touched = (uint32_t)weir__stack_touched(task->stack);
	if ((const char *)sp >= task->stack->base && (const char *)sp <= task->stack->top)
		entry->stack_used = (uint32_t)(task->stack->top - (const char *)sp);
}

static const struct weir__wait_kind *kind_of(weir__abort_fn abort)
{
	const struct weir__wait_kind *kind = __start_weir_wait_kinds;

	for (; kind < __stop_weir_wait_kinds; kind++)
		if (kind->abort == abort)
			return kind;
	return NULL;
}

static void look_at_wait(struct weir__dump *dump, const struct weir__task *task,
			 struct entry *entry)
{
	weir__abort_fn abort = task->abort ? task->abort : task->aborted;
	char detail[DETAIL_MAX] = "";

	entry->for_ns = dump->now_ns - task->parked_ns;
	if (entry->for_ns < 0)
		entry->for_ns = 0;
	entry->is_interrupted = !task->abort && abort;
	if (!abort) {
		entry->label = task->wait;
		return;
	}
	const struct weir__wait_kind *kind = kind_of(abort);
	if (!kind)
		return;
	entry->label = kind->label_of ? kind->label_of(task) : kind->label;
	if (kind->describe)
		kind->describe(task, detail, sizeof detail);
	if (detail[0])
		entry->detail = add_text(dump, detail);
}

/* What its worker keeps of it, when that stands still. */
static void look_inside(struct weir__dump *dump, const struct weir__task *task,
			const struct weir__view *view, struct entry *entry)
{
	uintptr_t pcs[WEIR__FRAMES_MAX];
	const void *sp = task->sp;

	entry->state = task->state;
	entry->is_cancelled = task->cancelled;
	if (task->deadline_ns != INT64_MAX)
		entry->left_ns = task->deadline_ns - dump->now_ns;
	for (const struct weir__scope *scope = task->scope; scope; scope = scope->parent)
		entry->scopes++;
	if (task->state == WEIR__TASK_RUNNING && view->capture) {
		sp = view->capture->sp;
		add_frames(dump, entry, view->capture->pcs, view->capture->frames);
	} else if (task->state == WEIR__TASK_RUNNING) {
		sp = view->sp;
		add_frames(dump, entry, view->pcs, view->frames);
	} else if (task->state == WEIR__TASK_PARKED || task->state == WEIR__TASK_READY) {
		add_frames(dump, entry, pcs, weir__backtrace_task(task, pcs, WEIR__FRAMES_MAX));
	}
	look_at_stack(task, sp, entry);
	if (task->state == WEIR__TASK_PARKED)
		look_at_wait(dump, task, entry);
}

static void add_task(struct weir__dump *dump, const struct weir__task *task, uint32_t depth,
		     const struct weir__view *view)
{
	if (dump->tasks++ >= TASKS_MAX || dump->is_short)
		return;
	struct entry entry = {
		.id = weir__task_id(task),
		.site = task->site,
		.fn = weir__task_fn(task),
		.name = add_text(dump, task->name),
		.for_ns = -1,
		.left_ns = INT64_MAX,
		.depth = depth,
		.worker = task->worker->index,
		.is_here = view->is_here,
	};
	if (view->is_here)
		look_inside(dump, task, view, &entry);
	(void)heap_add(dump, &dump->entries, &entry, sizeof entry);
}

void weir__view_caller(struct weir__view *view, const struct weir__worker *self)
{
	view->sp = __builtin_frame_address(0);
	view->frames = self->current ? weir__backtrace(view->pcs, WEIR__FRAMES_MAX, 1) : 0;
}

/* ---- All tasks, in the order of their tree ------------------------------ */

/* The youngest task of `scope` or of one further out. */
static const struct weir__task *first_in(const struct weir__scope *scope)
{
	while (scope && !scope->children)
		scope = scope->parent;
	return scope ? scope->children : NULL;
}

/*
 * Only along links that spawn and end change by one store, so that a worker may be held in the
 * middle of either.
 */
static void walk(struct weir__dump *dump, const struct weir__view *views)
{
	const struct weir__task *task = &dump->runtime->root, *next;
	uint32_t depth = 0;

	while (task) {
		const struct weir__view *view = &views[task->worker->index];

		add_task(dump, task, depth, view);
		next = view->is_here && task->state != WEIR__TASK_NEW ? first_in(task->scope)
								      : NULL;
		depth += next != NULL;
		while (!next && task->owner) {
			next = task->sibling_next;
			if (!next)
				next = first_in(task->owner->parent);
			if (!next) {
				task = task->owner->task;
				depth--;
			}
		}
		task = next;
	}
}

struct weir__dump *weir__dump_new(const struct weir__runtime *runtime)
{
	struct weir__dump *dump = calloc(1, sizeof *dump);

	if (dump)
		dump->runtime = runtime;
	return dump;
}

int weir__dump_take(struct weir__dump *dump, const struct weir__view *views)
{
	dump->workers = dump->runtime->workers_count;
	dump->now_ns = weir__clock_ns();
	/* offset 0 stands for nothing */
	(void)heap_add(dump, &dump->texts, "", 1);
	(void)heap_add(dump, &dump->frames, &(uintptr_t){ 0 }, sizeof(uintptr_t));
	if (views[0].is_here)
		walk(dump, views);
	return dump->is_short ? -ENOMEM : 0;
}

void weir__dump_free(struct weir__dump *dump)
{
	if (!dump)
		return;
	heap_free(&dump->entries);
	heap_free(&dump->texts);
	heap_free(&dump->frames);
	free(dump);
}

/* ---- Text --------------------------------------------------------------- */

static void write_time(int64_t ns, FILE *out)
{
	if (ns < 10 * WEIR_SEC)
		fprintf(out, "%lld.%03lld s", (long long)(ns / WEIR_SEC),
			(long long)(ns % WEIR_SEC / WEIR_MS));
	else
		fprintf(out, "%lld s", (long long)(ns / WEIR_SEC));
}

static void write_state(const struct weir__dump *dump, const struct entry *entry, FILE *out)
{
	static const char *const states[] = {
		[WEIR__TASK_NEW] = "not started", [WEIR__TASK_READY] = "ready",
		[WEIR__TASK_RUNNING] = "running", [WEIR__TASK_PARKED] = "parked",
		[WEIR__TASK_ENDED] = "ended",
	};

	fprintf(out, "worker %u, ", entry->worker);
	if (!entry->is_here) {
		fputs("which does not answer", out);
		return;
	}
	fputs(entry->state == WEIR__TASK_READY && entry->stack_bytes == 0 ? "not started"
									  : states[entry->state],
	      out);
	if (entry->for_ns >= 0) {
		fputc(' ', out);
		write_time(entry->for_ns, out);
	}
	if (entry->label)
		fprintf(out, " in %s", entry->label);
	if (entry->detail)
		fprintf(out, " (%s)", dump->texts.at + entry->detail);
	if (entry->is_cancelled)
		fputs(", cancelled", out);
	if (entry->is_interrupted)
		fputs(", being interrupted", out);
	if (entry->left_ns != INT64_MAX) {
		fputs(entry->left_ns < 0 ? ", deadline passed " : ", deadline in ", out);
		write_time(entry->left_ns < 0 ? -entry->left_ns : entry->left_ns, out);
		fputs(entry->left_ns < 0 ? " ago" : "", out);
	}
}

static void write_entry(const struct weir__dump *dump, const struct entry *entry,
			struct weir__symbols *symbols, FILE *out)
{
	int indent = entry->depth * 2 < INDENT_MAX ? (int)entry->depth * 2 : INDENT_MAX;
	const char *name = dump->texts.at + entry->name; /* "" at 0 */

	fprintf(out, "%*s%llu \"%s\", ", indent, "", (unsigned long long)entry->id,
		name[0] ? name : weir__function_name(symbols, entry->fn));
	write_state(dump, entry, out);
	fprintf(out, "; spawned at %s", entry->site ? entry->site : "unknown");
	if (entry->depth * 2 > INDENT_MAX)
		fprintf(out, "; depth %u", entry->depth);
	if (entry->scopes > 1)
		fprintf(out, "; %u scopes", entry->scopes);
	if (entry->stack_bytes)
		fprintf(out, "; stack %.1f of %u KiB, %u touched", entry->stack_used / 1024.0,
			entry->stack_bytes / 1024, (entry->stack_touched + 1023) / 1024);
	fputc('\n', out);
}

/* Frames that are those of the task before are not repeated. */
static void write_frames(const struct weir__dump *dump, const struct entry *entry,
			 const struct entry *before, struct weir__symbols *symbols, FILE *out)
{
	char indent[INDENT_MAX + 5];
	size_t width = entry->depth * 2 < INDENT_MAX ? entry->depth * 2 : INDENT_MAX;

	memset(indent, ' ', width + 4);
	indent[width + 4] = '\0';
	if (entry->frames == 0)
		return;
	if (before && before->frames == entry->frames && before->pcs == entry->pcs)
		fprintf(out, "%sframes as above\n", indent);
	else
		weir__frames_write(symbols, (const void *)(dump->frames.at + entry->pcs),
				   entry->frames, indent, out);
}

static void write_absent(unsigned worker, const struct weir__view *view,
			 struct weir__symbols *symbols, FILE *out)
{
	const struct weir__capture *capture = view->capture;

	fprintf(out, "worker %u does not answer", worker);
	if (!capture)
		fputs(", not even to a signal\n", out);
	else if (!capture->has_task)
		fputs("; it runs no task\n", out);
	else
		fprintf(out, "; it runs %llu \"%s\", spawned at %s\n",
			(unsigned long long)capture->id, weir__capture_name(capture, symbols),
			capture->site ? capture->site : "unknown");
	if (capture)
		weir__frames_write(symbols, capture->pcs, capture->frames, "    ", out);
	if (!view->is_here)
		fputs("    its tasks cannot be looked at\n", out);
}

int weir__dump_write(const struct weir__dump *dump, const struct weir__view *views, FILE *out)
{
	struct weir__symbols *symbols = weir__symbols_open();
	const struct entry *entries = (const void *)dump->entries.at, *before = NULL;
	size_t count = dump->entries.len / sizeof *entries;

	fprintf(out, "weir: %llu tasks on %u workers\n", (unsigned long long)dump->tasks,
		dump->workers);
	for (unsigned i = 0; i < dump->workers; i++)
		if (!views[i].is_here || views[i].capture)
			write_absent(i, &views[i], symbols, out);
	for (size_t i = 0; i < count; before = &entries[i++]) {
		write_entry(dump, &entries[i], symbols, out);
		write_frames(dump, &entries[i], before, symbols, out);
	}
	if (dump->tasks > count)
		fprintf(out, "and %llu more\n", (unsigned long long)(dump->tasks - count));
	weir__symbols_close(symbols);
	return fflush(out) != 0 ? -errno : ferror(out) ? -EIO : 0;
}
