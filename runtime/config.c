/* SPDX-License-Identifier: MIT */
/*
 * config.c: options from the environment and from the program.
 *
 * Everything here walks the table of config.h, so a new option is one line there. The rule it
 * keeps: a value that does not parse is never ignored. It is named, with what would have been
 * accepted, and the start fails.
 */
#include "runtime/config.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <unistd.h>

#include "alloc/alloc_internal.h"

const struct weir__option_info weir__option_info[WEIR__OPTIONS] = {
#define XX(field_, type_, variable_, preset_, min_, max_, unit_, text_)                            \
	[WEIR__OPTION_##field_] = {                                                                \
		.field = #field_,                                                                  \
		.variable = variable_,                                                             \
		.unit = unit_,                                                                     \
		.text = text_,                                                                     \
		.preset = preset_,                                                                 \
		.min = min_,                                                                       \
		.max = max_,                                                                       \
		.type = WEIR__##type_,                                                             \
	},
	WEIR_CONFIG_MAP(XX)
#undef XX
};

enum {
	VALUE_SHOWN_MAX = 64, /* characters of a bad value that are worth repeating */
	NAME_MAX_BYTES =
		64, /* of variables in the table, and of those we look for the nearest of */
	NAME_DISTANCE_MAX = 3,
};

static bool parse(const struct weir__option_info *option, const char *text, uint64_t *ret);
static bool fits(const struct weir__option_info *option, uint64_t value);
static bool fit_pairs(struct weir__config *config, FILE *err);
static void name_unknown_variables(FILE *err);
static void print_shown(const char *text, FILE *out);

void weir__config_init(struct weir__config *ret)
{
	*ret = (struct weir__config){
#define XX(field_, type_, variable_, preset_, ...) .field_ = preset_,
		WEIR_CONFIG_MAP(XX)
#undef XX
	};
}

static int read_environment(struct weir__config *ret, FILE *err)
{
	struct weir__config config;
	bool good = true;
	weir__config_init(&config);
	for (unsigned i = 0; i < WEIR__OPTIONS; i++) {
		const struct weir__option_info *option = &weir__option_info[i];
		const char *text = secure_getenv(option->variable);
		if (text == NULL || *text == '\0')
			continue;
		if (!parse(option, text, &config.value[i])) {
			fprintf(err, "weir: %s=", option->variable);
			print_shown(text, err);
			fputs(": want ", err);
			weir__option_accepts(i, err);
			fputc('\n', err);
			good = false;
		}
		config.source[i] = WEIR__SOURCE_ENVIRONMENT;
	}
	if (!good || !fit_pairs(&config, err))
		return -EINVAL;
	*ret = config;
	return 0;
}

int weir__config_load(struct weir__config *ret, FILE *err)
{
	int result = read_environment(ret, err);
	if (result == 0 && !ret->quiet)
		name_unknown_variables(err);
	return result;
}

void weir__config_load_early(void)
{
	struct weir__config config;
	if (!weir__config_is_asked())
		return;
	FILE *nobody = fopen("/dev/null", "we");
	if (nobody == NULL)
		return;
	if (read_environment(&config, nobody) == 0)
		(void)weir__config_apply_memory(&config, nobody);
	(void)fclose(nobody);
}

bool weir__config_is_asked(void)
{
	for (char **at = environ; at != NULL && *at != NULL; at++)
		if (strncmp(*at, "WEIR_", 5) == 0)
			return !getauxval(AT_SECURE);
	return false;
}

static int refuse(enum weir__option option, const char *shown, FILE *err)
{
	fprintf(err, "weir: option %s = ", weir__option_info[option].field);
	print_shown(shown, err);
	fputs(": want ", err);
	weir__option_accepts(option, err);
	fputc('\n', err);
	return -EINVAL;
}

int weir__config_set(struct weir__config *config, enum weir__option option, uint64_t value,
		     FILE *err)
{
	char text[WEIR__OPTION_TEXT_MAX];
	if (!fits(&weir__option_info[option], value)) {
		snprintf(text, sizeof(text), "%llu", (unsigned long long)value);
		return refuse(option, text, err);
	}
	struct weir__config changed = *config;
	changed.value[option] = value;
	changed.source[option] = WEIR__SOURCE_PROGRAM;
	if (!fit_pairs(&changed, err))
		return -EINVAL;
	*config = changed;
	return 0;
}

int weir__config_set_text(struct weir__config *config, enum weir__option option, const char *text,
			  FILE *err)
{
	uint64_t value;
	if (!parse(&weir__option_info[option], text, &value))
		return refuse(option, text, err);
	return weir__config_set(config, option, value, err);
}

/* ---- Saying what there is ----------------------------------------------- */

void weir__config_help(FILE *out)
{
	fputs("weir: these variables are read at start; an empty one counts as not set\n", out);
	for (unsigned i = 0; i < WEIR__OPTIONS; i++) {
		const struct weir__option_info *option = &weir__option_info[i];
		char preset[WEIR__OPTION_TEXT_MAX];
		weir__option_format(i, option->preset, preset, sizeof(preset));
		fprintf(out, "  %s=%s\n      %s\n      takes ", option->variable, preset,
			option->text);
		weir__option_accepts(i, out);
		fputc('\n', out);
	}
}

void weir__config_dump(const struct weir__config *config, FILE *out)
{
	static const char *const source[] = { "default", "environment", "program" };
	for (unsigned i = 0; i < WEIR__OPTIONS; i++) {
		char value[WEIR__OPTION_TEXT_MAX];
		weir__option_format(i, config->value[i], value, sizeof(value));
		fprintf(out, "weir:   %-22s %-12s %s\n", weir__option_info[i].variable, value,
			source[config->source[i]]);
	}
}

/* ---- Words: "auto|uring|epoll" ------------------------------------------ */

/* Steps through `*words`: gives a word that is not terminated and its length; NULL at the end. */
static const char *word_next(const char **words, size_t *ret_len)
{
	const char *word = *words;
	if (*word == '\0')
		return NULL;
	*ret_len = strcspn(word, "|");
	*words = word + *ret_len + (word[*ret_len] == '|');
	return word;
}

/* The place of a word from 0, or -1. */
static int word_find(const char *words, const char *text, size_t len)
{
	size_t word_len;
	const char *word;
	for (int i = 0; (word = word_next(&words, &word_len)) != NULL; i++)
		if (word_len == len && memcmp(word, text, len) == 0)
			return i;
	return -1;
}

/* Appends "<separator><word>" for each word whose bit is in `mask`. */
static void words_format(const char *words, uint64_t mask, char *ret, size_t cap)
{
	size_t used = 0, len;
	const char *word;
	for (unsigned i = 0; (word = word_next(&words, &len)) != NULL && used < cap; i++)
		if (mask >> i & 1)
			used += (size_t)snprintf(ret + used, cap - used, "%s%.*s", used ? "," : "",
						 (int)len, word);
}

/* ---- Values ------------------------------------------------------------- */

void weir__option_format(enum weir__option option, uint64_t value, char *ret, size_t cap)
{
	static const char *const suffix[] = { "", "k", "m", "g" };
	const struct weir__option_info *info = &weir__option_info[option];
	unsigned long long shown = value;
	unsigned scale = 0;
	switch (info->type) {
	case WEIR__CHOICE:
		words_format(info->unit, (uint64_t)1 << value, ret, cap);
		return;
	case WEIR__SET:
		snprintf(ret, cap, "none");
		words_format(info->unit, value, ret, cap);
		return;
	case WEIR__CLASSES:
	case WEIR__RESERVES:
		if (value == 0)
			words_format(info->unit, 1, ret, cap);
		else
			snprintf(ret, cap, "%s", (const char *)(uintptr_t)value);
		return;
	case WEIR__BYTES:
		for (; scale < 3 && shown != 0 && shown % 1024 == 0; scale++)
			shown /= 1024;
		break;
	case WEIR__NUMBER:
	case WEIR__BOOL:
		break;
	}
	snprintf(ret, cap, "%llu%s", shown, suffix[scale]);
}

void weir__option_accepts(enum weir__option option, FILE *out)
{
	const struct weir__option_info *info = &weir__option_info[option];
	const char *words = info->unit, *word;
	char min[WEIR__OPTION_TEXT_MAX], max[WEIR__OPTION_TEXT_MAX];
	size_t len;
	switch (info->type) {
	case WEIR__NUMBER:
	case WEIR__BYTES:
		weir__option_format(option, info->min, min, sizeof(min));
		weir__option_format(option, info->max, max, sizeof(max));
		fprintf(out, "a whole number%s%s from %s to %s%s", *info->unit ? " of " : "",
			info->unit, min, max, info->type == WEIR__BYTES ? ", as 4096 or 4k" : "");
		return;
	case WEIR__BOOL:
		fputs("0 or 1", out);
		return;
	case WEIR__CHOICE:
	case WEIR__SET:
		fputs(info->type == WEIR__SET ? "none, or with commas between them: " : "one of ",
		      out);
		for (const char *comma = ""; (word = word_next(&words, &len)) != NULL; comma = ", ")
			fprintf(out, "%s%.*s", comma, (int)len, word);
		return;
	case WEIR__CLASSES:
	case WEIR__RESERVES:
		fputs(words + strcspn(words, "|") + 1, out);
	}
}

/* Digits only: no sign, no blanks, no base prefix. Leaves *text behind the last digit. */
static bool parse_number(const char **text, uint64_t *ret)
{
	const char *at = *text;
	uint64_t value = 0;
	for (; *at >= '0' && *at <= '9'; at++) {
		unsigned digit = (unsigned)(*at - '0');
		if (value > (UINT64_MAX - digit) / 10)
			return false;
		value = value * 10 + digit;
	}
	if (at == *text)
		return false;
	*text = at;
	*ret = value;
	return true;
}

/* "k", "m" or "g" in either case, or nothing, and then the end. */
static bool parse_suffix(const char *text, uint64_t *value)
{
	static const char suffix[] = "kKmMgG";
	if (*text == '\0')
		return true;
	const char *found = strchr(suffix, *text);
	if (found == NULL || text[1] != '\0')
		return false;
	unsigned shift = 10 * (1 + (unsigned)(found - suffix) / 2);
	if (*value > UINT64_MAX >> shift)
		return false;
	*value <<= shift;
	return true;
}

static bool parse_set(const char *words, const char *text, uint64_t *ret)
{
	uint64_t mask = 0;
	if (strcmp(text, "none") == 0) {
		*ret = 0;
		return true;
	}
	for (;;) {
		size_t len = strcspn(text, ",");
		int bit = word_find(words, text, len);
		if (bit < 0)
			return false;
		mask |= (uint64_t)1 << bit;
		if (text[len] == '\0')
			break;
		text += len + 1;
	}
	*ret = mask;
	return true;
}

/* Whether the allocator will take it. */
static bool parse_sizes(enum weir__option_type type, const char *text)
{
	struct weir__classes classes;
	struct weir__reserves reserves;
	int err = type == WEIR__CLASSES ? weir__classes_parse(text, &classes)
					: weir__reserves_parse(text, &reserves);
	return err == 0;
}

static bool parse(const struct weir__option_info *option, const char *text, uint64_t *ret)
{
	uint64_t value = 0;
	int place;
	switch (option->type) {
	case WEIR__NUMBER:
	case WEIR__BOOL:
		if (!parse_number(&text, &value) || *text != '\0')
			return false;
		break;
	case WEIR__BYTES:
		if (!parse_number(&text, &value) || !parse_suffix(text, &value))
			return false;
		break;
	case WEIR__CHOICE:
		place = word_find(option->unit, text, strlen(text));
		if (place < 0)
			return false;
		value = (uint64_t)place;
		break;
	case WEIR__SET:
		if (!parse_set(option->unit, text, &value))
			return false;
		break;
	case WEIR__CLASSES:
	case WEIR__RESERVES:
		if (!parse_sizes(option->type, text))
			return false;
		value = word_find(option->unit, text, strlen(text)) == 0 ? 0 : (uintptr_t)text;
		break;
	}
	if (!fits(option, value))
		return false;
	*ret = value;
	return true;
}

static bool fits(const struct weir__option_info *option, uint64_t value)
{
	bool is_text = option->type == WEIR__CLASSES || option->type == WEIR__RESERVES;
	return is_text || (value >= option->min && value <= option->max);
}

/*
 * Options that bound one another. A default gives way to what was asked for; two wishes that
 * contradict are refused here, because the kernel would refuse them without saying why.
 */
static bool fit_pairs(struct weir__config *config, FILE *err)
{
	static const struct {
		enum weir__option low, high;
	} pair[] = {
		{ WEIR__OPTION_sq_entries, WEIR__OPTION_cq_entries },
		{ WEIR__OPTION_recv_bytes, WEIR__OPTION_recv_bulk_bytes },
		{ WEIR__OPTION_recv_buffers, WEIR__OPTION_recv_buffers_max },
	};
	bool good = true;
	for (size_t i = 0; i < sizeof(pair) / sizeof(*pair); i++) {
		uint64_t *low = &config->value[pair[i].low], *high = &config->value[pair[i].high];
		if (*low <= *high)
			continue;
		if (config->source[pair[i].low] == WEIR__SOURCE_DEFAULT) {
			*low = *high;
		} else if (config->source[pair[i].high] == WEIR__SOURCE_DEFAULT) {
			*high = *low;
		} else {
			fprintf(err, "weir: %s=%llu: want at most %s, which is %llu\n",
				weir__option_info[pair[i].low].variable, (unsigned long long)*low,
				weir__option_info[pair[i].high].variable,
				(unsigned long long)*high);
			good = false;
		}
	}
	return good;
}

/* A value from outside, in quotes: cut off, and without what could steer a terminal. */
static void print_shown(const char *text, FILE *out)
{
	size_t len = strlen(text);
	fputc('"', out);
	for (size_t i = 0; i < len && i < VALUE_SHOWN_MAX; i++)
		fputc(text[i] >= ' ' && text[i] <= '~' ? text[i] : '?', out);
	fputs(len > VALUE_SHOWN_MAX ? "..." : "", out);
	fputc('"', out);
}

/* ---- Variables nobody reads --------------------------------------------- */

static size_t min_size(size_t a, size_t b)
{
	return a < b ? a : b;
}

/* Insertions, deletions and replacements (Levenshtein) from `a` to `b`, a name of the table. */
static size_t distance(const char *a, size_t a_len, const char *b)
{
	size_t b_len = strlen(b);
	size_t row[NAME_MAX_BYTES + 1];
	for (size_t j = 0; j <= b_len; j++)
		row[j] = j;
	for (size_t i = 1; i <= a_len; i++) {
		size_t corner = row[0];
		row[0] = i;
		for (size_t j = 1; j <= b_len; j++) {
			size_t replaced = corner + (a[i - 1] != b[j - 1]);
			corner = row[j];
			row[j] = min_size(replaced, 1 + min_size(row[j], row[j - 1]));
		}
	}
	return row[b_len];
}

static void name_unknown(const char *name, size_t len, FILE *err)
{
	const char *nearest = NULL;
	size_t best = NAME_DISTANCE_MAX + 1;
	for (unsigned i = 0; i < WEIR__OPTIONS && len < NAME_MAX_BYTES; i++) {
		size_t far = distance(name, len, weir__option_info[i].variable);
		if (far == 0)
			return;
		if (far < best) {
			best = far;
			nearest = weir__option_info[i].variable;
		}
	}
	fprintf(err, "weir: %.*s is not known; WEIR_HELP=1 lists what is",
		(int)min_size(len, NAME_MAX_BYTES), name);
	if (nearest != NULL)
		fprintf(err, "; did you mean %s?", nearest);
	fputc('\n', err);
}

static void name_unknown_variables(FILE *err)
{
	static atomic_flag done = ATOMIC_FLAG_INIT;
	if (atomic_flag_test_and_set_explicit(&done, memory_order_relaxed) || getauxval(AT_SECURE))
		return;
	for (char **at = environ; at != NULL && *at != NULL; at++)
		if (strncmp(*at, "WEIR_", 5) == 0)
			name_unknown(*at, strcspn(*at, "="), err);
}
