/* SPDX-License-Identifier: MIT */
/*
 * count.h: odd events, counted where they happen: nobody looks for them until something is odd.
 *
 *	if (WEIR_COUNT(res < len, "a send came back short"))
 *		...
 *
 * Costs nothing while the condition is false. The linker gathers the counters into one table, which
 * weir_metrics_write() shows.
 */
#ifndef WEIR_COUNT_H
#define WEIR_COUNT_H

#include <stdbool.h>
#include <stdint.h>

#include "runtime/section.h"

struct weir__odd_event {
	const char *why;
	const char *site;
	uint64_t count; /* any thread; relaxed */
};

#define WEIR__COUNT_STR2(x) #x
#define WEIR__COUNT_STR(x)  WEIR__COUNT_STR2(x)

/* The condition's value. `text` says what is odd about its being true. */
#define WEIR_COUNT(condition, text)                                                                \
	({                                                                                         \
		static struct weir__odd_event odd_event_ WEIR__IN_SECTION(weir_odd_events) = {     \
			.why = (text), .site = __FILE__ ":" WEIR__COUNT_STR(__LINE__)              \
		};                                                                                 \
		bool is_odd_ = (condition);                                                        \
		if (__builtin_expect(is_odd_, 0))                                                  \
			(void)__atomic_fetch_add(&odd_event_.count, 1, __ATOMIC_RELAXED);          \
		is_odd_;                                                                           \
	})

#endif
