/* SPDX-License-Identifier: MIT */
/*
 * symbol.c: addresses as names of functions.
 *
 * dladdr() knows what a module exports, which is little of a program. The rest is in the symbol
 * table of its file: it is mapped and searched from end to end, since a report asks for a few
 * hundred addresses and then closes it. A stripped program shows module and offset, for addr2line
 * and a copy with symbols.
 *
 * Not for signal handlers.
 */
#include "runtime/backtrace.h"

#include <dlfcn.h>
#include <elf.h>
#include <fcntl.h>
#include <link.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

enum { MODULES_MAX = 64 };

/* A module's file. `image` is NULL when it could not be opened or is no ELF file of ours. */
struct module {
	uintptr_t base; /* where the file's address 0 is */
	char *image;
	size_t bytes;
	const ElfW(Sym) * symbols;
	size_t count;
	const char *names;
	size_t names_bytes;
};

struct weir__symbols {
	unsigned count;
	struct module modules[MODULES_MAX];
};

struct weir__symbols *weir__symbols_open(void)
{
	return calloc(1, sizeof(struct weir__symbols));
}

void weir__symbols_close(struct weir__symbols *symbols)
{
	for (unsigned i = 0; symbols && i < symbols->count; i++)
		if (symbols->modules[i].image)
			munmap(symbols->modules[i].image, symbols->modules[i].bytes);
	free(symbols);
}

/* ---- One file ----------------------------------------------------------- */

static bool lies_within(const struct module *module, uint64_t offset, uint64_t bytes)
{
	return offset <= module->bytes && bytes <= module->bytes - offset;
}

/* Finds the full symbol table, or the exported one. Believes nothing the file says. */
static void find_table(struct module *module)
{
	const ElfW(Ehdr) *header = (const void *)module->image;

	if (module->bytes < sizeof *header || memcmp(header->e_ident, ELFMAG, SELFMAG) != 0 ||
	    header->e_shentsize != sizeof(ElfW(Shdr)) || header->e_shoff % 8 != 0 ||
	    !lies_within(module, header->e_shoff, header->e_shnum * sizeof(ElfW(Shdr))))
		return;
	const ElfW(Shdr) *sections = (const void *)(module->image + header->e_shoff);
	for (unsigned i = 0; i < header->e_shnum; i++) {
		const ElfW(Shdr) *table = &sections[i];
		bool is_better = table->sh_type == SHT_SYMTAB ||
				 (table->sh_type == SHT_DYNSYM && !module->symbols);
		if (!is_better || table->sh_link >= header->e_shnum || table->sh_offset % 8 != 0)
			continue;
		const ElfW(Shdr) *names = &sections[table->sh_link];
		if (!lies_within(module, table->sh_offset, table->sh_size) ||
		    !lies_within(module, names->sh_offset, names->sh_size) || names->sh_size == 0 ||
		    module->image[names->sh_offset + names->sh_size - 1] != '\0')
			continue;
		module->symbols = (const void *)(module->image + table->sh_offset);
		module->count = table->sh_size / sizeof(ElfW(Sym));
		module->names = module->image + names->sh_offset;
		module->names_bytes = names->sh_size;
	}
}

static void map_file(struct module *module, const char *path)
{
	struct stat about;
	int fd = open(path, O_RDONLY | O_CLOEXEC);

	if (fd < 0)
		return;
	if (fstat(fd, &about) == 0 && S_ISREG(about.st_mode) && about.st_size > 0) {
		void *image = mmap(NULL, (size_t)about.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
		if (image != MAP_FAILED) {
			module->image = image;
			module->bytes = (size_t)about.st_size;
			find_table(module);
		}
	}
	(void)close(fd);
}

/* The loader calls the program itself by an empty name. */
static struct module *module_of(struct weir__symbols *symbols, uintptr_t pc)
{
	Dl_info info;
	struct link_map *map = NULL;

	if (!symbols || !dladdr1((void *)pc, &info, (void **)&map, RTLD_DL_LINKMAP) || !map)
		return NULL;
	for (unsigned i = 0; i < symbols->count; i++)
		if (symbols->modules[i].base == map->l_addr)
			return &symbols->modules[i];
	if (symbols->count == MODULES_MAX)
		return NULL;
	struct module *module = &symbols->modules[symbols->count++];
	module->base = map->l_addr;
	map_file(module, map->l_name && *map->l_name ? map->l_name : "/proc/self/exe");
	return module;
}

/* ---- Names -------------------------------------------------------------- */

static bool contains(const ElfW(Sym) * symbol, uintptr_t address)
{
	unsigned type = symbol->st_info & 0xf;

	return (type == STT_FUNC || type == STT_GNU_IFUNC) && symbol->st_shndx != SHN_UNDEF &&
	       address >= symbol->st_value && address - symbol->st_value < symbol->st_size;
}

const char *weir__symbol_name(struct weir__symbols *symbols, uintptr_t pc, uintptr_t *ret_offset)
{
	const struct module *module = module_of(symbols, pc);

	for (size_t i = 0; module && i < module->count; i++) {
		const ElfW(Sym) *symbol = &module->symbols[i];
		if (!contains(symbol, pc - module->base) || symbol->st_name >= module->names_bytes)
			continue;
		*ret_offset = pc - module->base - symbol->st_value;
		return module->names + symbol->st_name;
	}
	return NULL;
}

const char *weir__function_name(struct weir__symbols *symbols, int (*fn)(void *arg))
{
	uintptr_t offset;
	const char *name = weir__symbol_name(symbols, (uintptr_t)fn, &offset);

	return name ? name : "task";
}

/*
 * A return address may lie behind the end of the function that called: the call itself does not.
 * Where nothing is in front of it, a signal came at the first instruction of a function.
 */
static void write_frame(struct weir__symbols *symbols, uintptr_t pc, FILE *out)
{
	Dl_info info;
	struct link_map *map = NULL;
	uintptr_t offset;
	const char *name = weir__symbol_name(symbols, pc - 1, &offset);

	if (name)
		offset++;
	else
		name = weir__symbol_name(symbols, pc, &offset);
	if (name)
		fprintf(out, "%s+0x%zx", name, (size_t)offset);
	if (dladdr1((void *)pc, &info, (void **)&map, RTLD_DL_LINKMAP) && map)
		fprintf(out, "%s(%s+0x%zx)\n", name ? " " : "", info.dli_fname,
			(size_t)(pc - map->l_addr));
	else
		fprintf(out, "%s0x%zx\n", name ? " " : "", (size_t)pc);
}

void weir__frames_write(struct weir__symbols *symbols, const uintptr_t *pcs, unsigned count,
			const char *indent, FILE *out)
{
	for (unsigned i = 0; i < count; i++) {
		fprintf(out, "%s#%u ", indent, i);
		write_frame(symbols, pcs[i], out);
	}
}

static FILE *open_copy(int copied)
{
	int fd = fcntl(copied, F_DUPFD_CLOEXEC, 3);
	FILE *out = fd < 0 ? NULL : fdopen(fd, "w");

	if (fd >= 0 && !out)
		(void)close(fd);
	return out;
}

FILE *weir__stderr_open(void)
{
	return open_copy(STDERR_FILENO);
}

void weir__frames_write_to(int fd, const uintptr_t *pcs, unsigned count)
{
	FILE *out = open_copy(fd);
	struct weir__symbols *symbols = weir__symbols_open();

	if (out)
		weir__frames_write(symbols, pcs, count, "    ", out);
	weir__symbols_close(symbols);
	if (out)
		(void)fclose(out);
}
