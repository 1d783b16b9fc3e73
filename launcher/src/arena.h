/* Memory and strings of known length.
 *
 * Nothing is freed one by one: the launcher ends in execve. An arena frees all at once, for the fuzz targets.
 * Each piece is its own malloc block, so that a sanitizer sees the first byte past its end. Running out of
 * memory, or a size that does not fit size_t, ends the launcher at once with exit code 82; so these functions
 * never return NULL. */
#ifndef ARENA_H
#define ARENA_H

#include <stdbool.h>
#include <stddef.h>

struct arena {
    struct block *blocks;
};

/* Bytes of known length, followed by a zero byte that is not counted. They may hold zero bytes themselves. */
struct text {
    const char *data;
    size_t size;
};

/* A growing list of C strings. Unless it is empty, a null pointer closes `items`, as execve wants it. */
struct strings {
    const char **items;
    size_t count;
    size_t room;
};

/* Zeroed memory for `count` items of `size` bytes. */
void *arena_take(struct arena *arena, size_t count, size_t size);

/* `old`, or a copy of its `count` items, with zeroed room for at least two more; *room is updated. */
void *arena_grow(struct arena *arena, void *old, size_t count, size_t size, size_t *room);

void arena_free(struct arena *arena);

struct text text_of(const char *string);
struct text text_copy(struct arena *arena, const char *data, size_t size);
/* The pieces one after another. */
struct text text_join(struct arena *arena, const struct text *pieces, size_t count);
bool text_equal(struct text left, struct text right);
/* True when the text can be a C string: no zero byte within. */
bool text_is_string(struct text text);

/* The strings one after another; the arguments end with a null pointer. */
const char *string_join(struct arena *arena, ...) __attribute__((sentinel));

void strings_add(struct arena *arena, struct strings *list, const char *item);
void strings_add_all(struct arena *arena, struct strings *list, const struct strings *more);
/* The strings of a list one after another. */
const char *strings_join(struct arena *arena, const struct strings *list, const char *separator);

#endif
