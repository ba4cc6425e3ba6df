/* SPDX-License-Identifier: MIT */
/*
 * stack.c: stacks for tasks.
 *
 * A slab is one mapping cut into slots; the lowest 16 KiB of a slot are its guard, the rest is the
 * stack. Slabs double in size, a slot is guarded when it first goes out, and descriptors lie behind
 * the last slot, so a stack that has not run yet costs no page of its own. Tops are staggered by
 * cache lines: page-aligned ones would all fall into the same sets of the cache. Between each top
 * and the end of its page there is room for the ledge.
 *
 * Idle stacks are a LIFO, the warmest on top. Giving pages back costs microseconds, so it happens
 * in the turn and from the cold end: stacks idle beyond the recent peak are purged, then slabs that
 * are idle as a whole are unmapped. A put touches only the LIFO: its caller is still standing on
 * the stack.
 */
#include "alloc/heap.h"

#if WEIR__ASAN
#include <sanitizer/asan_interface.h>
#endif

enum {
	GUARD_BYTES = 16 << 10,
	COLOURS = 26,
	COLOUR_STEP = 7,
	LINE_BYTES = 64,
	SLAB_SLOTS_FIRST = 8,
	SLAB_SLOTS_MAX = 1024,
	WARM_MIN = 4, /* idle stacks that keep their memory for good */
	PURGE_PER_TURN = 256,
	MANY = 1024,	  /* in use: their tops do not fit the second cache any more */
	GAP_BYTES = 4096, /* between the last stack's top and the descriptors */
};

#define WINDOW_NS (10000 * WEIR__MS)

struct weir__slab {
	struct weir__slab *next;
	char *base;
	size_t bytes;
	uint32_t slots;
	uint32_t carved; /* slots from here on were never handed out */
	uint32_t in_use;
	uint32_t guard_mappings; /* guards that took a mapping */
	struct weir__stack stacks[] __attribute__((aligned(64)));
};

/*
 * The slot of the smallest class has its guard on top: half of 32 KiB would be too little to run
 * on.
 */
static const uint32_t class_bytes[WEIR__STACK_CLASSES] = { 32 << 10, 64 << 10, 256 << 10, 1 << 20 };
static const uint32_t slot_bytes[WEIR__STACK_CLASSES] = { 48 << 10, 64 << 10, 256 << 10, 1 << 20 };

/* ---- Slabs ---------------------------------------------------------------------------------- */

static bool idle_reserve(struct weir__stacks *stacks, uint32_t room)
{
	if (room <= stacks->idle_room)
		return true;
	uint32_t bigger = stacks->idle_room == 0 ? 512 : stacks->idle_room * 2;
	while (bigger < room)
		bigger *= 2;
	size_t bytes = stacks->idle_room * sizeof(*stacks->idle);
	void *idle = bytes == 0
			     ? weir__os_map(bigger * sizeof(*stacks->idle), 4096)
			     : weir__os_remap(stacks->idle, bytes, bigger * sizeof(*stacks->idle));
	if (idle == NULL)
		return false;
	stacks->idle = idle;
	stacks->idle_room = bigger;
	return true;
}

/* As many as there are already: slabs stay few and an idle runtime small. */
static uint32_t slab_slots(const struct weir__stacks *stacks)
{
	uint32_t slots = stacks->total;
	if (slots < SLAB_SLOTS_FIRST)
		return SLAB_SLOTS_FIRST;
	return slots > SLAB_SLOTS_MAX ? SLAB_SLOTS_MAX : slots;
}

static struct weir__slab *slab_new(struct weir__stacks *stacks, unsigned class)
{
	uint32_t slots = slab_slots(stacks);
	if (!idle_reserve(stacks, stacks->total + slots))
		return NULL;
	size_t stacks_bytes = (size_t)slots * slot_bytes[class] + GAP_BYTES;
	size_t bytes =
		stacks_bytes + sizeof(struct weir__slab) + slots * sizeof(struct weir__stack);
	bytes = (bytes + 4095) & ~(size_t)4095;
	char *base = weir__os_map(bytes, 4096);
	if (base == NULL)
		return NULL;
	weir__os_small_pages(base, bytes);
	struct weir__slab *slab = (struct weir__slab *)(base + stacks_bytes);
	slab->base = base;
	slab->bytes = bytes;
	slab->slots = slots;
	slab->next = stacks->slabs;
	stacks->slabs = slab;
	stacks->total += slots;
	return slab;
}

/* A slot that was never out: the one system call a stack costs is its guard's. */
static struct weir__stack *carve(struct weir__stacks *stacks, unsigned class)
{
	struct weir__slab *slab = stacks->slabs;
	while (slab != NULL && slab->carved == slab->slots)
		slab = slab->next;
	if (slab == NULL)
		slab = slab_new(stacks, class);
	if (slab == NULL)
		return NULL;
	uint32_t i = slab->carved;
	char *slot = slab->base + (size_t)i * slot_bytes[class];
	int guard = weir__os_guard(slot, GUARD_BYTES);
	if (guard < 0)
		return NULL;
	slab->guard_mappings += (uint32_t)guard;
	slab->carved++;
	struct weir__stack *stack = &slab->stacks[i];
	stack->base = slot + GUARD_BYTES;
	stack->top = slot + slot_bytes[class] - WEIR__LEDGE_BYTES -
		     (i * COLOUR_STEP % COLOURS) * LINE_BYTES;
	stack->bytes_class = class;
	stack->guard_bytes = GUARD_BYTES;
	stack->index = i;
	stack->slab = slab;
	return stack;
}

/* Sanitizers and valgrind keep state for a stack: such a slab stays. */
static bool slab_known_to_tools(const struct weir__slab *slab)
{
	for (uint32_t i = 0; i < slab->carved; i++)
		if (slab->stacks[i].tsan_fiber != NULL || slab->stacks[i].valgrind_id != 0)
			return true;
	return false;
}

static void slab_unmap(struct weir__stacks *stacks, struct weir__slab **link)
{
	struct weir__slab *slab = *link;
	uint32_t kept = 0, clean = 0;
	for (uint32_t i = 0; i < stacks->idle_count; i++) {
		if (stacks->idle[i]->slab == slab)
			continue;
		clean += i < stacks->clean;
		stacks->idle[kept++] = stacks->idle[i];
	}
	WEIR__SET(stacks->idle_count, kept);
	stacks->clean = clean;
	stacks->total -= slab->slots;
	*link = slab->next;
	if (slab->guard_mappings > 0)
		weir__os_guards_gone(slab->guard_mappings);
	weir__os_unmap(slab->base, slab->bytes);
}

/* ---- Get, put, find ------------------------------------------------------------------------- */

/*
 * One more will be wanted soon, and where so many are out it has left the caches: its first frames,
 * and the descriptor of the one below it.
 */
static inline void fetch_next(struct weir__stack **idle)
{
	const char *top = idle[0]->top;
	for (int line = 1; line <= 6; line++)
		__builtin_prefetch(top - line * LINE_BYTES, 1);
	__builtin_prefetch(idle[-1], 1);
}

static struct weir__stack *pop_idle(struct weir__stacks *stacks)
{
	if (stacks->idle_count == 0)
		return NULL;
	uint32_t i = stacks->idle_count - 1;
	WEIR__SET(stacks->idle_count, i);
	if (stacks->clean > i)
		stacks->clean = i;
	if (__builtin_expect(stacks->in_use > MANY && i > 1, 0))
		fetch_next(&stacks->idle[i - 1]);
	return stacks->idle[i];
}

struct weir__stack *weir__stack_get(size_t bytes)
{
	struct weir__home *home = weir__home_self();
	unsigned class = 0;
	while (class < WEIR__STACK_CLASSES && bytes > class_bytes[class])
		class ++;
	if (home == NULL || class == WEIR__STACK_CLASSES)
		return NULL;
	if (weir__fault())
		return weir__refused(bytes);
	struct weir__stacks *stacks = &home->stacks[class];
	struct weir__stack *stack = pop_idle(stacks);
	if (stack == NULL)
		stack = carve(stacks, class);
	if (stack == NULL)
		return weir__refused(bytes);
	stack->slab->in_use++;
	WEIR__SET(stacks->in_use, stacks->in_use + 1);
	if (stacks->in_use > stacks->in_use_max)
		stacks->in_use_max = stacks->in_use;
#if WEIR__ASAN
	ASAN_UNPOISON_MEMORY_REGION(stack->base, (size_t)(stack->top - stack->base));
#endif
	return stack;
}

void weir__stack_put(struct weir__stack *stack)
{
	struct weir__stacks *stacks = &weir__home_self()->stacks[stack->bytes_class];
	stack->slab->in_use--;
	WEIR__SET(stacks->in_use, stacks->in_use - 1);
	stacks->idle[stacks->idle_count] = stack;
	WEIR__SET(stacks->idle_count, stacks->idle_count + 1);
}

/* The tools are told, so that they find who uses it later. */
void *weir__ledge_get(struct weir__stack *stack)
{
	if (WEIR__ASAN || weir__blocks_watched())
		weir__watch_alloc(stack->top, WEIR__LEDGE_BYTES, WEIR__LEDGE_BYTES);
	return stack->top;
}

void weir__ledge_put(void *ledge)
{
	if (WEIR__ASAN || weir__blocks_watched())
		weir__watch_free(ledge, WEIR__LEDGE_BYTES);
}

struct weir__stack *weir__stack_find(const void *address)
{
	struct weir__home *home = weir__home_self();
	for (unsigned class = 0; home != NULL && class < WEIR__STACK_CLASSES; class ++) {
		struct weir__slab *slab = home->stacks[class].slabs;
		for (; slab != NULL; slab = slab->next) {
			size_t i = ((uintptr_t)address - (uintptr_t)slab->base) / slot_bytes[class];
			if (i < slab->carved)
				return &slab->stacks[i];
		}
	}
	return NULL;
}

/* ---- How deep -------------------------------------------------------------------------------- */

enum { CLEAR_GAP_BYTES = 256 }; /* what weir__stack_clear() itself may use below its frame */

/* Guards end and slots end with a page. */
static char *first_resident(const struct weir__stack *stack)
{
	size_t bytes = (((uintptr_t)stack->top + 4095) & ~(uintptr_t)4095) - (uintptr_t)stack->base;
	return stack->base + weir__os_first_resident(stack->base, bytes);
}

size_t weir__stack_touched(const struct weir__stack *stack)
{
	const char *first = first_resident(stack);
	return first < stack->top ? (size_t)(stack->top - first) : 0;
}

/* Below the frames, where the compiler and the sanitizers expect nobody; hence both attributes. */
__attribute__((noinline, no_sanitize("address", "thread"))) void
weir__stack_clear(const struct weir__stack *stack)
{
	uintptr_t end = ((uintptr_t)__builtin_frame_address(0) - CLEAR_GAP_BYTES) & ~(uintptr_t)63;
	weir__watch_pause(true);
	volatile uint64_t *word = (volatile uint64_t *)(void *)first_resident(stack);
	for (; (uintptr_t)word < end; word += 8) {
		word[0] = word[1] = word[2] = word[3] = 0;
		word[4] = word[5] = word[6] = word[7] = 0;
	}
	weir__watch_pause(false);
}

/* While its task runs, maybe: what is read may be old, and is only compared with zero. */
__attribute__((noinline, no_sanitize("address", "thread"))) size_t
weir__stack_depth(const struct weir__stack *stack)
{
	weir__watch_pause(true);
	const volatile uint64_t *word =
		(const volatile uint64_t *)(const void *)first_resident(stack);
	const volatile uint64_t *end = (const volatile uint64_t *)(const void *)stack->top;
	while (word < end && (word[0] | word[1] | word[2] | word[3]) == 0)
		word += 4;
	while (word < end && *word == 0)
		word++;
	weir__watch_pause(false);
	return word < end ? (size_t)((const char *)end - (const char *)(uintptr_t)word) : 0;
}

/* ---- Trimming ------------------------------------------------------------------------------- */

/*
 * The recent peak is the most in use in this window of time and the one before: stacks that a burst
 * has left are kept for the next one if that comes within ten seconds, and are gone after twenty. A
 * half-life instead keeps the twentieth part of a large burst for minutes. A heap at rest has had
 * its windows already.
 */
static void pass_windows(struct weir__stacks *stacks, int64_t now_ns, int64_t rested_ns)
{
	if (now_ns - stacks->window_ns < WINDOW_NS && rested_ns < WINDOW_NS)
		return;
	stacks->peak = rested_ns < WINDOW_NS ? stacks->in_use_max : stacks->in_use;
	stacks->in_use_max = stacks->in_use;
	stacks->window_ns = now_ns;
}

/* How many idle stacks the recent peak does not ask for. */
static uint32_t surplus(const struct weir__stacks *stacks)
{
	uint32_t peak = stacks->peak > stacks->in_use_max ? stacks->peak : stacks->in_use_max;
	uint32_t keep = peak + 1;
	if (keep < WARM_MIN)
		keep = WARM_MIN;
	uint32_t have = stacks->in_use + stacks->idle_count;
	uint32_t most = have > keep ? have - keep : 0;
	return most < stacks->idle_count ? most : stacks->idle_count;
}

/* Purges from the cold end. Returns true when it stopped for its bound. */
static bool purge(struct weir__stacks *stacks, uint32_t end, uint32_t most)
{
	for (; stacks->clean < end && most > 0; most--) {
		struct weir__stack *stack = stacks->idle[stacks->clean++];
		char *end_of_slot = stack->slab->base +
				    (size_t)(stack->index + 1) * slot_bytes[stack->bytes_class];
		weir__os_purge(stack->base, (size_t)(end_of_slot - stack->base));
	}
	return stacks->clean < end;
}

/*
 * Unmaps one slab that is idle as a whole and for the most part not asked for. Returns whether
 * there was one.
 */
static bool unmap_one(struct weir__stacks *stacks, uint32_t most)
{
	for (struct weir__slab **link = &stacks->slabs; *link != NULL; link = &(*link)->next) {
		struct weir__slab *slab = *link;
		if (slab->in_use == 0 && slab->carved - slab->carved / 4 <= most &&
		    !slab_known_to_tools(slab)) {
			slab_unmap(stacks, link);
			return true;
		}
	}
	return false;
}

int64_t weir__stacks_turn(struct weir__home *home, int64_t now_ns)
{
	int64_t next = WEIR__NEVER;
	for (unsigned class = 0; class < WEIR__STACK_CLASSES; class ++) {
		struct weir__stacks *stacks = &home->stacks[class];
		if (stacks->total == 0)
			continue;
		pass_windows(stacks, now_ns, home->rested_ns);
		uint32_t extra = surplus(stacks);
		bool more = purge(stacks, extra, PURGE_PER_TURN);
		if (!more && extra > 0)
			more = unmap_one(stacks, extra);
		bool dirty = stacks->idle_count - stacks->clean > WARM_MIN;
		int64_t due = more ? now_ns : dirty ? stacks->window_ns + WINDOW_NS : WEIR__NEVER;
		if (due < next)
			next = due;
	}
	return next;
}

void weir__stacks_purge(struct weir__home *home)
{
	for (unsigned class = 0; class < WEIR__STACK_CLASSES; class ++)
		purge(&home->stacks[class], home->stacks[class].idle_count, UINT32_MAX);
}

void weir__stacks_drop(struct weir__home *home)
{
	for (unsigned class = 0; class < WEIR__STACK_CLASSES; class ++) {
		struct weir__stacks *stacks = &home->stacks[class];
		while (unmap_one(stacks, UINT32_MAX))
			;
		purge(stacks, stacks->idle_count, UINT32_MAX);
		stacks->peak = 0;
		stacks->in_use_max = stacks->in_use;
	}
}

void weir__stacks_count(const struct weir__home *home, struct weir__stack_counts *sum)
{
	for (unsigned class = 0; class < WEIR__STACK_CLASSES; class ++) {
		uint32_t in_use = WEIR__GET(home->stacks[class].in_use);
		sum->in_use += in_use;
		sum->cached += WEIR__GET(home->stacks[class].idle_count);
		sum->bytes += (uint64_t)in_use * slot_bytes[class];
	}
}
