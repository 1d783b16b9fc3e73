/* What an attempt is and how it tells its outcome; every attempt runs in a process of its own (main.c). */
#ifndef ATTEMPT_H
#define ATTEMPT_H

#include <stddef.h>

/* Either a function, or one system call: its number, and what it is asked for. */
typedef struct {
    const char *name;
    void (*run)(void);
    long call;
    const void *arguments[6];
} Attempt;

#define NUMBER(value) ((const void *)(value))

extern const Attempt FILES[], KERNEL[], PROCESSES[], SOCKETS[], NETWORK[];

/* Each tells the outcome and ends the attempt. A system call's result goes to `told`. */
_Noreturn void refused(int error);
_Noreturn void got(const char *format, ...) __attribute__((format(printf, 1, 2)));
_Noreturn void told(long result);

/* A variable that the test has set, such as the path of a file outside; without it the attempt ends. */
const char *given(const char *name);

/* Opens a file and tells what its first line is. */
_Noreturn void reads(const char *path);

/* Writes `text` to a file that there is. */
_Noreturn void writes(const char *path, const char *text);

/* The first of some paths that can be opened so; told as refused by the last error when none can. */
_Noreturn void opens_any(const char *const *paths, int flags);

#endif
