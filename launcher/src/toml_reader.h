/* What the parts of the TOML reader share: the place in the document. Private to toml*.c. */
#ifndef TOML_READER_H
#define TOML_READER_H

#include "toml.h"

struct reader {
    struct arena *arena;
    struct error *err;
    const char *begin;
    const char *at; /* never past end */
    const char *end;
    int depth; /* of arrays and inline tables */
};

/* The byte `ahead` of the present one, or -1 behind the end of the document. */
static inline int reader_peek(const struct reader *reader, size_t ahead)
{
    return ahead < (size_t)(reader->end - reader->at) ? (unsigned char)reader->at[ahead] : -1;
}

static inline bool reader_take(struct reader *reader, char wanted)
{
    if (reader_peek(reader, 0) != (unsigned char)wanted)
        return false;
    reader->at++;
    return true;
}

/* Fills the error with "line <n>: <problem>" and returns -1. */
int reader_fail(struct reader *reader, const char *problem);

/* True for bytes that TOML allows in comments and one-line strings: no control characters but the tab. */
static inline bool toml_is_printable(int byte)
{
    return byte == '\t' || (byte >= ' ' && byte != 0x7f);
}

/* Reads a string that begins at the present quote; a key may not be a multi-line string. */
int toml_read_string(struct reader *reader, bool is_key, struct text *value);

/* Reads a number, a boolean or a date. */
int toml_read_scalar(struct reader *reader, struct toml *value);

/* False when the text is not UTF-8; *valid is the number of bytes at its front that are. */
bool toml_is_utf8(struct text text, size_t *valid);

#endif
