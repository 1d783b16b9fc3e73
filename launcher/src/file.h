/* Reading files and listing directories. */
#ifndef FILE_H
#define FILE_H

#include "arena.h"
#include "error.h"

#include <stdbool.h>

/* Larger input is refused: metadata.toml and exec.d output are a few kilobytes, an environment value of more
 * than 128 KiB cannot be handed to a process anyway. */
enum { INPUT_MAX = 16 * 1024 * 1024 };

struct entry {
    const char *name;
    bool is_directory; /* by itself: false for a link to a directory */
    bool is_link;
};

struct directory {
    struct entry *entries; /* in byte order of their names */
    size_t count;
};

/* Reads all that fd still gives; `name` is for the error text. */
int read_all(struct arena *arena, int fd, const char *name, struct text *content, struct error *err);

int file_read(struct arena *arena, const char *path, struct text *content, struct error *err);

/* Lists a directory; one that does not exist counts as empty. A link to a directory is followed. */
int directory_read(struct arena *arena, const char *path, struct directory *directory, struct error *err);

#endif
