#include "cgroup.h"

#include <string.h>

/* Version 1 writes LONG_MAX rounded down to a page for no limit; no machine has a quarter of that. */
#define HUGE_LIMIT (UINT64_C(1) << 61)

uint64_t cgroup_limit(const char *text, size_t size)
{
    uint64_t limit = 0;
    size_t at = 0;

    while (at < size && text[at] >= '0' && text[at] <= '9') {
        if (limit > HUGE_LIMIT / 10)
            return UNLIMITED; /* before it is more than 64 bits have room for */
        limit = limit * 10 + (uint64_t)(text[at++] - '0');
        if (limit >= HUGE_LIMIT)
            return UNLIMITED;
    }
    if (at < size && text[at] != '\n')
        return UNLIMITED;
    return limit;
}

uint64_t cgroup_least(uint64_t left, uint64_t right)
{
    if (left == UNLIMITED || (right != UNLIMITED && right < left))
        return right;
    return left;
}

/* Whether `list`, words with commas between, has the word `memory`. */
static bool has_memory(const char *list, size_t size)
{
    static const char word[] = "memory";
    const size_t length = sizeof word - 1;

    while (size > 0) {
        const char *comma = memchr(list, ',', size);
        size_t part = comma == NULL ? size : (size_t)(comma - list);

        if (part == length && memcmp(list, word, length) == 0)
            return true;
        if (comma == NULL)
            break;
        list += part + 1;
        size -= part + 1;
    }
    return false;
}

bool cgroup_find(const char *text, size_t size, int version, const char **group, size_t *length)
{
    while (size > 0) {
        const char *end = memchr(text, '\n', size);
        size_t line = end == NULL ? size : (size_t)(end - text);
        const char *first = memchr(text, ':', line);
        size_t rest = first == NULL ? 0 : line - (size_t)(first - text) - 1;
        const char *second = first == NULL ? NULL : memchr(first + 1, ':', rest);

        if (second != NULL) {
            size_t controllers = (size_t)(second - first) - 1;
            bool wanted = version == 2 ? controllers == 0 : has_memory(first + 1, controllers);

            *group = second + 1;
            *length = rest - controllers - 1;
            if (wanted && *length > 0 && **group == '/')
                return true;
        }
        if (end == NULL)
            break;
        text += line + 1;
        size -= line + 1;
    }
    return false;
}
