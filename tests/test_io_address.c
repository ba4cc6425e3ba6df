/* SPDX-License-Identifier: MIT */
/* Addresses: text to sockaddr and back. */
#include <arpa/inet.h>
#include <check.h>
#include <errno.h>
#include <net/if.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "io/address.h"
#include "refuse.h"

#define COUNT(array) (sizeof(array) / sizeof(*(array)))

static uint64_t random_next(uint64_t *state)
{
	uint64_t z = *state += 0x9e3779b97f4a7c15u;
	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
	z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
	return z ^ (z >> 31);
}

static bool is_same(const struct weir__address *a, const struct weir__address *b)
{
	return a->len == b->len && memcmp(&a->any, &b->any, a->len) == 0;
}

/* ---- Parsing --------------------------------------------------------------------------------- */

static const struct {
	const char *text;
	const char *canonical;
	int family;
} good[] = {
	{ "127.0.0.1:7000", "127.0.0.1:7000", AF_INET },
	{ "0.0.0.0:0", "0.0.0.0:0", AF_INET },
	{ "255.255.255.255:65535", "255.255.255.255:65535", AF_INET },
	{ "[::1]:7000", "[::1]:7000", AF_INET6 },
	{ "[::]:1", "[::]:1", AF_INET6 },
	{ "[0:0:0:0:0:0:0:1]:80", "[::1]:80", AF_INET6 },
	{ "[2001:DB8::0042]:443", "[2001:db8::42]:443", AF_INET6 },
	{ "[fe80::1]:7", "[fe80::1]:7", AF_INET6 },
	{ "[fe80::1%lo]:7", "[fe80::1%lo]:7", AF_INET6 },
	{ "[fe80::1%1]:7", "[fe80::1%lo]:7", AF_INET6 },
	{ "[ff02::1%lo]:7", "[ff02::1%lo]:7", AF_INET6 },
	{ "[fe80::1%4000000000]:7", "[fe80::1%4000000000]:7", AF_INET6 },
	{ "[::ffff:10.1.2.3]:80", "10.1.2.3:80", AF_INET6 },
	{ "unix:/run/x.sock", "unix:/run/x.sock", AF_UNIX },
	{ "unix:x", "unix:x", AF_UNIX },
	{ "unix:a b:c%[", "unix:a b:c%[", AF_UNIX },
	{ "unix:@x", "unix:@x", AF_UNIX },
	{ "unix:@@", "unix:@@", AF_UNIX },
};

START_TEST(good_text_is_taken_and_given_back)
{
	struct weir__address address, again;
	char text[WEIR__ADDRESS_TEXT_MAX];
	ck_assert_int_eq(weir__address_parse(good[_i].text, &address), 0);
	ck_assert_int_eq(address.any.sa_family, good[_i].family);
	ck_assert_int_eq(weir__address_format(&address.any, address.len, text, sizeof(text)), 0);
	ck_assert_str_eq(text, good[_i].canonical);
	ck_assert_int_eq(weir__address_parse(text, &again), 0);
	if (address.any.sa_family == again.any.sa_family)
		ck_assert(is_same(&address, &again));
}
END_TEST

START_TEST(fields_are_where_the_kernel_looks)
{
	struct weir__address address;
	ck_assert_int_eq(weir__address_parse("1.2.3.4:258", &address), 0);
	ck_assert_uint_eq(address.v4.sin_addr.s_addr, htonl(0x01020304));
	ck_assert_uint_eq(address.v4.sin_port, htons(258));
	ck_assert_uint_eq(address.len, sizeof(struct sockaddr_in));
	ck_assert_int_eq(weir__address_parse("[fe80::1%lo]:258", &address), 0);
	ck_assert_uint_eq(address.v6.sin6_port, htons(258));
	ck_assert_uint_eq(address.v6.sin6_scope_id, if_nametoindex("lo"));
	ck_assert_uint_eq(address.v6.sin6_flowinfo, 0);
	ck_assert_uint_eq(address.len, sizeof(struct sockaddr_in6));
	ck_assert_int_eq(weir__address_parse("unix:@ab", &address), 0);
	ck_assert_uint_eq(address.len, offsetof(struct sockaddr_un, sun_path) + 3);
	ck_assert_mem_eq(address.un.sun_path, "\0ab", 3);
	ck_assert_int_eq(weir__address_parse("unix:ab", &address), 0);
	ck_assert_uint_eq(address.len, offsetof(struct sockaddr_un, sun_path) + 3);
	ck_assert_mem_eq(address.un.sun_path, "ab\0", 3);
}
END_TEST

static const char *const bad[] = {
	"",
	":",
	"*",
	"*:",
	"7000",
	"127.0.0.1",
	"127.0.0.1:",
	"127.0.0.1:65536",
	"127.0.0.1:99999999999999999999",
	"127.0.0.1:-1",
	"127.0.0.1:+1",
	"127.0.0.1: 1",
	"127.0.0.1:1 ",
	" 127.0.0.1:1",
	"127.0.0.1:0x50",
	"127.0.0.1:080",
	"127.0.0.1:00",
	"127.0.0.1:http",
	"127.0.0.1:80\n",
	"127.0.0.1:80:80",
	"127.0.0:80",
	"127.1:80",
	"127.0.0.01:80",
	"127.0.0.256:80",
	"0x7f.0.0.1:80",
	"2130706433:80",
	"127.0.0.1.:80",
	"localhost:80",
	"example.com:80",
	"**:80",
	"*.0.0.1:80",
	"::1:80",
	"::1",
	"[::1]",
	"[::1]80",
	"[::1]:",
	"[::1:80",
	"::1]:80",
	"[]:80",
	"[",
	"[:80",
	"]:80",
	"[[::1]]:80",
	"[::1]]:80",
	"[127.0.0.1]:80",
	"[::1%]:80",
	"[::1%lo]:80",
	"[fe80::1%]:80",
	"[fe80::1%nosuchif9]:80",
	"[fe80::1%0]:80",
	"[fe80::1%01]:80",
	"[fe80::1%4294967296]:80",
	"[fe80::1%lo%lo]:80",
	"[%lo]:80",
	"[::1]:80 ",
	"[ ::1]:80",
	"[::g]:80",
	"[1:2:3:4:5:6:7]:80",
	"[1:2:3:4:5:6:7:8:9]:80",
	"tcp:127.0.0.1:80",
	"unix",
	"unix:",
	"unix:@",
	"UNIX:/x",
	"unix/:x",
	"[unix:/x]:80",
	"%:80",
	".:80",
	"...:80",
};

START_TEST(anything_else_is_refused_and_nothing_stored)
{
	struct weir__address address, before;
	memset(&address, 0xa5, sizeof(address));
	before = address;
	ck_assert_msg(weir__address_parse(bad[_i], &address) == -EINVAL, "%s", bad[_i]);
	ck_assert_mem_eq(&address, &before, sizeof(address));
}
END_TEST

START_TEST(unix_paths_end_where_the_kernel_ends_them)
{
	struct weir__address address;
	char text[200] = "unix:", back[WEIR__ADDRESS_TEXT_MAX];
	const size_t most = sizeof(address.un.sun_path) - 1;
	for (int kind = 0; kind < 2; kind++) {
		memset(text + 5, 'p', most + 1);
		text[5] = kind == 0 ? '/' : '@';
		text[5 + most + 1] = '\0';
		ck_assert_int_eq(weir__address_parse(text, &address), -EINVAL);
		text[5 + most] = '\0';
		ck_assert_int_eq(weir__address_parse(text, &address), 0);
		ck_assert_int_eq(
			weir__address_format(&address.any, address.len, back, sizeof(back)), 0);
		ck_assert_str_eq(back, text);
		int fd = socket(AF_UNIX, SOCK_STREAM, 0);
		ck_assert_int_ge(fd, 0);
		if (kind == 1)
			ck_assert_int_eq(bind(fd, &address.any, address.len), 0);
		close(fd);
	}
}
END_TEST

START_TEST(text_of_any_length_is_survived)
{
	struct weir__address address;
	char text[400];
	for (size_t len = 0; len < sizeof(text) - 4; len++) {
		memset(text, '1', len);
		strcpy(text + len, ":80");
		ck_assert_int_eq(weir__address_parse(text, &address), len == 0 ? 0 : -EINVAL);
	}
}
END_TEST

START_TEST(the_wildcard_is_dual_stack_where_there_is_ipv6)
{
	struct weir__address a, b;
	int fd = socket(AF_INET6, SOCK_STREAM, 0);
	ck_assert_int_eq(weir__address_parse(":7000", &a), 0);
	ck_assert_int_eq(weir__address_parse("*:7000", &b), 0);
	ck_assert(is_same(&a, &b));
	ck_assert_int_eq(a.any.sa_family, fd < 0 ? AF_INET : AF_INET6);
	ck_assert_uint_eq(a.v4.sin_port, htons(7000));
	if (fd >= 0)
		close(fd);
}
END_TEST

START_TEST(the_wildcard_is_ipv4_where_there_is_no_ipv6)
{
	int status;
	pid_t child = fork();
	ck_assert_int_ge(child, 0);
	if (child == 0) {
		struct weir__address address;
		char text[WEIR__ADDRESS_TEXT_MAX] = "";
		if (refuse_syscall(SYS_socket, AF_INET6, EAFNOSUPPORT) != 0)
			_exit(2);
		if (weir__address_parse(":7000", &address) != 0)
			_exit(3);
		weir__address_format(&address.any, address.len, text, sizeof(text));
		_exit(strcmp(text, "0.0.0.0:7000") == 0 ? 0 : 4);
	}
	ck_assert_int_eq(waitpid(child, &status, 0), child);
	ck_assert_int_eq(status, 0);
}
END_TEST

/* ---- Formatting ------------------------------------------------------------------------------ */

START_TEST(a_text_that_does_not_fit_is_not_begun)
{
	struct weir__address address;
	char text[32] = "before";
	ck_assert_int_eq(weir__address_parse("127.0.0.1:7000", &address), 0);
	ck_assert_int_eq(weir__address_format(&address.any, address.len, text, 14), -ENOSPC);
	ck_assert_int_eq(weir__address_format(&address.any, address.len, text, 0), -ENOSPC);
	ck_assert_str_eq(text, "before");
	ck_assert_int_eq(weir__address_format(&address.any, address.len, text, 15), 0);
	ck_assert_str_eq(text, "127.0.0.1:7000");
}
END_TEST

START_TEST(what_text_cannot_hold_is_not_supported)
{
	struct weir__address address;
	char text[WEIR__ADDRESS_TEXT_MAX];
	const socklen_t head = offsetof(struct sockaddr_un, sun_path);
	memset(&address, 0, sizeof(address));
	address.un.sun_family = AF_UNIX;
	memcpy(address.un.sun_path, "\0a\0b", 4);
	ck_assert_int_eq(weir__address_format(&address.any, head + 4, text, sizeof(text)),
			 -ENOTSUP);
	memcpy(address.un.sun_path, "@path", 6);
	ck_assert_int_eq(weir__address_format(&address.any, head + 6, text, sizeof(text)),
			 -ENOTSUP);
	address.any.sa_family = AF_NETLINK;
	ck_assert_int_eq(weir__address_format(&address.any, 12, text, sizeof(text)), -ENOTSUP);
	address.any.sa_family = AF_INET6;
	ck_assert_int_eq(weir__address_format(&address.any, 16, text, sizeof(text)), -ENOTSUP);
	address.any.sa_family = AF_INET;
	ck_assert_int_eq(weir__address_format(&address.any, 8, text, sizeof(text)), -ENOTSUP);
	ck_assert_int_eq(weir__address_format(&address.any, 1, text, sizeof(text)), -ENOTSUP);
	ck_assert_int_eq(weir__address_format(&address.any, 0, text, sizeof(text)), -ENOTSUP);
}
END_TEST

START_TEST(a_nameless_unix_peer_has_an_empty_name)
{
	struct weir__address address;
	char text[WEIR__ADDRESS_TEXT_MAX];
	int pair[2];
	address.len = sizeof(address.un);
	ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
	ck_assert_int_eq(getpeername(pair[0], &address.any, &address.len), 0);
	ck_assert_int_eq(weir__address_format(&address.any, address.len, text, sizeof(text)), 0);
	ck_assert_str_eq(text, "unix:");
	close(pair[0]);
	close(pair[1]);
}
END_TEST

START_TEST(a_path_may_fill_sun_path_without_a_zero)
{
	struct weir__address address;
	char text[WEIR__ADDRESS_TEXT_MAX];
	memset(&address, 'q', sizeof(address));
	address.un.sun_family = AF_UNIX;
	ck_assert_int_eq(weir__address_format(&address.any, sizeof(address.un), text, sizeof(text)),
			 0);
	ck_assert_uint_eq(strlen(text), 5 + sizeof(address.un.sun_path));
	ck_assert_int_eq(
		weir__address_format(&address.any, sizeof(address.un) + 1, text, sizeof(text)),
		-ENOTSUP);
}
END_TEST

/* ---- Properties ------------------------------------------------------------------------------ */

/* Plain ifs in these loops: every ck_assert, true or not, writes to a file. */
enum { ROUNDS = 100000 };

static void random_address(uint64_t *state, struct weir__address *ret)
{
	memset(ret, 0, sizeof(*ret));
	uint64_t pick = random_next(state), high = random_next(state), low = random_next(state);
	if (pick % 2 == 0) {
		ret->v4.sin_family = AF_INET;
		ret->v4.sin_addr.s_addr = (in_addr_t)low;
		ret->v4.sin_port = (in_port_t)high;
		ret->len = sizeof(ret->v4);
		return;
	}
	for (unsigned i = 0; i < 8; i++) /* about half of the groups zero, to meet every "::" */
		if (high >> i & 1)
			memcpy(ret->v6.sin6_addr.s6_addr + 2 * i, (char *)&low + i % 7, 2);
	ret->v6.sin6_addr.s6_addr[0] |= 0x20; /* neither IPv4 in IPv6 nor link-local */
	ret->v6.sin6_addr.s6_addr[0] &= 0x3f;
	ret->v6.sin6_family = AF_INET6;
	ret->v6.sin6_port = (in_port_t)(high >> 16);
	ret->len = sizeof(ret->v6);
}

START_TEST(any_internet_address_survives_the_round_trip)
{
	uint64_t state = (uint64_t)_i;
	for (int i = 0; i < ROUNDS; i++) {
		struct weir__address address, again;
		char text[WEIR__ADDRESS_TEXT_MAX];
		random_address(&state, &address);
		if (weir__address_format(&address.any, address.len, text, sizeof(text)) != 0)
			ck_abort_msg("round %d of seed %d has no text", i, _i);
		if (weir__address_parse(text, &again) != 0 || !is_same(&address, &again))
			ck_abort_msg("%s comes back as another", text);
	}
}
END_TEST

/* Text near the grammar: pieces of it in random order, with some noise. */
static void random_text(uint64_t *state, char *ret, size_t cap)
{
	static const char *const piece[] = {
		"127.0.0.1", "0",	"1", "255", "256", ".",	   ":",	     "::",     "[",	"]",
		"[::1]",     "fe80::1", "%", "lo",  "*",   ":80",  ":65535", ":65536", "unix:", "@",
		"/",	     "a",	"f", " ",   "\t",  "\xff", "-",	     "00",     "]:7",
	};
	size_t used = 0;
	uint64_t count = random_next(state) % 9;
	for (uint64_t i = 0; i < count; i++) {
		uint64_t pick = random_next(state);
		const char *next = piece[pick % COUNT(piece)];
		char noise[2] = { (char)(pick >> 40), '\0' };
		if (pick >> 32 & 7)
			noise[0] = '\0';
		size_t repeat = (pick >> 48 & 63) == 0 ? 60 : 1;
		while (repeat-- > 0 && used + strlen(next) + 2 < cap)
			used += (size_t)sprintf(ret + used, "%s%s", next, noise);
	}
	ret[used] = '\0';
}

START_TEST(random_text_is_refused_or_has_one_meaning)
{
	uint64_t state = (uint64_t)_i + 1000;
	int taken = 0;
	for (int i = 0; i < ROUNDS; i++) {
		struct weir__address address, again;
		char text[512], back[WEIR__ADDRESS_TEXT_MAX], twice[WEIR__ADDRESS_TEXT_MAX];
		random_text(&state, text, sizeof(text));
		int result = weir__address_parse(text, &address);
		if (result == -EINVAL)
			continue;
		taken++;
		if (result != 0 ||
		    weir__address_format(&address.any, address.len, back, sizeof(back)) != 0)
			ck_abort_msg("%s: %d", text, result);
		if (weir__address_parse(back, &again) != 0)
			ck_abort_msg("%s became %s, which is refused", text, back);
		weir__address_format(&again.any, again.len, twice, sizeof(twice));
		if (strcmp(back, twice) != 0)
			ck_abort_msg("%s became %s became %s", text, back, twice);
	}
	ck_assert_msg(taken > ROUNDS / 1000, "the generator is too far from the grammar: %d",
		      taken);
}
END_TEST

static bool host_of(const char *text, uint32_t *ret)
{
	struct weir__address address;

	ck_assert_int_eq(weir__address_parse(text, &address), 0);
	return weir__address_host(&address, ret);
}

START_TEST(a_host_is_the_same_with_every_port_and_in_both_families)
{
	uint32_t a, b;

	ck_assert(host_of("10.0.0.7:1", &a) && host_of("10.0.0.7:65000", &b));
	ck_assert_uint_eq(a, b);
	ck_assert(host_of("[::ffff:10.0.0.7]:80", &b));
	ck_assert_uint_eq(a, b);
	ck_assert(host_of("10.0.0.8:1", &b));
	ck_assert_uint_ne(a, b);
	ck_assert(host_of("[fe80::1]:1", &a) && host_of("[fe80::1]:2", &b));
	ck_assert_uint_eq(a, b);
	ck_assert(!host_of("unix:/run/x", &a));
}
END_TEST

Suite *io_address_suite(void)
{
	Suite *suite = suite_create("io_address");
	TCase *parsing = tcase_create("parsing");
	tcase_set_tags(parsing, "fast");
	tcase_add_loop_test(parsing, good_text_is_taken_and_given_back, 0, COUNT(good));
	tcase_add_test(parsing, fields_are_where_the_kernel_looks);
	tcase_add_loop_test(parsing, anything_else_is_refused_and_nothing_stored, 0, COUNT(bad));
	tcase_add_test(parsing, unix_paths_end_where_the_kernel_ends_them);
	tcase_add_test(parsing, text_of_any_length_is_survived);
	tcase_add_test(parsing, the_wildcard_is_dual_stack_where_there_is_ipv6);
	suite_add_tcase(suite, parsing);
	TCase *without = tcase_create("without_ipv6");
	tcase_set_tags(without, "seccomp");
	tcase_add_test(without, the_wildcard_is_ipv4_where_there_is_no_ipv6);
	suite_add_tcase(suite, without);
	TCase *formatting = tcase_create("formatting");
	tcase_set_tags(formatting, "fast");
	tcase_add_test(formatting, a_text_that_does_not_fit_is_not_begun);
	tcase_add_test(formatting, what_text_cannot_hold_is_not_supported);
	tcase_add_test(formatting, a_nameless_unix_peer_has_an_empty_name);
	tcase_add_test(formatting, a_path_may_fill_sun_path_without_a_zero);
	suite_add_tcase(suite, formatting);
	TCase *properties = tcase_create("properties");
	tcase_set_tags(properties, "slow");
	tcase_set_timeout(properties, 60);
	tcase_add_loop_test(properties, any_internet_address_survives_the_round_trip, 0, 2);
	tcase_add_loop_test(properties, random_text_is_refused_or_has_one_meaning, 0, 10);
	tcase_add_test(properties, a_host_is_the_same_with_every_port_and_in_both_families);
	suite_add_tcase(suite, properties);
	return suite;
}
