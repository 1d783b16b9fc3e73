/* The readers of the kernel's texts about control groups take any bytes and read nothing outside of them. */
#include "cgroup.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char *text = malloc(size); /* no zero byte behind it: the readers must not need one */
    const char *group;
    size_t length;

    if (size > 0)
        memcpy(text, data, size);
    if (cgroup_limit(text, size) > UINT64_MAX / 4)
        abort();
    for (int version = 1; version <= 2; version++)
        if (cgroup_find(text, size, version, &group, &length))
            if (*group != '/' || group < text || group + length > text + size || memchr(group, '\n', length))
                abort();
    free(text);
    return 0;
}
