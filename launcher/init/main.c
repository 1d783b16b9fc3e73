/* The first process of a step in an OCI runtime's sandbox: waits, starts the step's command, waits for it.
 *
 *     init CHANNEL SELF STDIN STDOUT STDERR
 *
 * All words are descriptors. SELF is the one it was executed from; the last three become the command's. What
 * to do comes through CHANNEL, a stream socket whose other end sandbox/container.py holds: when that is closed
 * before, nothing is run. The command has the pid 2, in a session of its own; orphans are waited for, and
 * everything ends with the command, whose status, or 128 and the number of its signal, is this program's. What
 * keeps the command from being executed is told through CHANNEL as a `failure`, and the status is 125.
 *
 *     init CHANNEL SELF
 *
 * In bubblewrap's sandbox, which waits for orphans itself and has set everything else already: becomes the command.
 * Bubblewrap gives the capabilities that root keeps as ambient and inheritable ones too; here they lose that, so that
 * a program which gives up root's id gives up root's rights, as under docker.
 *
 * An order is a `head`, the system call filter, which may be empty, and `strings` strings, each with its NUL: the maps for a user
 * namespace of the command's own, or two empty ones; its directory; its executable, found as execvp(3) does;
 * `arguments` arguments from argv[0] on; its environment. */
#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

enum { EXIT_FAILED = 125, SIGNALLED = 128, FIXED_STRINGS = 4, LAST_CAPABILITY = 63, MOST_DESCRIPTORS = 64 };

struct head {
    uint32_t filter;    /* in bytes */
    uint32_t text;      /* of all strings, in bytes */
    uint32_t strings;
    uint32_t arguments;
    uint64_t files;     /* RLIMIT_NOFILE, which runtimes written in Go raise and leave raised */
};

/* What could not be done, a letter of `enum task`, and errno. */
struct failure {
    int32_t task;
    int32_t reason;
};

enum task { IDS = 'i', FILTER = 'f', DIRECTORY = 'd', EXECUTION = 'e', SETUP = 's' };

struct order {
    char *filter;
    size_t filter_size;
    const char *uids, *gids, *directory, *executable;
    char **arguments, **environment;
    rlim_t files;
};

static _Noreturn void fail(int channel, enum task task)
{
    struct failure failure = {(int32_t)task, errno};

    send(channel, &failure, sizeof failure, MSG_NOSIGNAL);
    _exit(EXIT_FAILED);
}

static bool receive(int channel, void *place, size_t size)
{
    char *at = place;
    ssize_t got;

    while (size > 0) {
        got = read(channel, at, size);
        if (got <= 0)
            return false;
        at += got;
        size -= (size_t)got;
    }
    return true;
}

/* Waits for the order; false when there will be none. */
static bool take_order(int channel, struct order *order)
{
    struct head head;
    char *text, **strings;
    uint32_t number, arguments;

    if (!receive(channel, &head, sizeof head))
        return false;
    order->filter_size = head.filter;
    order->filter = malloc(head.filter + 1);
    text = malloc((size_t)head.text + 1);
    strings = calloc((size_t)head.strings + 2, sizeof *strings);
    if (order->filter == NULL || text == NULL || strings == NULL)
        fail(channel, SETUP);
    if (!receive(channel, order->filter, head.filter) || !receive(channel, text, head.text))
        return false;
    text[head.text] = '\0';
    errno = EINVAL;
    if (head.strings < FIXED_STRINGS || head.arguments > head.strings - FIXED_STRINGS)
        fail(channel, SETUP);
    order->uids = text;
    order->gids = order->uids + strlen(order->uids) + 1;
    order->directory = order->gids + strlen(order->gids) + 1;
    order->executable = order->directory + strlen(order->directory) + 1;
    text = (char *)order->executable + strlen(order->executable) + 1;
    arguments = head.arguments;
    order->arguments = strings;
    order->environment = strings + arguments + 1; /* behind the NULL that ends the arguments */
    for (number = 0; number < head.strings - FIXED_STRINGS; number++, text += strlen(text) + 1)
        strings[number < arguments ? number : number + 1] = text;
    order->files = head.files;
    return true;
}

static bool write_file(const char *path, const char *text)
{
    int descriptor = open(path, O_WRONLY | O_CLOEXEC);
    bool done = descriptor >= 0 && write(descriptor, text, strlen(text)) >= 0;

    if (descriptor >= 0)
        close(descriptor);
    return done;
}

/* Becomes another id in a user namespace of its own, without any of the capabilities that it gives. */
static bool change_ids(const struct order *order)
{
    struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
    struct __user_cap_data_struct none[2] = {{0, 0, 0}, {0, 0, 0}};
    int number;

    if (unshare(CLONE_NEWUSER) < 0)
        return false;
    write_file("/proc/self/setgroups", "deny"); /* it may be denied already, and this be refused */
    if (!write_file("/proc/self/uid_map", order->uids) || !write_file("/proc/self/gid_map", order->gids))
        return false;
    for (number = 0; number <= LAST_CAPABILITY; number++)
        if (prctl(PR_CAPBSET_DROP, number, 0, 0, 0) < 0 && errno != EINVAL)
            return false;
    return syscall(SYS_capset, &header, none) == 0;
}

/* Empties the inheritable set, and the ambient set with it (capabilities(7)). */
static bool hand_down_no_capability(void)
{
    struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
    struct __user_cap_data_struct sets[2];

    if (syscall(SYS_capget, &header, sets) < 0)
        return false;
    sets[0].inheritable = sets[1].inheritable = 0;
    return syscall(SYS_capset, &header, sets) == 0;
}

static bool confine(const struct order *order)
{
    struct sock_fprog filter = {
        .len = (unsigned short)(order->filter_size / sizeof(struct sock_filter)),
        .filter = (void *)order->filter,
    };

    return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 &&
           (filter.len == 0 || prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter) == 0);
}

static bool limit_files(rlim_t soft)
{
    struct rlimit limit;

    if (getrlimit(RLIMIT_NOFILE, &limit) < 0)
        return false;
    limit.rlim_cur = soft < limit.rlim_max ? soft : limit.rlim_max;
    return setrlimit(RLIMIT_NOFILE, &limit) == 0;
}

static void restore_signals(void)
{
    sigset_t none;
    int number;

    for (number = 1; number < NSIG; number++)
        signal(number, SIG_DFL);
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
}

/* What names no interpreter is the shell's, as where execvp(3) is glibc's. */
static void execute_script(const struct order *order)
{
    size_t count = 0;
    char **words;

    while (order->arguments[count] != NULL)
        count++;
    words = calloc(count + 2, sizeof *words);
    if (words == NULL || count == 0)
        return;
    words[0] = "/bin/sh";
    words[1] = (char *)order->executable;
    memcpy(words + 2, order->arguments + 1, (count - 1) * sizeof *words);
    execv(words[0], words);
}

static _Noreturn void execute(int channel, const struct order *order)
{
    if (chdir(order->directory) < 0)
        fail(channel, DIRECTORY);
    environ = order->environment;
    execvp(order->executable, order->arguments);
    if (errno == ENOEXEC) {
        execute_script(order);
        errno = ENOEXEC;
    }
    fail(channel, EXECUTION);
}

static _Noreturn void become_command(int channel, char **stdio, const struct order *order)
{
    int number;

    for (number = 0; number < 3; number++)
        if (dup2(atoi(stdio[number]), number) < 0)
            fail(channel, SETUP);
    for (number = 0; number < 3; number++)
        close(atoi(stdio[number]));
    setsid();
    execute(channel, order);
}

static int wait_for(pid_t command)
{
    int status;
    pid_t ended;

    do
        ended = wait(&status);
    while (ended != command && (ended >= 0 || errno == EINTR));
    if (ended < 0)
        return EXIT_FAILED;
    return WIFSIGNALED(status) ? SIGNALLED + WTERMSIG(status) : WEXITSTATUS(status);
}

int main(int argc, char **argv)
{
    struct order order;
    pid_t command;
    int channel, number;

    if (argc != 3 && argc != 6)
        return EXIT_FAILED;
    channel = atoi(argv[1]);
    close(atoi(argv[2]));
    restore_signals();
    if (fcntl(channel, F_SETFD, FD_CLOEXEC) < 0 || !take_order(channel, &order))
        return EXIT_FAILED;
    if (argc == 3) {
        if (!hand_down_no_capability())
            fail(channel, SETUP);
        execute(channel, &order);
    }
    if (*order.uids != '\0' && !change_ids(&order))
        fail(channel, IDS);
    prctl(PR_SET_DUMPABLE, 0, 0, 0, 0); /* so that the command cannot look into this process */
    if (!limit_files(order.files))
        fail(channel, SETUP);
    if (!confine(&order))
        fail(channel, FILTER);
    command = fork();
    if (command < 0)
        fail(channel, SETUP);
    if (command == 0)
        become_command(channel, argv + 3, &order);
    for (number = 3; number < MOST_DESCRIPTORS; number++)
        close(number); /* what the command has of them ends with the command's own */
    return wait_for(command);
}
