/* What the kernel's control groups allow a process, from the texts of its files. Nothing here opens a file. */
#ifndef CGROUP_H
#define CGROUP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* A limit in bytes; UNLIMITED where there is none. */
enum { UNLIMITED = 0 };

/* The limit that memory.max (version 2) or memory.limit_in_bytes (version 1) names. "max", a number as large
 * as version 1 writes for no limit, and what is no number are UNLIMITED. */
uint64_t cgroup_limit(const char *text, size_t size);

/* The smaller of two limits. */
uint64_t cgroup_least(uint64_t left, uint64_t right);

/* Finds this process's group in the text of /proc/self/cgroup: the one of the controller `memory` for version
 * 1, the unified one for version 2. False when it has none; *group is a piece of the text, and begins with a
 * slash. */
bool cgroup_find(const char *text, size_t size, int version, const char **group, size_t *length);

#endif
