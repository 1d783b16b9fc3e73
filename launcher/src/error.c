#include "error.h"

#include "number.h"

#include <stdarg.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

static void append(struct error *err, size_t *size, const char *piece, size_t length)
{
    size_t room = sizeof err->text - 1 - *size;

    if (length > room)
        length = room;
    memcpy(err->text + *size, piece, length);
    *size += length;
}

int fail(struct error *err, enum exit_code code, const char *format, ...)
{
    char digits[NUMBER_ROOM];
    size_t size = 0;
    va_list arguments;

    err->code = code;
    va_start(arguments, format);
    for (;;) {
        const char *piece;
        size_t literal = strcspn(format, "%");

        append(err, &size, format, literal);
        format += literal;
        if (strncmp(format, "%s", 2) == 0) {
            piece = va_arg(arguments, const char *);
            format += 2;
        } else if (strncmp(format, "%lu", 3) == 0) {
            piece = number_text(va_arg(arguments, unsigned long), digits);
            format += 3;
        } else {
            break; /* the end of the format */
        }
        append(err, &size, piece, strlen(piece));
    }
    va_end(arguments);
    err->text[size] = '\0';
    return -1;
}

int fail_advise(struct error *err, const char *advice)
{
    char text[sizeof err->text];

    memcpy(text, err->text, sizeof text);
    return fail(err, err->code, "%s %s", text, advice);
}

int fail_within(struct error *err, const char *context)
{
    char text[sizeof err->text];

    memcpy(text, err->text, sizeof text);
    return fail(err, err->code, "%s: %s", context, text);
}

void report(const char *label, const char *text)
{
    /* One writev, so that a line is not torn where several containers share a log. The reference writes to
     * standard output, where it would mix with what the application prints; standard error is what the task
     * of a message is. */
    struct iovec parts[] = {
        {.iov_base = (void *)label, .iov_len = strlen(label)},
        {.iov_base = (void *)text, .iov_len = strlen(text)},
        {.iov_base = "\n", .iov_len = 1},
    };

    if (writev(STDERR_FILENO, parts, 3) < 0)
        return; /* there is nobody left to tell */
}
