/* SPDX-License-Identifier: MIT */
/*
 * test_io_file.c: files and names: what is written is read, every error is told, a call that is
 * cancelled leaves nothing behind. Runs on the driver that WEIR_DRIVER names and must not be able
 * to tell which.
 */
#include <fcntl.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/resource.h>
#include <unistd.h>

#include "tests/child.h"
#include "tests/file_test.h"

static void fill(char *data, size_t len, unsigned key)
{
	for (size_t i = 0; i < len; i++)
		data[i] = (char)((i * 31 + (i >> 8) + key) & 0xff);
}

/* ---- Bytes ---------------------------------------------------------------------------------- */

static int write_then_read(void *arg)
{
	static char out[300000], in[sizeof out + 100];
	weir_auto_file file = NULL;

	(void)arg;
	fill(out, sizeof out, 1);
	TRY(weir_file_open(&file, name_of("bytes"), O_RDWR | O_CREAT | O_TRUNC));
	expect(weir_file_read_at(file, in, sizeof in, 0) == 0);
	expect(weir_file_write_at(file, out, sizeof out, 0) == sizeof out);
	expect(weir_file_size(file) == sizeof out);
	expect(weir_file_read_at(file, in, sizeof in, 0) == sizeof out);
	expect(memcmp(in, out, sizeof out) == 0);
	expect(weir_file_read_at(file, in, 100, sizeof out - 10) == 10);
	expect(weir_file_read_at(file, in, 100, sizeof out) == 0);
	expect(weir_file_read_at(file, in, 100, INT64_C(1) << 40) == 0);
	expect(weir_file_read_at(file, in, 0, 0) == 0);
	expect(weir_file_write_at(file, "", 0, 0) == 0);
	return weir_path_remove(name_of("bytes"));
}

START_TEST(what_is_written_is_read_and_the_end_is_short)
{
	run_file_test(write_then_read);
}
END_TEST

static int write_far_away(void *arg)
{
	const int64_t far = INT64_C(1) << 30;
	weir_auto_file file = NULL;
	char in[20];
	struct stat st;

	(void)arg;
	TRY(weir_file_open(&file, name_of("sparse"), O_RDWR | O_CREAT | O_TRUNC, .mode = 0600));
	expect(weir_file_write_at(file, "far", 3, far) == 3);
	TRY(weir_file_stat(file, &st));
	expect(st.st_size == far + 3 && st.st_blocks < 100 && (st.st_mode & 0777) == 0600);
	expect(weir_file_read_at(file, in, sizeof in, far - 4) == 7);
	expect(memcmp(in, "\0\0\0\0far", 7) == 0);
	TRY(weir_file_truncate(file, far + 1));
	expect(weir_file_size(file) == far + 1);
	expect(weir_file_read_at(file, in, sizeof in, far) == 1 && in[0] == 'f');
	TRY(weir_file_truncate(file, far + 4)); /* what was cut off is zero now */
	expect(weir_file_read_at(file, in, sizeof in, far) == 4);
	expect(memcmp(in, "f\0\0\0", 4) == 0);
	return weir_path_remove(name_of("sparse"));
}

START_TEST(a_file_has_holes_and_can_be_cut)
{
	run_file_test(write_far_away);
}
END_TEST

static int append(void *arg)
{
	weir_auto_file file = NULL;
	weir_auto_file again = NULL;
	char in[20];

	(void)arg;
	TRY(weir_file_open(&file, name_of("log"), O_WRONLY | O_CREAT | O_TRUNC | O_APPEND));
	expect(weir_file_write_at(file, "one ", 4, 0) == 4);
	expect(weir_file_write_at(file, "two ", 4, 0) == 4);
	TRY(weir_file_open(&again, name_of("log"), O_RDWR | O_APPEND));
	expect(weir_file_write_at(again, "three", 5, 1000) == 5);
	TRY(weir_file_sync(again));
	TRY(weir_file_sync_data(again));
	expect(weir_file_read_at(again, in, sizeof in, 0) == 13);
	expect(memcmp(in, "one two three", 13) == 0);
	return weir_path_remove(name_of("log"));
}

START_TEST(appending_goes_to_the_end_whatever_the_offset)
{
	run_file_test(append);
}
END_TEST

static int load(void *arg)
{
	static char out[20000];
	weir_auto_file file = NULL;
	char *text = NULL;
	size_t len = 77;

	(void)arg;
	fill(out, sizeof out, 3);
	TRY(weir_file_open(&file, name_of("load"), O_WRONLY | O_CREAT | O_TRUNC));
	expect(weir_file_load(name_of("no-such"), 100, &text, &len) == -ENOENT);
	TRY(weir_file_load(name_of("load"), 0, &text, &len));
	expect(len == 0 && text[0] == '\0');
	weir_free(text);
	expect(weir_file_write_at(file, out, sizeof out, 0) == sizeof out);
	text = NULL, len = 77;
	expect(weir_file_load(name_of("load"), sizeof out - 1, &text, &len) == -EFBIG);
	expect(weir_file_load("/tmp", SIZE_MAX, &text, &len) == -EISDIR);
	expect(text == NULL && len == 77);
	TRY(weir_file_load(name_of("load"), sizeof out, &text, &len));
	expect(len == sizeof out && memcmp(text, out, len) == 0 && text[len] == '\0');
	weir_free(text);
	return weir_path_remove(name_of("load"));
}

START_TEST(a_whole_file_is_one_block_or_too_big)
{
	run_file_test(load);
}
END_TEST

static int load_status(void *arg)
{
	char *text;
	size_t len;

	(void)arg;
	TRY(weir_file_load("/proc/self/status", 1 << 20, &text, &len)); /* whose size is 0 */
	bool is_whole = len > 100 && strstr(text, "nonvoluntary_ctxt_switches");
	weir_free(text);
	expect(is_whole);
	return weir_file_load("/proc/self/status", 20, &text, &len) == -EFBIG ? 0 : -EIO;
}

START_TEST(a_file_that_does_not_know_its_size_is_read_to_its_end)
{
	run_file_test(load_status);
}
END_TEST

static int use_direct(void *arg)
{
	enum { BLOCK = 4096 };
	weir_auto_file file = NULL;
	char *block = weir_alloc_aligned(BLOCK, 2 * BLOCK);

	(void)arg;
	expect(block != NULL);
	fill(block, 2 * BLOCK, 5);
	int err = weir_file_open(&file, name_of("direct"), O_RDWR | O_CREAT | O_TRUNC | O_DIRECT);
	if (err == 0) { /* else the file system has none of it: -EINVAL */
		expect(weir_file_write_at(file, block, 2 * BLOCK, 0) == 2 * BLOCK);
		char first = block[BLOCK];
		memset(block, 0, 2 * BLOCK);
		expect(weir_file_read_at(file, block, BLOCK, BLOCK) == BLOCK && block[0] == first);
		TRY(weir_path_remove(name_of("direct")));
	}
	weir_free(block);
	return err == -EINVAL ? 0 : err;
}

START_TEST(direct_io_takes_aligned_blocks)
{
	run_file_test(use_direct);
}
END_TEST

static int create_with_modes(void *arg)
{
	weir_auto_file usual = NULL;
	weir_auto_file secret = NULL;
	struct stat st;

	(void)arg;
	TRY(weir_file_open(&usual, name_of("usual"), O_WRONLY | O_CREAT | O_EXCL));
	TRY(weir_file_open(&secret, name_of("secret"), O_WRONLY | O_CREAT | O_EXCL, .mode = 0600));
	TRY(weir_file_stat(usual, &st));
	expect((st.st_mode & 0777) == 0664);
	TRY(weir_file_stat(secret, &st));
	expect((st.st_mode & 0777) == 0600);
	TRY(weir_path_remove(name_of("usual")));
	return weir_path_remove(name_of("secret"));
}

START_TEST(who_may_read_a_new_file_is_asked_for_or_as_usual)
{
	(void)umask(002);
	run_file_test(create_with_modes);
}
END_TEST

/* ---- Many ----------------------------------------------------------------------------------- */

enum { PARTS = 64, PART_BYTES = 5000 };

struct part {
	weir_file *file;
	unsigned number;
};

static int own_part(void *arg)
{
	const struct part *part = arg;
	char out[PART_BYTES], in[PART_BYTES];
	int64_t at = (int64_t)part->number * PART_BYTES;

	for (unsigned round = 0; round < 5; round++) {
		fill(out, sizeof out, part->number + round);
		expect(weir_file_write_at(part->file, out, sizeof out, at) == sizeof out);
		expect(weir_file_read_at(part->file, in, sizeof in, at) == sizeof in);
		expect(memcmp(in, out, sizeof in) == 0);
	}
	return 0;
}

static int share_a_file(void *arg)
{
	weir_auto_file file = NULL;
	struct part parts[PARTS];
	WEIR_SCOPE(scope, WEIR_FOREVER);

	(void)arg;
	TRY(weir_file_open(&file, name_of("shared"), O_RDWR | O_CREAT | O_TRUNC));
	for (unsigned i = 0; i < PARTS; i++) {
		parts[i] = (struct part){ file, i };
		TRY(weir_spawn(&scope, own_part, &parts[i], .worker = WEIR_ON_WORKER(i % 2)));
	}
	TRY(weir_scope_wait(&scope));
	expect(weir_file_size(file) == PARTS * PART_BYTES);
	return weir_path_remove(name_of("shared"));
}

START_TEST(many_tasks_of_two_workers_use_one_file)
{
	run_file_test(share_a_file);
}
END_TEST

/* ---- Names ---------------------------------------------------------------------------------- */

static int make_file(const char *path)
{
	weir_auto_file file = NULL;

	return weir_file_open(&file, path, O_WRONLY | O_CREAT | O_EXCL);
}

static bool has(char **names, const char *name)
{
	for (; *names; names++)
		if (strcmp(*names, name) == 0)
			return true;
	return false;
}

static int use_names(void *arg)
{
	char dir[64], a[80], b[80], sub[80], **names = NULL;
	struct stat st;

	(void)arg;
	snprintf(dir, sizeof dir, "%s", name_of("dir"));
	snprintf(a, sizeof a, "%s/a", dir);
	snprintf(b, sizeof b, "%s/bb", dir);
	snprintf(sub, sizeof sub, "%s/sub", dir);
	TRY(weir_dir_make(dir, 0755));
	expect(weir_dir_make(dir, 0755) == -EEXIST);
	expect(weir_dir_list(dir, &names) == 0 && names && !names[0]);
	weir_free(names);
	TRY(make_file(a));
	expect(make_file(a) == -EEXIST);
	TRY(weir_dir_make(sub, 0700));
	TRY(weir_path_rename(a, b));
	expect(weir_path_stat(a, &st) == -ENOENT);
	TRY(weir_path_stat(b, &st));
	expect(S_ISREG(st.st_mode) && st.st_size == 0);
	st.st_mode = 0;
	TRY(weir_path_lstat(b, &st));
	expect(S_ISREG(st.st_mode));
	expect(weir_dir_list(dir, &names) == 2 && has(names, "bb") && has(names, "sub"));
	expect(!names[2]);
	weir_free(names);
	expect(weir_path_remove(dir) == -ENOTEMPTY);
	expect(weir_path_rename(b, sub) == -EISDIR);
	expect(weir_path_rename(a, b) == -ENOENT);
	TRY(weir_path_remove(b));
	TRY(weir_path_remove(sub));
	return weir_path_remove(dir);
}

START_TEST(names_are_made_moved_listed_and_removed)
{
	run_file_test(use_names);
}
END_TEST

static int follow_or_not(void *arg)
{
	char link[64];
	struct stat st = { .st_size = 77 };

	(void)arg;
	snprintf(link, sizeof link, "%s", name_of("link"));
	expect(symlink("nowhere", link) == 0);
	expect(weir_path_stat(link, &st) == -ENOENT && st.st_size == 77);
	TRY(weir_path_lstat(link, &st));
	expect(S_ISLNK(st.st_mode) && st.st_size == 7);
	TRY(weir_path_remove(link));
	expect(symlink(".", link) == 0);
	TRY(weir_path_stat(link, &st));
	expect(S_ISDIR(st.st_mode));
	TRY(weir_path_lstat(link, &st));
	expect(S_ISLNK(st.st_mode));
	return weir_path_remove(link);
}

START_TEST(a_link_is_followed_or_told_of_itself)
{
	run_file_test(follow_or_not);
}
END_TEST

static int list_many(void *arg)
{
	char dir[64], path[96], **names;

	(void)arg;
	snprintf(dir, sizeof dir, "%s", name_of("many"));
	TRY(weir_dir_make(dir, 0755));
	for (int i = 0; i < 300; i++) {
		snprintf(path, sizeof path, "%s/file-number-%d", dir, i);
		TRY(make_file(path));
	}
	expect(weir_dir_list(dir, &names) == 300 && !names[300]);
	for (int i = 0; i < 300; i++) {
		snprintf(path, sizeof path, "file-number-%d", i);
		expect(has(names, path));
		snprintf(path, sizeof path, "%s/%s", dir, names[i]);
		TRY(weir_path_remove(path));
	}
	weir_free(names);
	return weir_path_remove(dir);
}

START_TEST(a_list_has_every_name)
{
	run_file_test(list_many);
}
END_TEST

/* ---- Errors --------------------------------------------------------------------------------- */

static int ask_for_nonsense(void *arg)
{
	weir_file *none = NULL;
	weir_auto_file file = NULL;
	char byte, **names = NULL;
	struct stat st = { .st_size = 77 };

	(void)arg;
	expect(weir_file_open(&none, name_of("none"), O_RDONLY) == -ENOENT);
	expect(weir_file_open(&none, "/tmp/no/such/place", O_RDWR | O_CREAT) == -ENOENT);
	expect(weir_file_open(&none, "/tmp", O_RDWR) == -EISDIR);
	expect(weir_file_open(&none, NULL, O_RDONLY) == -EINVAL);
	TRY(make_file(name_of("file")));
	TRY(weir_file_open(&file, name_of("file"), O_RDONLY));
	expect(weir_file_open(&none, name_of("file"), O_RDONLY | O_DIRECTORY) == -ENOTDIR);
	expect(weir_dir_list(name_of("file"), &names) == -ENOTDIR);
	expect(weir_dir_list(name_of("none"), &names) == -ENOENT);
	expect(weir_path_stat(name_of("none"), &st) == -ENOENT);
	expect(!none && !names && st.st_size == 77);
	expect(weir_file_write_at(file, "x", 1, 0) == -EBADF);
	expect(weir_file_truncate(file, 3) == -EINVAL);
	expect(weir_file_truncate(file, -3) == -EINVAL);
	expect(weir_file_read_at(file, &byte, 1, -1) == -EINVAL);
	expect(weir_file_read_at(file, &byte, SIZE_MAX, 0) == -EINVAL);
	expect(weir_file_read_at(file, &byte, 2, INT64_MAX - 1) == -EINVAL);
	weir_file_close(NULL);
	return weir_path_remove(name_of("file"));
}

START_TEST(what_cannot_be_is_an_error_and_touches_nothing)
{
	run_file_test(ask_for_nonsense);
}
END_TEST

static int read_a_directory(void *arg)
{
	weir_auto_file dir = NULL;
	char byte;

	(void)arg;
	TRY(weir_file_open(&dir, "/tmp", O_RDONLY | O_DIRECTORY));
	return weir_file_read_at(dir, &byte, 1, 0) == -EISDIR ? 0 : -EIO;
}

START_TEST(a_directory_has_no_bytes)
{
	run_file_test(read_a_directory);
}
END_TEST

enum { COLD_BYTES = 4 << 20, COLD_TASKS = 16, COLD_STEP = 1 << 16 };

static int read_backwards(void *arg)
{
	char first[64];

	for (int64_t at = COLD_BYTES - COLD_STEP; at >= 0; at -= COLD_STEP) {
		expect(weir_file_read_at(arg, first, sizeof first, at) == sizeof first);
		for (size_t i = 0; i < sizeof first; i++)
			expect(first[i] == (char)(((size_t)at + i) * 31 >> 3));
	}
	return 0;
}

/* Not what is in memory already, which is read without waiting. */
static int read_from_the_disk(void *arg)
{
	weir_auto_file file = NULL;
	char *out = weir_alloc(COLD_BYTES);
	WEIR_SCOPE(scope, WEIR_FOREVER);

	(void)arg;
	expect(out != NULL);
	for (size_t i = 0; i < COLD_BYTES; i++)
		out[i] = (char)(i * 31 >> 3);
	TRY(weir_file_open(&file, name_of("cold"), O_RDWR | O_CREAT | O_TRUNC));
	expect(weir_file_write_at(file, out, COLD_BYTES, 0) == COLD_BYTES);
	weir_free(out);
	TRY(weir_file_sync(file));
	int fd = open(name_of("cold"), O_RDONLY);
	expect(fd >= 0 && posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED) == 0);
	close(fd);
	for (unsigned i = 0; i < COLD_TASKS; i++)
		TRY(weir_spawn(&scope, read_backwards, file, .worker = WEIR_ON_WORKER(i % 2)));
	TRY(weir_scope_wait(&scope));
	return weir_path_remove(name_of("cold"));
}

START_TEST(what_is_not_in_memory_comes_from_the_disk)
{
	run_file_test(read_from_the_disk);
}
END_TEST

static int fill_the_disk(void *arg)
{
	static char out[100000];
	weir_auto_file full = NULL;
	weir_auto_file zero = NULL;
	weir_auto_file null = NULL;

	(void)arg;
	TRY(weir_file_open(&full, "/dev/full", O_RDWR));
	expect(weir_file_write_at(full, out, sizeof out, 0) == -ENOSPC);
	TRY(weir_file_open(&zero, "/dev/zero", O_RDONLY));
	out[99999] = 1;
	expect(weir_file_read_at(zero, out, sizeof out, 0) == sizeof out && out[99999] == 0);
	TRY(weir_file_open(&null, "/dev/null", O_RDWR));
	expect(weir_file_write_at(null, out, sizeof out, 0) == sizeof out);
	return weir_file_read_at(null, out, sizeof out, 0) == 0 ? 0 : -EIO;
}

START_TEST(a_full_disk_is_enospc)
{
	run_file_test(fill_the_disk);
}
END_TEST

static int open_streams(void *arg)
{
	weir_file *none;

	(void)arg;
	TRY(mkfifo(name_of("fifo"), 0600) < 0 ? -errno : 0);
	WEIR_SCOPE(patience, WEIR_SEC); /* a plain open(2) would wait for a writer */
	expect(weir_file_open(&none, name_of("fifo"), O_RDONLY) == -ESPIPE);
	expect(weir_file_open(&none, name_of("fifo"), O_WRONLY) == -ENXIO);
	return weir_path_remove(name_of("fifo"));
}

START_TEST(a_fifo_is_no_file_and_opening_it_waits_for_nobody)
{
	run_file_test(open_streams);
}
END_TEST

enum { LIMIT_BYTES = 8192 };

static int write_beyond_the_limit(void *direct)
{
	weir_auto_file file = NULL;
	char *out = weir_alloc_aligned(4096, 2 * LIMIT_BYTES);

	expect(out != NULL);
	memset(out, 1, 2 * LIMIT_BYTES);
	int err = weir_file_open(&file, name_of("limit"), O_RDWR | O_CREAT | *(int *)direct);
	if (err == 0) { /* else there is no O_DIRECT here */
		expect(weir_file_write_at(file, out, 2 * LIMIT_BYTES, 0) == LIMIT_BYTES);
		expect(weir_file_write_at(file, out, LIMIT_BYTES, LIMIT_BYTES) == -EFBIG);
		expect(weir_file_truncate(file, LIMIT_BYTES + 1) == -EFBIG);
		err = weir_path_remove(name_of("limit"));
	}
	weir_free(out);
	return err == -EINVAL && *(int *)direct ? 0 : err;
}

static int run_limited(void *direct)
{
	const struct rlimit limit = { LIMIT_BYTES, LIMIT_BYTES };

	signal(SIGXFSZ, SIG_DFL); /* which kills */
	if (setrlimit(RLIMIT_FSIZE, &limit) < 0)
		return -errno;
	return weir_run(write_beyond_the_limit, direct, .workers = 1);
}

START_TEST(the_limit_of_file_sizes_is_efbig_and_kills_nobody)
{
	ck_assert_int_eq(end_of(run_limited, &(int){ 0 }), 0);
	/* what io_uring begins on the worker's own thread */
	ck_assert_int_eq(end_of(run_limited, &(int){ O_DIRECT }), 0);
}
END_TEST

static int open_too_many(void *arg)
{
	weir_file *files[40], *none = NULL;
	unsigned count = 0;
	int err = 0;
	struct stat st;

	(void)arg;
	while (count < 40 && (err = weir_file_open(&files[count], "/dev/null", O_RDWR)) == 0)
		count++;
	expect(count < 40 && err == -EMFILE);
	expect(weir_path_stat("/dev/null", &st) == 0); /* wants none */
	expect(weir_file_open(&none, "/dev/null", O_RDWR) == -EMFILE && !none);
	while (count > 0)
		weir_file_close(files[--count]);
	TRY(weir_file_open(&none, "/dev/null", O_RDWR));
	weir_file_close(none);
	return 0;
}

static int run_without_descriptors(void *arg)
{
	struct rlimit limit = { (rlim_t)count_descriptors() + 20, 0 };
	struct rlimit old;

	(void)arg;
	getrlimit(RLIMIT_NOFILE, &old);
	limit.rlim_max = old.rlim_max;
	setrlimit(RLIMIT_NOFILE, &limit);
	return weir_run(open_too_many, NULL, .workers = 1);
}

START_TEST(no_descriptor_is_emfile)
{
	ck_assert_int_eq(end_of(run_without_descriptors, NULL), 0);
}
END_TEST

static int refuse_memory(void *arg)
{
	weir_file *file = NULL;
	char *text = NULL, **names = NULL;
	size_t len = 77;

	(void)arg;
	weir_mem_fail_after(1);
	int err = weir_file_open(&file, name_of("memory"), O_RDWR | O_CREAT);
	weir_mem_fail_after(0);
	expect(err == -ENOMEM && !file);
	TRY(make_file(name_of("memory")));
	weir_mem_fail_after(2); /* the block, after the file's record */
	err = weir_file_load(name_of("memory"), 100, &text, &len);
	weir_mem_fail_after(0);
	expect(err == -ENOMEM && !text && len == 77);
	weir_mem_fail_after(1);
	err = weir_dir_list("/tmp", &names);
	weir_mem_fail_after(0);
	expect(err == -ENOMEM && !names);
	return weir_path_remove(name_of("memory"));
}

START_TEST(refused_memory_is_enomem_and_leaves_nothing)
{
	run_file_test(refuse_memory);
}
END_TEST

START_TEST(outside_tasks_there_are_no_files)
{
	weir_file *file;
	struct stat st;

	ck_assert_int_eq(weir_file_open(&file, "/dev/null", O_RDONLY), -EINVAL);
	ck_assert_int_eq(weir_path_stat("/dev/null", &st), -EINVAL);
}
END_TEST

/* ---- Turns ---------------------------------------------------------------------------------- */

static unsigned turns;
static bool is_read;

static int count_turns(void *arg)
{
	(void)arg;
	while (!is_read) {
		turns++;
		TRY(weir_yield());
	}
	return 0;
}

/* Nothing of it waits for a disk; but nobody has the worker for himself. */
static int read_much_from_memory(void *arg)
{
	weir_auto_file zero = NULL;
	static char in[1 << 16];
	WEIR_SCOPE(scope, WEIR_FOREVER);

	(void)arg;
	TRY(weir_file_open(&zero, "/dev/zero", O_RDONLY));
	TRY(weir_spawn(&scope, count_turns, NULL,
		       .worker = WEIR_ON_WORKER((unsigned)weir_worker_index())));
	for (int i = 0; i < 1000; i++)
		expect(weir_file_read_at(zero, in, sizeof in, 0) == sizeof in);
	is_read = true;
	TRY(weir_scope_wait(&scope));
	return turns >= 1000 / 128 ? 0 : -EIO; /* WEIR_BUDGET */
}

START_TEST(reading_what_is_in_memory_lets_others_have_their_turn)
{
	run_on(1, read_much_from_memory, NULL);
}
END_TEST

/* ---- Seeing --------------------------------------------------------------------------------- */

static int count_calls(void *arg)
{
	struct weir_file_stats before, after;
	weir_auto_file file = NULL;
	char in[4], *text = NULL;
	size_t len;

	(void)arg;
	weir_file_stats_get(&before);
	TRY(weir_file_open(&file, name_of("counts"), O_RDWR | O_CREAT | O_TRUNC));
	expect(weir_file_write_at(file, "four", 4, 0) == 4);
	expect(weir_file_read_at(file, in, 4, 0) == 4);
	weir_file_stats_get(&after);
	expect(after.writes > before.writes && after.reads > before.reads);
	expect(after.written_bytes == before.written_bytes + 4);
	expect(after.read_bytes == before.read_bytes + 4);
	expect(after.others > before.others && after.pooled >= before.pooled);
	FILE *out = open_memstream(&text, &len);
	TRY(weir_metrics_write(out));
	fclose(out);
	expect(strstr(text, "\nweir_file_written_bytes_total ") &&
	       strstr(text, "\nweir_file_pooled_total "));
	free(text);
	return weir_path_remove(name_of("counts"));
}

START_TEST(what_files_do_is_counted)
{
	run_file_test(count_calls);
}
END_TEST

Suite *io_file_suite(void)
{
	Suite *suite = suite_create("io_file");
	TCase *bytes = tcase_create("bytes");
	TCase *many = tcase_create("many");
	TCase *names = tcase_create("names");
	TCase *errors = tcase_create("errors");
	TCase *machine = tcase_create("machine"); /* what only a real one has */

	tcase_set_tags(bytes, "fast");
	tcase_add_test(bytes, what_is_written_is_read_and_the_end_is_short);
	tcase_add_test(bytes, a_file_has_holes_and_can_be_cut);
	tcase_add_test(bytes, appending_goes_to_the_end_whatever_the_offset);
	tcase_add_test(bytes, a_whole_file_is_one_block_or_too_big);
	tcase_add_test(bytes, direct_io_takes_aligned_blocks);
	tcase_add_test(bytes, what_files_do_is_counted);
	suite_add_tcase(suite, bytes);
	tcase_add_test(many, many_tasks_of_two_workers_use_one_file);
	suite_add_tcase(suite, many);
	tcase_set_tags(names, "fast");
	tcase_add_test(names, names_are_made_moved_listed_and_removed);
	tcase_add_test(names, a_list_has_every_name);
	suite_add_tcase(suite, names);
	tcase_set_tags(errors, "fast");
	tcase_add_test(errors, what_cannot_be_is_an_error_and_touches_nothing);
	tcase_add_test(errors, a_directory_has_no_bytes);
	tcase_add_test(errors, refused_memory_is_enomem_and_leaves_nothing);
	tcase_add_test(errors, outside_tasks_there_are_no_files);
	suite_add_tcase(suite, errors);
	tcase_set_tags(machine, "real");
	tcase_add_test(machine, a_link_is_followed_or_told_of_itself);
	tcase_add_test(machine, a_file_that_does_not_know_its_size_is_read_to_its_end);
	tcase_add_test(machine, what_is_not_in_memory_comes_from_the_disk);
	tcase_add_test(machine, who_may_read_a_new_file_is_asked_for_or_as_usual);
	tcase_add_test(machine, reading_what_is_in_memory_lets_others_have_their_turn);
	tcase_add_test(machine, a_full_disk_is_enospc);
	tcase_add_test(machine, a_fifo_is_no_file_and_opening_it_waits_for_nobody);
	tcase_add_test(machine, the_limit_of_file_sizes_is_efbig_and_kills_nobody);
	tcase_add_test(machine, no_descriptor_is_emfile);
	suite_add_tcase(suite, machine);
	return suite;
}
