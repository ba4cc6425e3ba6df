/* SPDX-License-Identifier: MIT */
/*
 * inherit.c: which descriptor an address like "fd:3" or "fd:http" names.
 *
 * A number is itself. A name is one that the service manager gave: systemd's protocol, where the
 * descriptors from 3 on are LISTEN_FDS many, LISTEN_FDNAMES has their names with colons between,
 * and LISTEN_PID says whom all this is meant for, as children inherit the environment too.
 */
#include "io/inherit.h"

#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { FIRST = 3 };

/* Decimal digits and nothing else: the number, or -EINVAL. */
static int parse(const char *text)
{
	long long value = 0;

	if (!text || !*text)
		return -EINVAL;
	for (; *text; text++) {
		if (*text < '0' || *text > '9')
			return -EINVAL;
		value = value * 10 + (*text - '0');
		if (value > INT_MAX)
			return -EINVAL;
	}
	return (int)value;
}

static int find(const char *name)
{
	const char *at = secure_getenv("LISTEN_FDNAMES");
	int count = parse(secure_getenv("LISTEN_FDS"));

	if (parse(secure_getenv("LISTEN_PID")) != (int)getpid() || !at)
		return -ENOENT;
	for (int i = 0; i < count; i++) {
		size_t len = strcspn(at, ":");
		if (strlen(name) == len && strncmp(at, name, len) == 0)
			return FIRST + i;
		if (!at[len])
			break;
		at += len + 1;
	}
	return -ENOENT;
}

int weir__inherited_fd(const char *name)
{
	if (!*name)
		return -EINVAL;
	int fd = parse(name);
	return fd >= 0 ? fd : find(name);
}
