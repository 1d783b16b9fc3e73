#include "path.h"

#include <string.h>

const char *path_clean(struct arena *arena, const char *path)
{
    size_t size = 0, kept = 0; /* bytes written; bytes at the front that ".." cannot take away */
    char *clean = arena_take(arena, strlen(path) + 2, 1);

    if (*path == '/') {
        clean[size++] = '/';
        kept = 1;
    }
    while (*path != '\0') {
        size_t length = strcspn(path, "/");

        if (length == 2 && path[0] == '.' && path[1] == '.' && size > kept) {
            while (size > kept && clean[--size] != '/')
                ;
        } else if (length == 2 && path[0] == '.' && path[1] == '.') {
            if (clean[0] != '/') {
                if (size > 0)
                    clean[size++] = '/';
                memcpy(clean + size, "..", 2);
                kept = size += 2;
            }
        } else if (length > 0 && !(length == 1 && path[0] == '.')) {
            if (size > 0 && clean[size - 1] != '/')
                clean[size++] = '/';
            memcpy(clean + size, path, length);
            size += length;
        }
        path += length;
        path += strspn(path, "/");
    }
    if (size == 0)
        clean[size++] = '.';
    clean[size] = '\0';
    return clean;
}

const char *path_join(struct arena *arena, const char *directory, const char *name)
{
    /* An empty directory adds no slash: "" and "bin" give "bin", not "/bin". */
    return path_clean(arena,
                      *directory == '\0' ? name : string_join(arena, directory, "/", name, (char *)NULL));
}

const char *path_base(const char *path)
{
    const char *slash = strrchr(path, '/');

    return slash == NULL ? path : slash + 1;
}
