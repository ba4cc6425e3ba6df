/* SPDX-License-Identifier: MIT */
/*
 * pressure.c: how short memory is.
 *
 * Three sources: the cgroup's usage against its limit (v2 or v1, page cache that can be dropped not
 * counted), the heaps' own account against WEIR_MEM_LIMIT and what the cgroup leaves them, and the
 * kernel's pressure stall figures. The worst of them, in thousandths, becomes a level: up at once,
 * down one at a time, 5 points below where it began and 2 s apart. One worker looks, once a second,
 * in its turn; an idle process does not look at all.
 *
 * Stalls are the kernel's to tell of, where it lets us ask (a trigger; io/pressure.c waits on it):
 * then an idle process hears of them too, and their figures are only read for a while afterwards.
 * Where it does not, they are read at every look.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "alloc/heap.h"
#include "alloc/usdt.h"

#define LOOK_NS	 (1000 * WEIR__MS)
#define DWELL_NS (2000 * WEIR__MS)
#define FADE_NS	 (20000 * WEIR__MS) /* until a stall hardly shows in an average of 10 s */

enum {
	HYSTERESIS = 50,
	FILE_BYTES = 8192,
	SAFETY_SHARE = 16, /* of the cgroup's limit stays free: page tables, sockets, the rest */
};

/* Thousandths at which a level begins. */
static const unsigned begins[] = { 0, 700, 800, 900, 970 };

_Atomic uint32_t weir__level;
_Atomic uint64_t weir__level_raises;

static _Atomic int64_t look_ns;
static _Atomic uint64_t cgroup_allows; /* bytes of all heaps, as of the last look; 0: no limit */
static int64_t lowered_ns;
static _Atomic bool forced;

static _Atomic bool is_told;	   /* the kernel tells of stalls */
static _Atomic int64_t stalled_ns; /* when it last did */
_Atomic uint64_t weir__stalls;
char weir__stall_path[600];

enum weir_mem_level weir_mem_level_get(void)
{
	return (enum weir_mem_level)atomic_load_explicit(&weir__level, memory_order_relaxed);
}

uint32_t weir__level_next(uint32_t level, unsigned permille, int64_t since_change_ns)
{
	uint32_t up = level;
	while (up < WEIR_MEM_CRITICAL && permille >= begins[up + 1])
		up++;
	if (up > level)
		return up;
	bool below = level > 0 && permille + HYSTERESIS < begins[level];
	return below && since_change_ns >= DWELL_NS ? level - 1 : level;
}

/* ---- Own account ---------------------------------------------------------------------------- */

uint64_t weir__committed(void)
{
	uint64_t units = 0;
	uint32_t count = atomic_load_explicit(&weir__home_count, memory_order_acquire);
	for (uint32_t i = 0; i < count; i++)
		units += WEIR__GET(weir__homes[i]->span_units) +
			 WEIR__GET(weir__homes[i]->dirty_units) +
			 WEIR__GET(weir__homes[i]->kept_units);
	return (units << WEIR__UNIT_SHIFT) + weir__large_bytes();
}

uint64_t weir__limit(void)
{
	uint64_t own = weir__config.mem_limit;
	uint64_t left = atomic_load_explicit(&cgroup_allows, memory_order_relaxed);
	return own == 0 || (left != 0 && left < own) ? left : own;
}

struct want {
	uint64_t limit, bytes;
};

static bool fits(const struct want *want)
{
	return weir__committed() + want->bytes <= want->limit;
}

/* Not only when a second is over. */
static void look_soon(int64_t when_ns)
{
	int64_t due = atomic_load_explicit(&look_ns, memory_order_relaxed);
	if (due != INT64_MAX) /* else somebody looks already */
		(void)atomic_compare_exchange_strong_explicit(
			&look_ns, &due, when_ns, memory_order_relaxed, memory_order_relaxed);
}

/* A worker asleep gives what it has free before another is refused. */
static bool take_from(struct weir__home *home, void *arg)
{
	weir__compact_home(home, WEIR_MEM_HIGH);
	return !fits(arg);
}

bool weir__within_limit(struct weir__home *home, uint64_t bytes)
{
	uint64_t limit = weir__limit();
	if (limit == 0 || weir__committed() + bytes <= limit)
		return true;
	if (home != NULL)
		weir__runs_purge_all(home);
	struct want want = { limit, bytes };
	if (!fits(&want))
		weir__lent_each(take_from, &want);
	if (fits(&want))
		return true;
	weir__refusal_note(WEIR__REFUSED_LIMIT);
	look_soon(0);
	return false;
}

/* ---- The cgroup's and the kernel's ---------------------------------------------------------- */

/* The file's beginning as text; empty when it cannot be read. */
static bool read_text(const char *path, char *ret)
{
	ret[0] = '\0';
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return false;
	ssize_t n = read(fd, ret, FILE_BYTES - 1);
	close(fd);
	ret[n > 0 ? n : 0] = '\0';
	return n > 0;
}

static uint64_t read_number(const char *directory, const char *file)
{
	char path[600], text[FILE_BYTES];
	snprintf(path, sizeof(path), "%s/%s", directory, file);
	if (!read_text(path, text) || text[0] < '0' || text[0] > '9')
		return 0; /* "max": no limit */
	return strtoull(text, NULL, 10);
}

uint64_t weir__resident_bytes(void)
{
	char text[FILE_BYTES], *end;
	if (!read_text("/proc/self/statm", text))
		return 0;
	(void)strtoull(text, &end, 10); /* the first is the size */
	return strtoull(end, NULL, 10) * (uint64_t)sysconf(_SC_PAGESIZE);
}

static bool is_in_list(const char *list, const char *end, const char *name)
{
	for (const char *at = list; at < end; at += strcspn(at, ",:") + 1)
		if (strcspn(at, ",:") == strlen(name) && memcmp(at, name, strlen(name)) == 0)
			return true;
	return false;
}

/* A line is id:controllers:path; version 2 names no controllers. Both may be mounted. */
int weir__cgroup_find(char *text, const char **ret_path)
{
	int version = 0;
	char *rest;
	for (char *line = strtok_r(text, "\n", &rest); line != NULL;
	     line = strtok_r(NULL, "\n", &rest)) {
		char *list = strchr(line, ':');
		char *path = list == NULL ? NULL : strchr(++list, ':');
		if (path == NULL)
			continue;
		bool is_one = is_in_list(list, path, "memory");
		if (is_one || (version == 0 && path == list)) {
			version = is_one ? 1 : 2;
			*ret_path = path + 1;
		}
	}
	return version;
}

/* The directory of the process's memory controller, which may be read; its version, 0: none. */
static int find_cgroup(char *ret, size_t room)
{
	static const char *const roots[] = { "", "/sys/fs/cgroup/memory", "/sys/fs/cgroup" };
	char text[FILE_BYTES];
	const char *path;
	int version = read_text("/proc/self/cgroup", text) ? weir__cgroup_find(text, &path) : 0;
	if (version == 0)
		return 0;
	snprintf(ret, room, "%s%s", roots[version], path);
	if (access(ret, R_OK) != 0) /* inside a container the root is its own */
		snprintf(ret, room, "%s", roots[version]);
	return access(ret, R_OK) == 0 ? version : 0;
}

/* Page cache that goes when it must. */
static uint64_t droppable(const char *directory)
{
	char path[600], text[FILE_BYTES];
	snprintf(path, sizeof(path), "%s/memory.stat", directory);
	if (!read_text(path, text))
		return 0;
	char *line = strstr(text, "total_inactive_file ");
	if (line == NULL)
		line = strstr(text, "inactive_file ");
	return line == NULL ? 0 : strtoull(strchr(line, ' '), NULL, 10);
}

static unsigned share(uint64_t used, uint64_t limit)
{
	if (limit == 0 || limit > UINT64_MAX / 1000)
		return 0;
	uint64_t permille = used * 1000 / limit;
	return permille > 1000 ? 1000 : (unsigned)permille;
}

/* Of one group; lowers `ret_allows` to what it leaves the heaps. */
static unsigned group_permille(const char *directory, bool two, uint64_t *ret_allows)
{
	uint64_t limit = read_number(directory, two ? "memory.max" : "memory.limit_in_bytes");
	if (limit == 0 || limit > (uint64_t)1 << 60)
		return 0;
	uint64_t used = read_number(directory, two ? "memory.current" : "memory.usage_in_bytes");
	uint64_t cache = droppable(directory);
	used = used > cache ? used - cache : 0;
	uint64_t heaps = weir__committed();
	uint64_t others = used > heaps ? used - heaps : 0;
	uint64_t usable = limit - limit / SAFETY_SHARE;
	uint64_t allows = usable > others ? usable - others : 1;
	if (*ret_allows == 0 || allows < *ret_allows)
		*ret_allows = allows;
	return share(used, limit);
}

/* The tightest of the groups it is in: its own may have no limit, and the one around it one. */
static unsigned cgroup_permille(void)
{
	char directory[500];
	int version = find_cgroup(directory, sizeof(directory));
	size_t root = strlen(version == 2 ? "/sys/fs/cgroup" : "/sys/fs/cgroup/memory");
	unsigned worst = 0;
	uint64_t allows = 0;
	while (version != 0) {
		unsigned permille = group_permille(directory, version == 2, &allows);
		worst = permille > worst ? permille : worst;
		char *last = strrchr(directory, '/');
		if (last < directory + root)
			break;
		*last = '\0';
	}
	/* an allocation is refused before the kernel kills for it */
	atomic_store_explicit(&cgroup_allows, allows, memory_order_relaxed);
	return worst;
}

/* In hundredths of a percent. Not by strtod(), which wants a comma in some locales. */
static unsigned stalled(const char *text, const char *kind)
{
	const char *line = strstr(text, kind);
	const char *value = line == NULL ? NULL : strstr(line, "avg10=");
	unsigned whole = 0, hundredths = 0;
	if (value != NULL)
		(void)sscanf(value, "avg10=%u.%2u", &whole, &hundredths);
	return whole * 100 + hundredths;
}

/* The cgroup's own stalls, where they are counted: neighbours at their limits are not ours. */
static void find_stalls(char *ret, size_t room)
{
	char directory[500];
	ret[0] = '\0';
	if (find_cgroup(directory, sizeof(directory)) == 2)
		snprintf(ret, room, "%s/memory.pressure", directory);
	if (access(ret, R_OK) != 0)
		snprintf(ret, room, "/proc/pressure/memory");
}

/*
 * 42 ms in 2 s are the least that raises the level, as 2.1 % of the time for all is. A window of
 * that length needs no privilege.
 */
int weir__stalls_open(const char *path)
{
	static const char wanted[] = "some 42000 2000000";
	char found[600];
	if (path == NULL)
		find_stalls(found, sizeof(found));
	int fd = open(path == NULL ? found : path, O_RDWR | O_CLOEXEC | O_NONBLOCK);
	if (fd < 0)
		return -errno;
	if (write(fd, wanted, sizeof(wanted)) >= 0)
		return fd;
	int err = -errno;
	close(fd);
	return err;
}

void weir__stalls_told(bool is)
{
	atomic_store_explicit(&stalled_ns, weir__os_now(), memory_order_relaxed);
	atomic_store_explicit(&is_told, is, memory_order_relaxed);
}

static bool may_have_stalled(int64_t now_ns)
{
	int64_t last = atomic_load_explicit(&stalled_ns, memory_order_relaxed);
	return !atomic_load_explicit(&is_told, memory_order_relaxed) || now_ns - last < FADE_NS;
}

/* A tenth of the time stalled for some, or 3 % for all, is as bad as it gets. */
static unsigned stall_permille(void)
{
	char text[FILE_BYTES];
	if (weir__stall_path[0] == '\0')
		find_stalls(weir__stall_path, sizeof(weir__stall_path));
	if (!read_text(weir__stall_path, text))
		return 0;
	unsigned some = stalled(text, "some"), full = stalled(text, "full") * 333 / 100;
	unsigned worst = some > full ? some : full;
	return worst > 1000 ? 1000 : worst;
}

/* ---- Looking -------------------------------------------------------------------------------- */

static unsigned permille_now(int64_t now_ns)
{
	unsigned worst = cgroup_permille();
	unsigned other = share(weir__committed(), weir__limit()); /* at 1000 it refuses */
	if (other > worst)
		worst = other;
	other = may_have_stalled(now_ns) ? stall_permille() : 0;
	return other > worst ? other : worst;
}

static void set_level(uint32_t level)
{
	uint32_t before = atomic_exchange_explicit(&weir__level, level, memory_order_relaxed);
	if (level != before)
		WEIR__USDT(mem_level, before, level);
	if (level <= before)
		return;
	atomic_fetch_add_explicit(&weir__level_raises, 1, memory_order_relaxed);
	if (level >= WEIR_MEM_MEDIUM) /* those asleep have caches too */
		weir__remote_wake_all();
}

/* A look that is under way ends first, or it would have the last word. */
void weir_mem_level_force(int level)
{
	bool force = level >= WEIR_MEM_NONE && level <= WEIR_MEM_CRITICAL;
	/* seq_cst, both: with those of weir__pressure_turn(), one of the two sees the other */
	atomic_store_explicit(&forced, force, memory_order_seq_cst);
	if (!force)
		return;
	while (atomic_load_explicit(&look_ns, memory_order_seq_cst) == INT64_MAX)
		sched_yield();
	set_level((uint32_t)level);
}

static void look(int64_t now_ns)
{
	uint32_t level = atomic_load_explicit(&weir__level, memory_order_relaxed);
	uint32_t next = weir__level_next(level, permille_now(now_ns), now_ns - lowered_ns);
	if (next != level)
		lowered_ns = now_ns;
	set_level(next);
}

void weir__pressure_turn(int64_t now_ns)
{
	int64_t due = atomic_load_explicit(&look_ns, memory_order_relaxed);
	if (now_ns < due || atomic_load_explicit(&forced, memory_order_relaxed))
		return;
	/* acquire and release: the next to look sees lowered_ns; seq_cst: see
	 * weir_mem_level_force() */
	if (!atomic_compare_exchange_strong_explicit(&look_ns, &due, INT64_MAX,
						     memory_order_seq_cst, memory_order_relaxed))
		return;
	if (!atomic_load_explicit(&forced, memory_order_seq_cst))
		look(now_ns);
	atomic_store_explicit(&look_ns, now_ns + LOOK_NS, memory_order_release);
}

void weir__look_forget(void)
{
	if (atomic_load_explicit(&look_ns, memory_order_relaxed) == INT64_MAX)
		atomic_store_explicit(&look_ns, 0, memory_order_relaxed);
}

void weir__stalls_happen(int64_t now_ns)
{
	atomic_fetch_add_explicit(&weir__stalls, 1, memory_order_relaxed);
	atomic_store_explicit(&stalled_ns, now_ns, memory_order_relaxed);
	look_soon(now_ns);
	weir__pressure_turn(now_ns);
}
