/* SPDX-License-Identifier: MIT */
/*
 * timer.c: the timer wheel. timer.h states the invariant that makes next-expiry a bit scan.
 */
#include "runtime/timer.h"

#include <string.h>

const size_t weir__wheel_bytes = sizeof(struct weir__wheel);

void weir__wheel_init(struct weir__wheel *wheel, int64_t now_ns)
{
	memset(wheel, 0, sizeof *wheel);
	wheel->tick = (uint64_t)now_ns >> WEIR__TICK_SHIFT;
	wheel->due_tail = &wheel->due;
}

static uint64_t tick_of(int64_t expires_ns)
{
	uint64_t round_up = ((uint64_t)1 << WEIR__TICK_SHIFT) - 1;

	return ((uint64_t)expires_ns + round_up) >> WEIR__TICK_SHIFT;
}

static void list_push(struct weir__timer **head, struct weir__timer *timer)
{
	timer->next = *head;
	timer->pprev = head;
	if (timer->next)
		timer->next->pprev = &timer->next;
	*head = timer;
}

static void due_append(struct weir__wheel *wheel, struct weir__timer *timer)
{
	timer->next = NULL;
	timer->pprev = wheel->due_tail;
	*wheel->due_tail = timer;
	wheel->due_tail = &timer->next;
	wheel->armed++;
}

/* tick > wheel->tick */
static void slot_insert(struct weir__wheel *wheel, struct weir__timer *timer, uint64_t tick)
{
	unsigned high =
		63u - (unsigned)__builtin_clzll((tick ^ wheel->tick) | (WEIR__WHEEL_SLOTS - 1));
	unsigned level = high / WEIR__WHEEL_BITS;
	unsigned slot = (unsigned)(tick >> (level * WEIR__WHEEL_BITS)) & (WEIR__WHEEL_SLOTS - 1);

	if (!wheel->slots[level][slot] || tick < wheel->first[level][slot])
		wheel->first[level][slot] = tick;
	list_push(&wheel->slots[level][slot], timer);
	wheel->occupied[level] |= (uint64_t)1 << slot;
	wheel->armed++;
}

void weir__timer_arm(struct weir__wheel *wheel, struct weir__timer *timer, int64_t expires_ns)
{
	weir__timer_cancel(wheel, timer);
	timer->expires_ns = expires_ns;
	uint64_t tick = tick_of(expires_ns);
	if (tick <= wheel->tick)
		tick = wheel->tick + 1;
	slot_insert(wheel, timer, tick);
}

void weir__timer_cancel(struct weir__wheel *wheel, struct weir__timer *timer)
{
	struct weir__timer **pprev = timer->pprev;

	if (!pprev)
		return;
	*pprev = timer->next;
	if (timer->next)
		timer->next->pprev = pprev;
	else if (wheel->due_tail == &timer->next)
		wheel->due_tail = pprev;
	timer->pprev = NULL;

	/* The list is empty now and its head lies in a slot: clear the slot's bit. */
	struct weir__timer **first = &wheel->slots[0][0];
	uintptr_t at = (uintptr_t)pprev - (uintptr_t)first;
	bool in_slots = at < sizeof wheel->slots;
	if (in_slots && !*pprev) {
		size_t index = at / sizeof *first;
		wheel->occupied[index / WEIR__WHEEL_SLOTS] &=
			~((uint64_t)1 << (index % WEIR__WHEEL_SLOTS));
	}
	wheel->armed--;
}

/* The lowest occupied level; its first slot is the earliest. */
static bool earliest(const struct weir__wheel *wheel, unsigned *ret_level, unsigned *ret_slot,
		     uint64_t *ret_tick)
{
	for (unsigned level = 0; level < WEIR__WHEEL_LEVELS; level++) {
		if (!wheel->occupied[level])
			continue;
		unsigned slot = (unsigned)__builtin_ctzll(wheel->occupied[level]);
		unsigned shift = level * WEIR__WHEEL_BITS;
		uint64_t below = ((uint64_t)WEIR__WHEEL_SLOTS << shift) - 1;

		*ret_level = level;
		*ret_slot = slot;
		*ret_tick = (wheel->tick & ~below) | ((uint64_t)slot << shift);
		return true;
	}
	return false;
}

/* Takes a slot's timers, oldest first; only `next` links them. */
static struct weir__timer *empty_slot(struct weir__wheel *wheel, unsigned level, unsigned slot)
{
	struct weir__timer *timer = wheel->slots[level][slot];
	struct weir__timer *oldest_first = NULL;

	wheel->slots[level][slot] = NULL;
	wheel->occupied[level] &= ~((uint64_t)1 << slot);
	while (timer) {
		struct weir__timer *next = timer->next;
		timer->next = oldest_first;
		oldest_first = timer;
		timer = next;
		wheel->armed--;
	}
	return oldest_first;
}

/* The wheel stands at the slot's first tick: what expires then is due, the rest moves down a level.
 */
static void open_slot(struct weir__wheel *wheel, unsigned level, unsigned slot)
{
	struct weir__timer *timer = empty_slot(wheel, level, slot);

	while (timer) {
		struct weir__timer *next = timer->next;
		uint64_t tick = tick_of(timer->expires_ns);

		if (tick <= wheel->tick)
			due_append(wheel, timer);
		else
			slot_insert(wheel, timer, tick);
		timer = next;
	}
}

static __attribute__((noinline)) void open_slots(struct weir__wheel *wheel, uint64_t now)
{
	unsigned level, slot;
	uint64_t tick;

	while (wheel->tick < now && earliest(wheel, &level, &slot, &tick) && tick <= now) {
		wheel->tick = tick;
		open_slot(wheel, level, slot);
	}
}

void weir__wheel_advance(struct weir__wheel *wheel, int64_t now_ns)
{
	uint64_t now = (uint64_t)now_ns >> WEIR__TICK_SHIFT;

	/* As long as no higher digit changes, what expires lies in the lowest level. */
	if (wheel->occupied[0] || (now ^ wheel->tick) >= WEIR__WHEEL_SLOTS)
		open_slots(wheel, now);
	if (wheel->tick < now)
		wheel->tick = now;
}

struct weir__timer *weir__wheel_pop(struct weir__wheel *wheel)
{
	struct weir__timer *timer = wheel->due;

	if (timer)
		weir__timer_cancel(wheel, timer);
	return timer;
}

int64_t weir__wheel_next(const struct weir__wheel *wheel)
{
	unsigned level, slot;
	uint64_t tick;

	if (wheel->due)
		return 0;
	if (!earliest(wheel, &level, &slot, &tick))
		return INT64_MAX;
	uint64_t next = wheel->first[level][slot] << WEIR__TICK_SHIFT;
	return next < INT64_MAX ? (int64_t)next : INT64_MAX;
}
