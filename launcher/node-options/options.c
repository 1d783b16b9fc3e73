#include "options.h"

#include <string.h>

enum { SHARE = 75, WHOLE = 100, MIB = 1024 * 1024, LEAST_HEAP = 16 };

static void add(struct line *line, const char *piece, size_t size)
{
    if (size >= sizeof line->text - line->size) {
        line->overflow = true;
        return;
    }
    memcpy(line->text + line->size, piece, size);
    line->size += size;
    line->text[line->size] = '\0';
}

void line_add(struct line *line, const char *piece)
{
    add(line, piece, strlen(piece));
}

void line_add_number(struct line *line, uint64_t number)
{
    char digits[24];
    size_t at = sizeof digits;

    do {
        digits[--at] = (char)('0' + number % 10);
        number /= 10;
    } while (number > 0);
    add(line, digits + at, sizeof digits - at);
}

void options_add(struct line *line, const char *option)
{
    if (line->size > 0)
        line_add(line, " ");
    line_add(line, option);
}

/* Whether `text` begins with `option`; V8 takes an underscore for a hyphen. */
static bool begins(const char *text, const char *option)
{
    for (; *option != '\0'; text++, option++)
        if (*text != *option && !(*text == '_' && *option == '-'))
            return false;
    return true;
}

static bool has(const char *options, const char *option)
{
    for (; *options != '\0'; options++)
        if (begins(options, option))
            return true;
    return false;
}

bool options_limit_heap(const char *options)
{
    return has(options, "--max-old-space-size") || has(options, "--max-heap-size");
}

bool options_inspect(const char *options)
{
    return has(options, "--inspect");
}

uint64_t heap_size(uint64_t limit)
{
    uint64_t size = limit / MIB * SHARE / WHOLE;

    return size < LEAST_HEAP ? LEAST_HEAP : size;
}

void toml_write(struct line *line, const char *name, const char *value)
{
    static const char digits[] = "0123456789ABCDEF";

    line_add(line, name);
    line_add(line, " = \"");
    for (; *value != '\0'; value++) {
        unsigned char byte = (unsigned char)*value;

        if (byte < ' ' || byte == 0x7f) {
            char escape[] = {'\\', 'u', '0', '0', digits[byte >> 4], digits[byte & 15]};

            add(line, escape, sizeof escape);
            continue;
        }
        if (byte == '"' || byte == '\\')
            add(line, "\\", 1);
        add(line, value, 1);
    }
    line_add(line, "\"\n");
}
