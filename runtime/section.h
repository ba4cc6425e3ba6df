/* SPDX-License-Identifier: MIT */
/*
 * section.h: tables that the linker puts together, one line from here, one from there.
 *
 * Objects of one type in a section of that name lie side by side; the linker makes up the symbols
 * __start_NAME and __stop_NAME around them. What is in a section is kept even where nothing refers
 * to it.
 */
#ifndef WEIR_SECTION_H
#define WEIR_SECTION_H

#if defined(__has_attribute)
#if __has_attribute(retain)
#define WEIR__RETAIN __attribute__((retain))
#endif
#endif
#ifndef WEIR__RETAIN
#define WEIR__RETAIN
#endif

#define WEIR__IN_SECTION(name) __attribute__((used, section(#name), aligned(8))) WEIR__RETAIN

/* Declares the bounds of the table `name` of objects of `type`. */
#define WEIR__SECTION_BOUNDS(type, name)                                                           \
	extern type __start_##name[] __attribute__((visibility("hidden")));                        \
	extern type __stop_##name[] __attribute__((visibility("hidden")))

#endif
