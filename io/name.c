/* SPDX-License-Identifier: MIT */
/*
 * name.c: names of hosts, looked up by the C library.
 *
 * getaddrinfo() knows this machine's hosts file, name servers and rules of order (RFC 6724), but it
 * blocks for as long as a name server is silent. So it runs in a pool of its own, which cannot
 * starve other work, and as abandonable work: a task that is cancelled goes on at once, and the
 * look-up ends in its own time, with a query on the heap that nobody else looks at any more.
 */
#include "io/name.h"

#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { HOST_BYTES = 254 /* RFC 1035, and the zero */, PORT_BYTES = 6 };

struct query {
	char host[HOST_BYTES];
	char port[PORT_BYTES];
	struct addrinfo *found;
};

static void query_free(void *arg)
{
	struct query *query = arg;

	if (query->found)
		freeaddrinfo(query->found);
	weir_free(query);
}

/* What a host's name may consist of; so no blank or colon gets through, nor an address. */
static bool is_host(const char *text, size_t len)
{
	if (len == 0 || len >= HOST_BYTES || text[0] == '-' || text[0] == '.')
		return false;
	return strspn(text, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-_") >=
	       len;
}

static bool is_port(const char *text)
{
	size_t len = strspn(text, "0123456789");

	return len > 0 && len < PORT_BYTES && text[len] == '\0' && atoi(text) <= 65535;
}

static int parse(const char *text, struct query *ret)
{
	const char *colon = strrchr(text, ':');

	if (!colon || !is_host(text, (size_t)(colon - text)) || !is_port(colon + 1))
		return -EINVAL;
	memcpy(ret->host, text, (size_t)(colon - text));
	ret->host[colon - text] = '\0';
	strcpy(ret->port, colon + 1);
	ret->found = NULL;
	return 0;
}

static int error_of(int code)
{
	switch (code) {
	case 0:
		return 0;
	case EAI_AGAIN:
		return -EAGAIN;
	case EAI_MEMORY:
		return -ENOMEM;
	case EAI_SYSTEM:
		return errno ? -errno : -EIO;
	case EAI_NONAME:
	case EAI_NODATA:
		return -ENOENT;
	default:
		return -EIO;
	}
}

/* On a thread of the pool. */
static int look_up(void *arg)
{
	struct query *query = arg;
	struct addrinfo hints = { .ai_socktype = SOCK_STREAM, .ai_flags = AI_NUMERICSERV };

	return error_of(getaddrinfo(query->host, query->port, &hints, &query->found));
}

static int copy(const struct addrinfo *found, struct weir__address *ret, unsigned max)
{
	unsigned count = 0;

	for (; found && count < max; found = found->ai_next) {
		if (found->ai_addrlen > sizeof ret->un)
			continue;
		memcpy(&ret[count].any, found->ai_addr, found->ai_addrlen);
		ret[count++].len = found->ai_addrlen;
	}
	return count ? (int)count : -ENOENT;
}

int weir__name_resolve(struct weir__worker *self, const char *text, struct weir__address *ret,
		       unsigned max)
{
	struct query parsed;
	int result = 0;
	int err = parse(text, &parsed);

	if (err < 0)
		return err;
	if (weir__virtual) /* where the outside world is not */
		return -EINVAL;
	struct query *query = weir_alloc(sizeof *query);
	if (!query)
		return -ENOMEM;
	*query = parsed;
	err = weir_blocking(look_up, query, .pool = weir__blocking_dns(self), .ret_result = &result,
			    .abandon = query_free);
	if (err < 0)
		return err;
	err = result < 0 ? result : copy(query->found, ret, max);
	query_free(query);
	return err;
}
