/* An attacker in a step: tries to get out, and says of each attempt what came of it.

       attacker            prints `ATTEMPT name refused ERRNO`, `ATTEMPT name got TEXT` or `ATTEMPT name hung`
       attacker NAME...    only these
       attacker socket PATH    makes a socket there, and nothing else

   What has to be told (paths, numbers of processes, names of sockets) is in the environment: `given`. */
#include "attempt.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

static const char *current;

void refused(int error) {
    printf("ATTEMPT %s refused %d\n", current, error);
    fflush(stdout);
    _exit(0);
}

void got(const char *format, ...) {
    va_list arguments;
    char text[400];
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    text[strcspn(text, "\n")] = 0;
    printf("ATTEMPT %s got %s\n", current, text);
    fflush(stdout);
    _exit(0);
}

void told(long result) {
    if (result == -1)
        refused(errno);
    got("%ld", result);
}

const char *given(const char *name) {
    const char *value = getenv(name);
    if (value == NULL)
        got("no variable %s", name);
    return value;
}

void reads(const char *path) {
    char text[200];
    int file = open(path, O_RDONLY | O_NONBLOCK);
    if (file < 0)
        refused(errno);
    ssize_t length = read(file, text, sizeof text - 1);
    if (length < 0)
        refused(errno);
    text[length] = 0;
    got("%s", text);
}

void writes(const char *path, const char *text) {
    int file = open(path, O_WRONLY | O_NONBLOCK);
    if (file < 0)
        refused(errno);
    told(write(file, text, strlen(text)));
}

void opens_any(const char *const *paths, int flags) {
    int error = 0;
    for (; *paths; paths++) {
        if (open(*paths, flags | O_NONBLOCK | O_NOCTTY, 0600) >= 0)
            got("%s", *paths);
        if (error == 0 || errno != ENOENT)
            error = errno;
    }
    refused(error);
}

static void attempt(const Attempt *one) {
    int status;
    current = one->name;
    fflush(stdout);
    pid_t pid = fork();
    if (pid == 0) {
        alarm(5);
        if (one->run == NULL)
            told(syscall(one->call, one->arguments[0], one->arguments[1], one->arguments[2], one->arguments[3],
                         one->arguments[4], one->arguments[5]));
        one->run();
        got("nothing to say");
    }
    waitpid(pid, &status, 0);
    if (WIFSIGNALED(status))
        printf("ATTEMPT %s %s %d\n", current, WTERMSIG(status) == SIGALRM ? "hung" : "killed", WTERMSIG(status));
}

static int wanted(const char *name, char **names) {
    if (*names == NULL)
        return 1;
    for (; *names; names++)
        if (strcmp(name, *names) == 0)
            return 1;
    return 0;
}

static int makes_socket(const char *path) {
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    strncpy(address.sun_path, path, sizeof address.sun_path - 1);
    return bind(socket(AF_UNIX, SOCK_STREAM, 0), (struct sockaddr *)&address, sizeof address) < 0;
}

int main(int count, char **words) {
    if (count == 3 && strcmp(words[1], "socket") == 0)
        return makes_socket(words[2]);
    static const Attempt *const all[] = {FILES, KERNEL, PROCESSES, SOCKETS, NETWORK};
    for (size_t index = 0; index < sizeof all / sizeof *all; index++)
        for (const Attempt *one = all[index]; one->name; one++)
            if (count && wanted(one->name, words + 1))
                attempt(one);
    return 0;
}
