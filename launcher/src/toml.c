#include "toml_reader.h"

#include <string.h>

enum { DEPTH_MAX = 64 }; /* of arrays and inline tables in each other; metadata.toml needs three */

static int read_value(struct reader *reader, struct toml *value);

int reader_fail(struct reader *reader, const char *problem)
{
    unsigned long line = 1;

    for (const char *at = reader->begin; at < reader->at; at++)
        line += *at == '\n';
    return fail(reader->err, EXIT_LAUNCH, "line %lu: %s", line, problem);
}

struct toml *toml_get(const struct toml *table, struct text key)
{
    for (struct toml *value = table->first; value != NULL; value = value->next)
        if (text_equal(value->key, key))
            return value;
    return NULL;
}

const char *toml_type_name(enum toml_type type)
{
    static const char *const names[] = {"string",       "integer", "float", "boolean",
                                        "date or time", "array",   "table"};

    return names[type];
}

/* Adds an empty value to a table or array. */
static struct toml *add(struct reader *reader, struct toml *parent, struct text key)
{
    struct toml *value = arena_take(reader->arena, 1, sizeof *value);

    value->key = key;
    if (parent->last == NULL)
        parent->first = value;
    else
        parent->last->next = value;
    parent->last = value;
    return value;
}

static struct toml *add_table(struct reader *reader, struct toml *parent, struct text key,
                              enum toml_origin origin)
{
    struct toml *table = add(reader, parent, key);

    table->type = TOML_TABLE;
    table->origin = origin;
    return table;
}

static void skip_blanks(struct reader *reader)
{
    while (reader_peek(reader, 0) == ' ' || reader_peek(reader, 0) == '\t')
        reader->at++;
}

static bool take_line_end(struct reader *reader)
{
    if (reader_peek(reader, 0) == '\r' && reader_peek(reader, 1) == '\n')
        reader->at++;
    return reader_take(reader, '\n');
}

static void skip_comment(struct reader *reader)
{
    if (reader_peek(reader, 0) == '#')
        while (toml_is_printable(reader_peek(reader, 0)))
            reader->at++;
}

/* Passes white space, line ends and comments between the elements of an array. */
static void skip_lines(struct reader *reader)
{
    do {
        skip_blanks(reader);
        skip_comment(reader);
    } while (take_line_end(reader));
}

/* A statement is alone on its line. */
static int end_line(struct reader *reader)
{
    skip_blanks(reader);
    skip_comment(reader);
    if (reader->at == reader->end || take_line_end(reader))
        return 0;
    return reader_fail(reader, "the line should end here");
}

static bool is_bare(int byte)
{
    return (byte >= 'a' && byte <= 'z') || (byte >= 'A' && byte <= 'Z') || (byte >= '0' && byte <= '9') ||
           byte == '_' || byte == '-';
}

/* Reads one part of a dotted key and the blanks around it. */
static int read_key_part(struct reader *reader, struct text *part)
{
    size_t size = 0;

    skip_blanks(reader);
    if (reader_peek(reader, 0) == '"' || reader_peek(reader, 0) == '\'') {
        if (toml_read_string(reader, true, part) < 0)
            return -1;
    } else {
        while (is_bare(reader_peek(reader, size)))
            size++;
        if (size == 0)
            return reader_fail(reader, "a key is missing");
        *part = text_copy(reader->arena, reader->at, size);
        reader->at += size;
    }
    skip_blanks(reader);
    return 0;
}

/* Goes from a table into the one that `key` names, which is made if there is none, for one more part of a
 * header or of a dotted key. Null: the key holds something that cannot be extended that way. */
static struct toml *enter(struct reader *reader, struct toml *table, struct text key, bool in_header)
{
    struct toml *found = toml_get(table, key);

    if (found == NULL)
        return add_table(reader, table, key, in_header ? TOML_IMPLIED : TOML_BY_DOTTED_KEY);
    if (in_header && found->type == TOML_ARRAY && found->origin == TOML_BY_HEADER)
        return found->last;
    if (found->type != TOML_TABLE || found->origin == TOML_INLINE ||
        (!in_header && found->origin == TOML_BY_HEADER))
        return NULL;
    if (!in_header)
        found->origin = TOML_BY_DOTTED_KEY;
    return found;
}

/* Reads key = value into a table. */
static int read_pair(struct reader *reader, struct toml *table)
{
    struct text key;
    struct toml *value;

    if (read_key_part(reader, &key) < 0)
        return -1;
    while (reader_take(reader, '.')) {
        table = enter(reader, table, key, false);
        if (table == NULL)
            return reader_fail(reader, "the dotted key extends something that is complete");
        if (read_key_part(reader, &key) < 0)
            return -1;
    }
    if (!reader_take(reader, '='))
        return reader_fail(reader, "a key should be followed by '='");
    if (toml_get(table, key) != NULL)
        return reader_fail(reader, "the key has a value already");
    skip_blanks(reader);
    value = add(reader, table, key);
    return read_value(reader, value);
}

static int read_array(struct reader *reader, struct toml *array)
{
    array->type = TOML_ARRAY;
    array->origin = TOML_INLINE;
    for (;;) {
        skip_lines(reader);
        if (reader_take(reader, ']'))
            return 0;
        if (read_value(reader, add(reader, array, (struct text){0})) < 0)
            return -1;
        skip_lines(reader);
        if (!reader_take(reader, ',') && reader_peek(reader, 0) != ']')
            return reader_fail(reader, "elements of an array should be followed by ',' or ']'");
    }
}

static int read_inline_table(struct reader *reader, struct toml *table)
{
    table->type = TOML_TABLE;
    table->origin = TOML_INLINE;
    skip_blanks(reader);
    if (reader_take(reader, '}'))
        return 0;
    do {
        if (read_pair(reader, table) < 0)
            return -1;
        skip_blanks(reader);
    } while (reader_take(reader, ','));
    if (!reader_take(reader, '}'))
        return reader_fail(reader, "pairs of an inline table should be followed by ',' or '}'");
    return 0;
}

static int read_value(struct reader *reader, struct toml *value)
{
    int result;

    if (reader_peek(reader, 0) == '"' || reader_peek(reader, 0) == '\'') {
        value->type = TOML_STRING;
        return toml_read_string(reader, false, &value->text);
    }
    if (reader_peek(reader, 0) != '[' && reader_peek(reader, 0) != '{')
        return toml_read_scalar(reader, value);
    if (++reader->depth > DEPTH_MAX)
        return reader_fail(reader, "too many arrays or tables in each other");
    result = *reader->at++ == '[' ? read_array(reader, value) : read_inline_table(reader, value);
    reader->depth--;
    return result;
}

/* Finds or makes the table that a header names last. Null: it exists already, or is something else. */
static struct toml *open_table(struct reader *reader, struct toml *parent, struct text key, bool is_array)
{
    struct toml *found = toml_get(parent, key);

    if (is_array) {
        if (found == NULL) {
            found = add(reader, parent, key);
            found->type = TOML_ARRAY;
            found->origin = TOML_BY_HEADER;
        }
        if (found->type != TOML_ARRAY || found->origin != TOML_BY_HEADER)
            return NULL;
        return add_table(reader, found, (struct text){0}, TOML_BY_HEADER);
    }
    if (found == NULL)
        return add_table(reader, parent, key, TOML_BY_HEADER);
    if (found->type != TOML_TABLE || found->origin != TOML_IMPLIED)
        return NULL;
    found->origin = TOML_BY_HEADER;
    return found;
}

/* Reads [a.b] or [[a.b]]; *table becomes the one that the following pairs belong to. */
static int read_header(struct reader *reader, struct toml *root, struct toml **table)
{
    struct toml *parent = root;
    struct text key;
    bool is_array;

    reader->at++;
    is_array = reader_take(reader, '[');
    if (read_key_part(reader, &key) < 0)
        return -1;
    while (reader_take(reader, '.')) {
        parent = enter(reader, parent, key, true);
        if (parent == NULL)
            return reader_fail(reader, "the header extends something that is not a table");
        if (read_key_part(reader, &key) < 0)
            return -1;
    }
    if (!reader_take(reader, ']') || (is_array && !reader_take(reader, ']')))
        return reader_fail(reader, "the header is not closed");
    *table = open_table(reader, parent, key, is_array);
    return *table == NULL ? reader_fail(reader, "the header names something that exists already") : 0;
}

int toml_read(struct arena *arena, struct text document, struct toml **root, struct error *err)
{
    struct reader reader = {arena, err, document.data, document.data, document.data + document.size, 0};
    struct toml *table = arena_take(arena, 1, sizeof *table);
    size_t valid;

    table->type = TOML_TABLE;
    table->origin = TOML_BY_HEADER;
    *root = table;
    if (!toml_is_utf8(document, &valid)) {
        reader.at += valid;
        return reader_fail(&reader, "this is not UTF-8");
    }
    if (document.size >= 3 && memcmp(document.data, "\xef\xbb\xbf", 3) == 0)
        reader.at += 3; /* a byte order mark; the reference passes it over */
    while (reader.at < reader.end) {
        skip_blanks(&reader);
        if (reader_peek(&reader, 0) == '[') {
            if (read_header(&reader, *root, &table) < 0)
                return -1;
        } else if (is_bare(reader_peek(&reader, 0)) || reader_peek(&reader, 0) == '"' ||
                   reader_peek(&reader, 0) == '\'') {
            if (read_pair(&reader, table) < 0)
                return -1;
        }
        if (end_line(&reader) < 0)
            return -1;
    }
    return 0;
}
