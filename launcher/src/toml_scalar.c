#include "toml_reader.h"

#include <string.h>

static bool is_digit(int byte)
{
    return byte >= '0' && byte <= '9';
}

static bool is_hex(int byte)
{
    return is_digit(byte) || (byte >= 'a' && byte <= 'f') || (byte >= 'A' && byte <= 'F');
}

static bool is_octal(int byte)
{
    return byte >= '0' && byte <= '7';
}

static bool is_binary(int byte)
{
    return byte == '0' || byte == '1';
}

/* Passes digits with single underscores between them; returns how many digits. */
static size_t pass_digits(const char **at, bool (*is_one)(int))
{
    size_t count = 0;

    for (; is_one(**at) || (count > 0 && **at == '_' && is_one((*at)[1])); ++*at)
        count += **at != '_';
    return count;
}

static bool pass(const char **at, char wanted)
{
    if (**at != wanted)
        return false;
    ++*at;
    return true;
}

/* Passes exactly `digits` digits whose number is in the range. */
static bool pass_field(const char **at, int digits, int lowest, int highest)
{
    int number = 0;

    for (int i = 0; i < digits; i++, ++*at) {
        if (!is_digit(**at))
            return false;
        number = number * 10 + (**at - '0');
    }
    return number >= lowest && number <= highest;
}

/* Passes a sign and the digits of a decimal number, which has no leading zeros. */
static bool pass_decimal(const char **at)
{
    if (**at == '+' || **at == '-')
        ++*at;
    return pass(at, '0') || pass_digits(at, is_digit) > 0;
}

static bool pass_date(const char **at)
{
    static const char days[] = {31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31};
    const char *start = *at;
    int year, month, day;

    if (!pass_field(at, 4, 0, 9999) || !pass(at, '-') || !pass_field(at, 2, 1, 12) || !pass(at, '-') ||
        !pass_field(at, 2, 1, 31))
        return false;
    year = (start[0] - '0') * 1000 + (start[1] - '0') * 100 + (start[2] - '0') * 10 + start[3] - '0';
    month = (start[5] - '0') * 10 + start[6] - '0';
    day = (start[8] - '0') * 10 + start[9] - '0';
    if (month == 2 && day == 29)
        return year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    return day <= days[month - 1];
}

static bool pass_time(const char **at)
{
    if (!pass_field(at, 2, 0, 23) || !pass(at, ':') || !pass_field(at, 2, 0, 59) || !pass(at, ':') ||
        !pass_field(at, 2, 0, 60))
        return false;
    if (!pass(at, '.'))
        return true;
    if (!is_digit(**at))
        return false;
    while (is_digit(**at))
        ++*at;
    return true;
}

/* Passes an offset from UTC, which may be missing. */
static bool pass_offset(const char **at)
{
    if (**at == '\0' || pass(at, 'Z') || pass(at, 'z'))
        return true;
    return (pass(at, '+') || pass(at, '-')) && pass_field(at, 2, 0, 23) && pass(at, ':') &&
           pass_field(at, 2, 0, 59);
}

/* The forms below take a word that ends in a zero byte and say whether all of it has their form. */

static bool is_date_time(const char *word)
{
    const char *at = word;

    if (word[0] != '\0' && word[1] != '\0' && word[2] == ':')
        return pass_time(&at) && *at == '\0';
    if (!pass_date(&at))
        return false;
    if (*at == '\0')
        return true;
    return (pass(&at, 'T') || pass(&at, 't') || pass(&at, ' ')) && pass_time(&at) && pass_offset(&at) &&
           *at == '\0';
}

static bool is_integer(const char *word)
{
    const char *at = word;
    bool (*is_one)(int) = NULL;

    if (word[0] == '0')
        is_one = word[1] == 'x' ? is_hex : word[1] == 'o' ? is_octal : word[1] == 'b' ? is_binary : NULL;
    if (is_one != NULL) {
        at += 2;
        return pass_digits(&at, is_one) > 0 && *at == '\0';
    }
    return pass_decimal(&at) && *at == '\0';
}

static bool is_float(const char *word)
{
    const char *at = word + (word[0] == '+' || word[0] == '-');

    if (strcmp(at, "inf") == 0 || strcmp(at, "nan") == 0)
        return true;
    at = word;
    if (!pass_decimal(&at))
        return false;
    if (pass(&at, '.') && pass_digits(&at, is_digit) == 0)
        return false;
    if (pass(&at, 'e') || pass(&at, 'E')) {
        if (*at == '+' || *at == '-')
            at++;
        if (pass_digits(&at, is_digit) == 0)
            return false;
    }
    return *at == '\0';
}

static bool is_boolean(const char *word)
{
    return strcmp(word, "true") == 0 || strcmp(word, "false") == 0;
}

/* The length of the word at the present place. A date and a time with one space between them are one word. */
static size_t word_length(const struct reader *reader)
{
    size_t length = 0;
    int byte;

    while (
        (byte = reader_peek(reader, length)) > 0 &&
        (is_digit(byte) || (byte >= 'a' && byte <= 'z') || (byte >= 'A' && byte <= 'Z') ||
         strchr("+-_.:", byte) != NULL ||
         (byte == ' ' && length == 10 && reader_peek(reader, 4) == '-' && is_digit(reader_peek(reader, 11)))))
        length++;
    return length;
}

int toml_read_scalar(struct reader *reader, struct toml *value)
{
    value->text = text_copy(reader->arena, reader->at, word_length(reader));
    if (is_boolean(value->text.data))
        value->type = TOML_BOOLEAN;
    else if (is_integer(value->text.data))
        value->type = TOML_INTEGER;
    else if (is_date_time(value->text.data))
        value->type = TOML_DATE_TIME;
    else if (is_float(value->text.data))
        value->type = TOML_FLOAT;
    else
        return reader_fail(reader, "this is not a value");
    reader->at += value->text.size;
    return 0;
}
