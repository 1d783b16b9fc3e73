/* A strict TOML 1.0 reader, for config/metadata.toml and the output of exec.d programs.
 *
 * Documents become a tree of values in an arena. Numbers and dates are checked for their form only and kept
 * as they are written, as the launcher uses none. Everything else is decoded. A document that breaks a rule
 * of TOML is refused as a whole. */
#ifndef TOML_H
#define TOML_H

#include "arena.h"
#include "error.h"

#include <stdbool.h>

enum toml_type {
    TOML_STRING,
    TOML_INTEGER,
    TOML_FLOAT,
    TOML_BOOLEAN,
    TOML_DATE_TIME,
    TOML_ARRAY,
    TOML_TABLE
};

/* How a table came to be decides what may still be added to it (TOML 1.0, "Table"). */
enum toml_origin { TOML_IMPLIED, TOML_BY_HEADER, TOML_BY_DOTTED_KEY, TOML_INLINE };

struct toml {
    enum toml_type type;
    enum toml_origin origin; /* of a table, or of an array: TOML_BY_HEADER when made by [[...]] */
    struct text key;         /* when it is in a table */
    struct text text;        /* a string's decoded value; a number, boolean or date as it is written */
    struct toml *first;      /* what a table or array holds, in the order of the document */
    struct toml *last;
    struct toml *next; /* in the same table or array */
};

/* Reads a document. The error names the line. */
int toml_read(struct arena *arena, struct text document, struct toml **root, struct error *err);

/* The value of a key in a table, or null. */
struct toml *toml_get(const struct toml *table, struct text key);

/* "string", "integer", ...: for error texts. */
const char *toml_type_name(enum toml_type type);

#endif
