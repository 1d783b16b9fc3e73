#include "arena.h"

#include "error.h"

#include <stdalign.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct block {
    struct block *next;
    alignas(max_align_t) unsigned char data[];
};

static void *checked(struct arena *arena, size_t count, size_t size)
{
    struct block *block = NULL;
    size_t bytes;

    if (!__builtin_mul_overflow(count, size, &bytes) && !__builtin_add_overflow(bytes, sizeof *block, &bytes))
        block = calloc(1, bytes);
    if (block == NULL) {
        report("ERROR: ", "failed to launch: out of memory. Give the container more memory.");
        _exit(EXIT_LAUNCH);
    }
    block->next = arena->blocks;
    arena->blocks = block;
    return block->data;
}

void *arena_take(struct arena *arena, size_t count, size_t size)
{
    return checked(arena, count, size);
}

void *arena_grow(struct arena *arena, void *old, size_t count, size_t size, size_t *room)
{
    void *larger;

    if (count + 1 < *room)
        return old;
    *room =
        count < 8 ? 16 : count * 2; /* count items exist in memory, so twice the number does not overflow */
    larger = arena_take(arena, *room, size);
    if (count > 0)
        memcpy(larger, old, count * size);
    return larger;
}

void arena_free(struct arena *arena)
{
    while (arena->blocks != NULL) {
        struct block *block = arena->blocks;

        arena->blocks = block->next;
        free(block);
    }
}

struct text text_of(const char *string)
{
    return (struct text){string, strlen(string)};
}

struct text text_copy(struct arena *arena, const char *data, size_t size)
{
    struct text piece = {data, size};

    return text_join(arena, &piece, 1);
}

struct text text_join(struct arena *arena, const struct text *pieces, size_t count)
{
    size_t size = 0;
    char *data, *end;

    for (size_t i = 0; i < count; i++)
        size += pieces[i].size; /* the pieces are in memory at once or are a few arguments: no overflow */
    data = end = arena_take(arena, size + 1, 1);
    for (size_t i = 0; i < count; i++)
        if (pieces[i].size > 0)
            end = (char *)memcpy(end, pieces[i].data, pieces[i].size) + pieces[i].size;
    return (struct text){data, size};
}

bool text_equal(struct text left, struct text right)
{
    return left.size == right.size && (left.size == 0 || memcmp(left.data, right.data, left.size) == 0);
}

bool text_is_string(struct text text)
{
    return text.size == 0 || memchr(text.data, '\0', text.size) == NULL;
}

const char *string_join(struct arena *arena, ...)
{
    size_t size = 0;
    const char *piece;
    char *data, *end;
    va_list arguments, again;

    va_start(arguments, arena);
    va_copy(again, arguments);
    while ((piece = va_arg(arguments, const char *)) != NULL)
        size += strlen(piece);
    va_end(arguments);
    data = end = arena_take(arena, size + 1, 1);
    while ((piece = va_arg(again, const char *)) != NULL)
        end = stpcpy(end, piece);
    va_end(again);
    return data;
}

void strings_add(struct arena *arena, struct strings *list, const char *item)
{
    list->items = arena_grow(arena, list->items, list->count, sizeof *list->items, &list->room);
    list->items[list->count++] = item;
}

void strings_add_all(struct arena *arena, struct strings *list, const struct strings *more)
{
    for (size_t i = 0; i < more->count; i++)
        strings_add(arena, list, more->items[i]);
}

const char *strings_join(struct arena *arena, const struct strings *list, const char *separator)
{
    size_t size = 0;
    char *data, *end;

    for (size_t i = 0; i < list->count; i++)
        size += strlen(list->items[i]) + strlen(separator);
    data = end = arena_take(arena, size + 1, 1);
    for (size_t i = 0; i < list->count; i++) {
        if (i > 0)
            end = stpcpy(end, separator);
        end = stpcpy(end, list->items[i]);
    }
    return data;
}
