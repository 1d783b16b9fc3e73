/* The one error convention of the launcher.
 *
 * A function that can fail takes a `struct error *` last and returns 0, or -1 after it has filled it by
 * fail(). Callers pass a failure up unchanged; only main prints. Memory is the exception, see arena.h. */
#ifndef ERROR_H
#define ERROR_H

/* Exit codes of platform.md, "launcher" (P-146). */
enum exit_code {
    EXIT_PLATFORM_API = 11,
    EXIT_BUILDPACK_API = 12,
    EXIT_LAUNCH = 82,
};

struct error {
    enum exit_code code;
    char text[4096]; /* what happened, why and what to do; longer texts are cut */
};

/* Fills err and returns -1. The text ends up behind "ERROR: failed to ". The format knows %s and %lu only: a
 * printf that knows more would be a fifth of the program. */
int fail(struct error *err, enum exit_code code, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* Puts a sentence that says what to do behind the text of err and returns -1. */
int fail_advise(struct error *err, const char *advice);

/* Puts "<context>: " in front of the text of err and returns -1. */
int fail_within(struct error *err, const char *context);

/* Writes one line to standard error. */
void report(const char *label, const char *text);

#endif
