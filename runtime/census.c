/* SPDX-License-Identifier: MIT */
/*
 * census.c: how deep the stacks of tasks get, by the place they were spawned at.
 *
 * Stacks pass from task to task, so what is touched of one says little about the task that has it.
 * A task that is measured therefore begins by clearing what lies below it; then the lowest byte
 * that is not zero is its own. That takes a microsecond, so only one in WEIR_STACK_CENSUS tasks of
 * a worker is measured, and most of the first few.
 *
 * The hard idea: the others pay one comparison at their spawn, of the number they get anyway. The
 * chosen one runs inside weir__census_main(), which the rest of the runtime knows nothing of.
 */
#include "runtime/census.h"

#include <stdlib.h>
#include <string.h>

#include "runtime/task.h"

/* On the stack of the task that is measured. */
struct weir__measured {
	struct weir__measured *next;
	struct weir__measured **pprev;
	const struct weir__stack *stack;
	struct weir__census_site *site; /* NULL: there was no room */
	_Atomic bool is_clear;		/* the task sets it; until then the stack is another's */
};

static const struct {
	const char *name;
	uint32_t usable_bytes; /* less up to 2 KiB, by which tops differ */
	enum weir_stack_class class;
	uint8_t shift;
} classes[] = {
	{ "WEIR_STACK_32K", 30 << 10, WEIR_STACK_32K, 0 },
	{ "WEIR_STACK_64K", 46 << 10, WEIR_STACK_64K, 1 },
	{ "WEIR_STACK_256K", 238 << 10, WEIR_STACK_256K, 3 },
	{ "WEIR_STACK_1M", 1006 << 10, WEIR_STACK_1M, 5 },
};
enum { CLASSES = sizeof classes / sizeof *classes };

/* ---- Which tasks -------------------------------------------------------- */

void weir__census_init(struct weir__worker *worker)
{
	if (worker->index == 0)
		(void)pthread_mutex_init(&worker->runtime->census.lock, NULL);
	worker->census_at = worker->runtime->config.stack_census ? 1 : 0;
}

/*
 * A quarter of those so far, so that what is spawned once at the start is seen too, up to the
 * number that is set. Scattered around it: programs spawn in patterns.
 */
static uint64_t gap(const struct weir__worker *self)
{
	uint64_t most = self->runtime->config.stack_census;
	uint64_t mean = self->ids / 4 + 1 < most ? self->ids / 4 + 1 : most;
	uint64_t random = self->ids * 0x9e3779b97f4a7c15u >> 32;

	return mean == 1 ? 1 : mean / 2 + 1 + random % mean;
}

void weir__census_choose(struct weir__worker *self, struct weir__task *task)
{
	task->measured_fn = task->fn;
	task->fn = weir__census_main;
	self->census_at = self->ids + gap(self);
}

/* ---- Measuring one ------------------------------------------------------ */

/* The end of a long path says more than its beginning. */
static const char *tail(const char *site)
{
	size_t len = strlen(site);

	return len < WEIR__CENSUS_SITE_BYTES ? site : site + len - (WEIR__CENSUS_SITE_BYTES - 1);
}

/* Under the lock. NULL: there is no room. */
static struct weir__census_site *find_site(struct weir__census *census,
					   const struct weir__task *task)
{
	const char *text = tail(task->site ? task->site : "unknown");
	uint32_t i = 0;

	while (i < census->sites_count && (census->sites[i].stack_shift != task->stack_shift ||
					   strcmp(census->sites[i].text, text) != 0))
		i++;
	if (i == WEIR_STACK_USES_MAX)
		return NULL;
	struct weir__census_site *site = &census->sites[i];
	if (i == census->sites_count) {
		strcpy(site->text, text);
		site->stack_shift = task->stack_shift;
		census->sites_count++;
	}
	return site;
}

static void begin(struct weir__census *census, const struct weir__task *task,
		  struct weir__measured *measured)
{
	measured->stack = task->stack;
	atomic_init(&measured->is_clear, false);
	pthread_mutex_lock(&census->lock);
	measured->site = find_site(census, task);
	if (measured->site)
		measured->site->measured++;
	else
		census->unplaced++;
	measured->next = census->running;
	measured->pprev = &census->running;
	if (measured->next)
		measured->next->pprev = &measured->next;
	census->running = measured;
	pthread_mutex_unlock(&census->lock);
}

/* Under the lock. */
static void note(const struct weir__measured *measured, size_t bytes)
{
	if (measured->site && bytes > measured->site->deepest_bytes)
		measured->site->deepest_bytes = (uint32_t)bytes;
}

static void end(struct weir__census *census, struct weir__measured *measured, size_t bytes)
{
	pthread_mutex_lock(&census->lock);
	note(measured, bytes);
	*measured->pprev = measured->next;
	if (measured->next)
		measured->next->pprev = measured->pprev;
	pthread_mutex_unlock(&census->lock);
}

/* Clearing comes last and measuring first: what begin() and end() use is not the task's. */
int weir__census_main(void *arg)
{
	struct weir__task *task = weir__worker_self()->current;
	struct weir__census *census = &task->worker->runtime->census;
	struct weir__measured measured;

	task->fn = task->measured_fn;
	begin(census, task, &measured);
	weir__stack_clear(measured.stack);
	/* release: pairs with the acquire in look() */
	atomic_store_explicit(&measured.is_clear, true, memory_order_release);
	int result = task->fn(arg);
	end(census, &measured, weir__stack_depth(measured.stack));
	return result;
}

/* ---- Asking ------------------------------------------------------------- */

/* Under the lock, with it those that run: their stacks stay until they get it themselves. */
static void look(struct weir__census *census)
{
	const struct weir__measured *measured = census->running;

	for (; measured; measured = measured->next)
		if (atomic_load_explicit(&measured->is_clear, memory_order_acquire))
			note(measured, weir__stack_depth(measured->stack));
}

/* Of which what was needed is two thirds at most. */
static unsigned fitting_class(uint32_t deepest_bytes)
{
	unsigned i = 0;

	while (i < CLASSES - 1 && deepest_bytes > classes[i].usable_bytes / 3 * 2)
		i++;
	return i;
}

static unsigned class_of(const struct weir__census_site *site)
{
	unsigned i = 0;

	while (i < CLASSES - 1 && classes[i].shift != site->stack_shift)
		i++;
	return i;
}

static void tell(const struct weir__census_site *site, struct weir_stack_use *ret)
{
	memcpy(ret->site, site->text, sizeof ret->site);
	ret->measured = site->measured;
	ret->deepest_bytes = site->deepest_bytes;
	ret->usable_bytes = classes[class_of(site)].usable_bytes;
	ret->stack = classes[class_of(site)].class;
	ret->fits = classes[fitting_class(site->deepest_bytes)].class;
}
_Static_assert(sizeof((struct weir_stack_use){ 0 }.site) == WEIR__CENSUS_SITE_BYTES, "copied");

static size_t get(struct weir__census *census, struct weir_stack_use *ret, size_t n,
		  uint64_t *ret_unplaced)
{
	pthread_mutex_lock(&census->lock);
	look(census);
	size_t count = census->sites_count < n ? census->sites_count : n;
	for (size_t i = 0; i < count; i++)
		tell(&census->sites[i], &ret[i]);
	*ret_unplaced = census->unplaced;
	pthread_mutex_unlock(&census->lock);
	return count;
}

size_t weir_stack_uses_get(struct weir_stack_use *ret, size_t n)
{
	struct weir__worker *self = weir__worker_self();
	uint64_t unplaced;

	return self ? get(&self->runtime->census, ret, n, &unplaced) : 0;
}

/* The nearest to the end of its stack first. */
static int by_share(const void *a, const void *b)
{
	const struct weir_stack_use *left = a, *right = b;
	uint64_t l = (uint64_t)left->deepest_bytes * right->usable_bytes;
	uint64_t r = (uint64_t)right->deepest_bytes * left->usable_bytes;

	return l == r ? 0 : l < r ? 1 : -1;
}

/* The library's own places have no line, and nobody can give them another class. */
static void write_use(const struct weir_stack_use *use, FILE *out)
{
	fprintf(out, "  %6.1f of %4u KiB, %8llu measured, spawned at %s",
		use->deepest_bytes / 1024.0, use->usable_bytes / 1024,
		(unsigned long long)use->measured, use->site);
	if (use->fits != use->stack && use->deepest_bytes > 0 && strchr(use->site, ':'))
		fprintf(out, "; %s %s", classes[fitting_class(use->deepest_bytes)].name,
			use->fits < use->stack ? "would do" : "would be safer");
	fputc('\n', out);
}

int weir__census_write(struct weir__runtime *runtime, FILE *out)
{
	struct weir_stack_use *uses = calloc(WEIR_STACK_USES_MAX, sizeof *uses);
	uint64_t unplaced;

	if (!uses)
		return -ENOMEM;
	size_t count = get(&runtime->census, uses, WEIR_STACK_USES_MAX, &unplaced);
	qsort(uses, count, sizeof *uses, by_share);
	if (count > 0)
		fputs("weir: stacks at their deepest, by spawn site\n", out);
	for (size_t i = 0; i < count; i++)
		write_use(&uses[i], out);
	if (unplaced > 0)
		fprintf(out, "  and %llu measured elsewhere\n", (unsigned long long)unplaced);
	free(uses);
	return fflush(out) != 0 ? -errno : ferror(out) ? -EIO : 0;
}
