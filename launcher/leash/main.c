/* The parent-death guard: runs a program, and kills it when stdin ends, that is, when packhorse ends.
 *
 *     leash run PROGRAM [ARGUMENT...]
 *     leash last DESCRIPTOR
 *
 * `run` guards pasta, which loses its parent-death signal when it changes its ids. Stdin is one end of a socket;
 * sandbox/process.py holds the other. `run` sends a pidfd of the program through it, so that packhorse can kill
 * the program if this one is killed. It ends with the program and with its status; for a program that a signal
 * ended, with the negated number of the signal, as Python counts it.
 *
 * `last` waits until stdin ends. It is then the last process with DESCRIPTOR, a mount namespace, so the kernel
 * unmounts when this program ends. packhorse does not wait for that (sandbox/runner.py). */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

enum { EXIT_USAGE = 125, EXIT_NOT_STARTED = 127, MOST_DESCRIPTORS = 256 };

static _Noreturn void execute(char **argv)
{
    execvp(argv[0], argv);
    fprintf(stderr, "%s: %s\n", argv[0], strerror(errno));
    _exit(EXIT_NOT_STARTED);
}

/* Sends a descriptor through stdin. It does not matter if the other end is closed already. */
static void hand_over(int process)
{
    union {
        struct cmsghdr header;
        char space[CMSG_SPACE(sizeof(int))];
    } control = {0};
    char byte = 0;
    struct iovec data = {&byte, 1};
    struct msghdr message = {
        .msg_iov = &data, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control};

    control.header.cmsg_level = SOL_SOCKET;
    control.header.cmsg_type = SCM_RIGHTS;
    control.header.cmsg_len = CMSG_LEN(sizeof(int));
    memcpy(CMSG_DATA(&control.header), &process, sizeof process);
    (void)!sendmsg(STDIN_FILENO, &message, MSG_NOSIGNAL);
}

/* Waits until stdin or the process has ended; returns whether the process has. */
static bool has_ended(int process)
{
    struct pollfd ends[] = {{STDIN_FILENO, POLLIN, 0}, {process, POLLIN, 0}};

    while (poll(ends, 2, -1) < 0 && errno == EINTR)
        continue;
    return ends[1].revents != 0;
}

static int wait_for(pid_t pid)
{
    int status = 0;

    while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
        continue;
    return WIFSIGNALED(status) ? -WTERMSIG(status) : WEXITSTATUS(status);
}

int main(int argc, char **argv)
{
    pid_t pid = 0;
    int process, number;
    char byte;

    if (argc < 3)
        return EXIT_USAGE;
    if (strcmp(argv[1], "last") == 0) {
        while (read(STDIN_FILENO, &byte, 1) < 0 && errno == EINTR)
            continue;
        return 0;
    }
    pid = fork();
    if (pid == 0)
        execute(argv + 2);
    if (pid < 0)
        return EXIT_NOT_STARTED;
    process = (int)syscall(SYS_pidfd_open, pid, 0);
    for (number = 3; number < MOST_DESCRIPTORS; number++)
        if (number != process)
            close(number); /* only the program may hold its descriptors */
    hand_over(process);
    if (!has_ended(process))
        syscall(SYS_pidfd_send_signal, process, SIGKILL, NULL, 0);
    return wait_for(pid);
}
