/* SPDX-License-Identifier: MIT */
/*
 * address.c: text to socket address and back.
 *
 * Strict, so that each address has one spelling: format(parse(text)) is text again, but for the
 * zeros an IPv6 address may be written with, wildcards, and IPv4 in IPv6. Relies on inet_pton() for
 * the digits; what is around them is ours.
 */
#include "io/address.h"

#include <arpa/inet.h>
#include <errno.h>
#include <net/if.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

/*
 * Without the terminating zero, which the kernel adds itself; an abstract name has a leading zero
 * instead.
 */
enum { PATH_BYTES_MAX = sizeof(((struct sockaddr_un *)NULL)->sun_path) - 1 };
_Static_assert(WEIR__ADDRESS_TEXT_MAX > sizeof("unix:") + PATH_BYTES_MAX, "any path fits");
_Static_assert(WEIR__ADDRESS_TEXT_MAX > INET6_ADDRSTRLEN + IF_NAMESIZE + sizeof("[%]:65535"),
	       "so does IP");

static int parse_unix(const char *path, struct weir__address *ret);
static bool parse_port(const char *text, in_port_t *ret);
static bool parse_v6(char *host, struct sockaddr_in6 *ret);
static void any_address(in_port_t port, struct weir__address *ret);
static int format_v4(const struct in_addr *host, in_port_t port, char *ret);
static int format_v6(const struct sockaddr_in6 *v6, char *ret);
static int format_unix(const struct sockaddr_un *un, socklen_t len, char *ret);

int weir__address_parse(const char *text, struct weir__address *ret)
{
	char host[WEIR__ADDRESS_TEXT_MAX];
	struct weir__address address;
	in_port_t port;
	if (strncmp(text, "unix:", 5) == 0)
		return parse_unix(text + 5, ret);
	const char *colon = strrchr(text, ':');
	if (colon == NULL || (size_t)(colon - text) >= sizeof(host) ||
	    !parse_port(colon + 1, &port))
		return -EINVAL;
	size_t len = (size_t)(colon - text);
	memcpy(host, text, len);
	host[len] = '\0';
	memset(&address, 0, sizeof(address));
	if (len == 0 || strcmp(host, "*") == 0) {
		any_address(port, &address);
	} else if (host[0] == '[' && host[len - 1] == ']') {
		host[len - 1] = '\0';
		if (!parse_v6(host + 1, &address.v6))
			return -EINVAL;
		address.v6.sin6_port = port;
		address.len = sizeof(address.v6);
	} else {
		if (inet_pton(AF_INET, host, &address.v4.sin_addr) != 1)
			return -EINVAL;
		address.v4.sin_family = AF_INET;
		address.v4.sin_port = port;
		address.len = sizeof(address.v4);
	}
	*ret = address;
	return 0;
}

int weir__address_format(const struct sockaddr *address, socklen_t len, char *ret, size_t cap)
{
	const struct sockaddr_in *v4 = (const struct sockaddr_in *)address;
	char text[WEIR__ADDRESS_TEXT_MAX];
	int text_len = -ENOTSUP;
	if (len < sizeof(address->sa_family))
		return -ENOTSUP;
	if (address->sa_family == AF_UNIX)
		text_len = format_unix((const struct sockaddr_un *)address, len, text);
	else if (address->sa_family == AF_INET6 && len >= sizeof(struct sockaddr_in6))
		text_len = format_v6((const struct sockaddr_in6 *)address, text);
	else if (address->sa_family == AF_INET && len >= sizeof(struct sockaddr_in))
		text_len = format_v4(&v4->sin_addr, v4->sin_port, text);
	if (text_len < 0)
		return text_len;
	if ((size_t)text_len >= cap)
		return -ENOSPC;
	memcpy(ret, text, (size_t)text_len + 1);
	return 0;
}

/* ---- Internet ----------------------------------------------------------- */

/* Decimal digits without leading zeros and nothing behind them, up to `max`. */
static bool parse_number(const char *text, uint32_t max, uint32_t *ret)
{
	uint64_t value = 0;
	if (*text == '\0' || (text[0] == '0' && text[1] != '\0'))
		return false;
	for (; *text != '\0'; text++) {
		if (*text < '0' || *text > '9')
			return false;
		value = value * 10 + (uint64_t)(*text - '0');
		if (value > max)
			return false;
	}
	*ret = (uint32_t)value;
	return true;
}

static bool parse_port(const char *text, in_port_t *ret)
{
	uint32_t port;
	if (!parse_number(text, 65535, &port))
		return false;
	*ret = htons((uint16_t)port);
	return true;
}

/* Only these addresses are ambiguous without an interface. */
static bool is_link_local(const struct in6_addr *host)
{
	return IN6_IS_ADDR_LINKLOCAL(host) || IN6_IS_ADDR_MC_LINKLOCAL(host);
}

/* "::1" or "fe80::1%lo", the interface by name or number. */
static bool parse_v6(char *host, struct sockaddr_in6 *ret)
{
	char *zone = strchr(host, '%');
	if (zone != NULL)
		*zone++ = '\0';
	if (inet_pton(AF_INET6, host, &ret->sin6_addr) != 1)
		return false;
	ret->sin6_family = AF_INET6;
	if (zone == NULL)
		return true;
	if (!is_link_local(&ret->sin6_addr))
		return false;
	ret->sin6_scope_id = if_nametoindex(zone);
	return ret->sin6_scope_id != 0 ||
	       (parse_number(zone, UINT32_MAX, &ret->sin6_scope_id) && ret->sin6_scope_id != 0);
}

/* Asked each time, by trying: a wildcard is parsed once per listener. */
static bool has_v6(void)
{
	int fd = socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return errno != EAFNOSUPPORT;
	close(fd);
	return true;
}

static void any_address(in_port_t port, struct weir__address *ret)
{
	if (has_v6()) {
		ret->v6.sin6_family = AF_INET6;
		ret->v6.sin6_port = port;
		ret->len = sizeof(ret->v6);
	} else {
		ret->v4.sin_family = AF_INET;
		ret->v4.sin_port = port;
		ret->len = sizeof(ret->v4);
	}
}

static int format_v4(const struct in_addr *host, in_port_t port, char *ret)
{
	char digits[INET_ADDRSTRLEN];
	inet_ntop(AF_INET, host, digits, sizeof(digits));
	return snprintf(ret, WEIR__ADDRESS_TEXT_MAX, "%s:%u", digits, ntohs(port));
}

static int format_v6(const struct sockaddr_in6 *v6, char *ret)
{
	char digits[INET6_ADDRSTRLEN], name[IF_NAMESIZE], zone[IF_NAMESIZE + 1] = "";
	if (IN6_IS_ADDR_V4MAPPED(&v6->sin6_addr)) {
		struct in_addr v4;
		memcpy(&v4, v6->sin6_addr.s6_addr + 12, sizeof(v4));
		return format_v4(&v4, v6->sin6_port, ret);
	}
	inet_ntop(AF_INET6, &v6->sin6_addr, digits, sizeof(digits));
	if (v6->sin6_scope_id != 0 && is_link_local(&v6->sin6_addr)) {
		if (if_indextoname(v6->sin6_scope_id, name) != NULL)
			snprintf(zone, sizeof(zone), "%%%s", name);
		else
			snprintf(zone, sizeof(zone), "%%%u", v6->sin6_scope_id);
	}
	return snprintf(ret, WEIR__ADDRESS_TEXT_MAX, "[%s%s]:%u", digits, zone,
			ntohs(v6->sin6_port));
}

/* ---- Unix --------------------------------------------------------------- */

static int parse_unix(const char *path, struct weir__address *ret)
{
	size_t len = strlen(path);
	bool is_abstract = path[0] == '@';
	if (len == 0 || len > PATH_BYTES_MAX || (is_abstract && len == 1))
		return -EINVAL;
	memset(ret, 0, sizeof(*ret));
	ret->un.sun_family = AF_UNIX;
	memcpy(ret->un.sun_path, path, len);
	if (is_abstract)
		ret->un.sun_path[0] = '\0';
	ret->len = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + len + !is_abstract);
	return 0;
}

static int format_unix(const struct sockaddr_un *un, socklen_t len, char *ret)
{
	size_t room = len - offsetof(struct sockaddr_un, sun_path);
	if (room > sizeof(un->sun_path))
		return -ENOTSUP;
	bool is_abstract = room > 1 && un->sun_path[0] == '\0';
	const char *name = un->sun_path + is_abstract;
	size_t name_len = strnlen(name, room - is_abstract);
	if (is_abstract ? name_len != room - 1 : name_len > 0 && name[0] == '@')
		return -ENOTSUP;
	return snprintf(ret, WEIR__ADDRESS_TEXT_MAX, "unix:%s%.*s", is_abstract ? "@" : "",
			(int)name_len, name);
}

/* ---- Hosts -------------------------------------------------------------- */

bool weir__address_host(const struct weir__address *address, uint32_t *ret)
{
	const struct in6_addr *v6 = &address->v6.sin6_addr;
	bool is_v4 = address->any.sa_family == AF_INET;
	uint32_t hash = 2166136261u; /* FNV-1a */

	if (!is_v4 && address->any.sa_family != AF_INET6)
		return false;
	bool is_mapped = !is_v4 && IN6_IS_ADDR_V4MAPPED(v6);
	const unsigned char *bytes =
		is_v4 ? (const void *)&address->v4.sin_addr : v6->s6_addr + (is_mapped ? 12 : 0);
	for (unsigned i = 0; i < (is_v4 || is_mapped ? 4 : 16); i++)
		hash = (hash ^ bytes[i]) * 16777619u;
	*ret = hash ^ hash >> 16; /* its lowest bit is just a parity */
	return true;
}
