#include "memory.h"

#include "cgroup.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/sysinfo.h>
#include <unistd.h>

/* Where a version has its groups, and the name of the file in each. */
struct hierarchy {
    int version;
    const char *directory, *file;
};

static const struct hierarchy HIERARCHIES[] = {
    {2, "/sys/fs/cgroup", "/memory.max"},
    {2, "/sys/fs/cgroup/unified", "/memory.max"},
    {1, "/sys/fs/cgroup/memory", "/memory.limit_in_bytes"},
};

/* Reads the beginning of a file; the bytes that were read, 0 when it cannot be. */
static size_t read_some(const char *path, char *buffer, size_t room)
{
    int file = open(path, O_RDONLY | O_CLOEXEC);
    size_t size = 0;
    ssize_t got = 1;

    if (file < 0)
        return 0;
    while (size < room && got != 0) {
        got = read(file, buffer + size, room - size);
        if (got > 0)
            size += (size_t)got;
        else if (got < 0 && errno != EINTR)
            break;
    }
    close(file);
    return size;
}

static uint64_t limit_of(const char *directory, const char *file)
{
    char path[PATH_MAX], text[64];
    int length = snprintf(path, sizeof path, "%s%s", directory, file);

    if (length < 0 || (size_t)length >= sizeof path)
        return UNLIMITED;
    return cgroup_limit(text, read_some(path, text, sizeof text));
}

/* The least limit from `group` up to the top. A container may see its group as the top (a namespace of its
 * own) and still be told a path that holds on the host only; the files of such a path are not there. */
static uint64_t limit_along(const char *top, const char *file, const char *group, size_t length)
{
    char path[PATH_MAX];
    size_t begin = strlen(top);
    uint64_t least;

    if (begin + length >= sizeof path)
        length = 0;
    memcpy(path, top, begin);
    memcpy(path + begin, group, length);
    path[begin + length] = '\0';
    least = limit_of(path, file);
    while (length > 0) {
        if (path[begin + --length] != '/')
            continue;
        path[begin + length] = '\0';
        least = cgroup_least(least, limit_of(path, file));
    }
    return least;
}

uint64_t memory_limit(const char *root)
{
    char path[PATH_MAX], table[16384];
    uint64_t least = UNLIMITED;
    struct sysinfo machine;
    size_t size = 0;

    if (snprintf(path, sizeof path, "%s/proc/self/cgroup", root) < (int)sizeof path)
        size = read_some(path, table, sizeof table);
    for (size_t number = 0; number < sizeof HIERARCHIES / sizeof *HIERARCHIES; number++) {
        const struct hierarchy *here = &HIERARCHIES[number];
        const char *group = "";
        size_t length = 0;

        if (snprintf(path, sizeof path, "%s%s", root, here->directory) >= (int)sizeof path)
            continue;
        if (!cgroup_find(table, size, here->version, &group, &length))
            length = 0;
        least = cgroup_least(least, limit_along(path, here->file, group, length));
    }
    if (least != UNLIMITED && sysinfo(&machine) == 0)
        least = cgroup_least(least, (uint64_t)machine.totalram * machine.mem_unit);
    return least;
}
