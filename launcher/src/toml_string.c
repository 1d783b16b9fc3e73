#include "toml_reader.h"

#include <string.h>

static int hex_digit(int byte)
{
    if (byte >= '0' && byte <= '9')
        return byte - '0';
    if (byte >= 'a' && byte <= 'f')
        return byte - 'a' + 10;
    if (byte >= 'A' && byte <= 'F')
        return byte - 'A' + 10;
    return -1;
}

/* Writes at most four bytes; returns their end. */
static char *put_utf8(char *out, unsigned long code)
{
    if (code < 0x80) {
        *out++ = (char)code;
        return out;
    }
    if (code < 0x800) {
        *out++ = (char)(0xc0 | code >> 6);
    } else {
        if (code < 0x10000) {
            *out++ = (char)(0xe0 | code >> 12);
        } else {
            *out++ = (char)(0xf0 | code >> 18);
            *out++ = (char)(0x80 | (code >> 12 & 0x3f));
        }
        *out++ = (char)(0x80 | (code >> 6 & 0x3f));
    }
    *out++ = (char)(0x80 | (code & 0x3f));
    return out;
}

/* Reads the digits of \uXXXX or \UXXXXXXXX. */
static int read_code_point(struct reader *reader, int digits, char **out)
{
    unsigned long code = 0;

    for (int i = 0; i < digits; i++) {
        int digit = hex_digit(reader_peek(reader, 0));

        if (digit < 0)
            return reader_fail(reader, "\\u takes four and \\U eight hexadecimal digits");
        code = code << 4 | (unsigned long)digit;
        reader->at++;
    }
    if (code > 0x10ffff || (code >= 0xd800 && code <= 0xdfff))
        return reader_fail(reader, "the escaped code point is not a Unicode scalar value");
    *out = put_utf8(*out, code);
    return 0;
}

/* In a multi-line string a backslash at the end of a line takes the white space up to the next character with
 * it. */
static bool skip_line_end(struct reader *reader)
{
    const char *at = reader->at;

    while (at < reader->end && (*at == ' ' || *at == '\t'))
        at++;
    if (at < reader->end && *at == '\r')
        at++;
    if (at == reader->end || *at != '\n')
        return false;
    while (at < reader->end && (*at == ' ' || *at == '\t' || *at == '\n' ||
                                (*at == '\r' && at + 1 < reader->end && at[1] == '\n')))
        at++;
    reader->at = at;
    return true;
}

/* Reads what follows a backslash. What it writes is never longer than what it reads. */
static int read_escape(struct reader *reader, bool multi_line, char **out)
{
    static const char letters[] = "btnfr\"\\", values[] = "\b\t\n\f\r\"\\";
    int letter = reader_peek(reader, 0);
    const char *found = letter > 0 ? strchr(letters, letter) : NULL;

    if (multi_line && skip_line_end(reader))
        return 0;
    if (letter < 0)
        return reader_fail(reader, "the string is not closed");
    reader->at++;
    if (letter == 'u' || letter == 'U')
        return read_code_point(reader, letter == 'u' ? 4 : 8, out);
    if (found == NULL)
        return reader_fail(reader, "unknown escape in a string");
    *(*out)++ = values[found - letters];
    return 0;
}

/* Reads one line end, kept as it is. */
static bool take_line_end(struct reader *reader, char **out)
{
    size_t size = reader_peek(reader, 0) == '\r' ? 2 : 1;

    if (reader_peek(reader, size - 1) != '\n')
        return false;
    *out = (char *)memcpy(*out, reader->at, size) + size;
    reader->at += size;
    return true;
}

/* The closing quotes of the string whose content begins at `at`, or null. */
static const char *find_close(const char *at, const char *end, char quote, bool multi_line)
{
    for (; at < end && (multi_line || *at != '\n'); at++) {
        if (*at == '\\' && quote == '"') {
            at++; /* the loop then passes what is escaped */
        } else if (*at == quote && !multi_line) {
            return at;
        } else if (end - at >= 3 && at[0] == quote && at[1] == quote && at[2] == quote) {
            /* Up to two quotes in front of the closing three belong to the string. */
            for (int extra = 0; extra < 2 && end - at > 3 && at[3] == quote; extra++)
                at++;
            return at;
        }
    }
    return NULL;
}

/* Decodes the whole of `content`, which is what stands between the quotes, to *out. */
static int decode(struct reader *content, char quote, bool multi_line, char **out)
{
    while (content->at < content->end) {
        if (quote == '"' && reader_take(content, '\\')) {
            if (read_escape(content, multi_line, out) < 0)
                return -1;
        } else if (toml_is_printable(reader_peek(content, 0))) {
            *(*out)++ = *content->at++;
        } else if (!multi_line || !take_line_end(content, out)) {
            return reader_fail(content, "control character in a string");
        }
    }
    return 0;
}

int toml_read_string(struct reader *reader, bool is_key, struct text *value)
{
    char quote = *reader->at, *data, *out;
    bool multi_line = reader_peek(reader, 1) == quote && reader_peek(reader, 2) == quote;
    struct reader content = *reader;
    const char *close;

    if (multi_line && is_key)
        return reader_fail(reader, "a key cannot be a multi-line string");
    content.at += multi_line ? 3 : 1;
    close = find_close(content.at, reader->end, quote, multi_line);
    if (close == NULL)
        return reader_fail(reader, "the string is not closed");
    content.end = close;
    /* Decoding never makes a string longer. */
    data = out = arena_take(reader->arena, (size_t)(content.end - content.at) + 1, 1);
    if (multi_line && reader_peek(&content, reader_peek(&content, 0) == '\r') == '\n')
        content.at +=
            *content.at == '\r' ? 2 : 1; /* a line end right behind the opening quotes is not content */
    if (decode(&content, quote, multi_line, &out) < 0)
        return -1;
    reader->at = close + (multi_line ? 3 : 1);
    *value = (struct text){data, (size_t)(out - data)};
    return 0;
}

/* How many bytes the character takes whose first byte is `lead`, and the range of its second byte; 0 if none
 * begins so. The ranges leave out overlong forms, surrogates and what lies above U+10FFFF. */
static size_t utf8_length(unsigned char lead, unsigned char *lowest, unsigned char *highest)
{
    *lowest = 0x80;
    *highest = 0xbf;
    if (lead < 0x80)
        return 1;
    if (lead < 0xc2 || lead > 0xf4)
        return 0;
    if (lead == 0xe0)
        *lowest = 0xa0;
    if (lead == 0xed)
        *highest = 0x9f;
    if (lead == 0xf0)
        *lowest = 0x90;
    if (lead == 0xf4)
        *highest = 0x8f;
    return lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : 4;
}

bool toml_is_utf8(struct text text, size_t *valid)
{
    size_t at = 0;

    for (*valid = 0; at < text.size; *valid = at) {
        unsigned char lowest, highest;
        size_t length = utf8_length((unsigned char)text.data[at], &lowest, &highest);

        if (length == 0 || length > text.size - at)
            return false;
        for (size_t i = 1; i < length; i++, lowest = 0x80, highest = 0xbf) {
            unsigned char byte = (unsigned char)text.data[at + i];

            if (byte < lowest || byte > highest)
                return false;
        }
        at += length;
    }
    return true;
}
