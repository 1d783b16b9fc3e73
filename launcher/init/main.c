/* Process 1 of a sandbox: starts commands, and kills the processes that they leave.
 *
 *     init CHANNEL [UIDS GIDS]
 *
 * CHANNEL is a SOCK_SEQPACKET socket, which keeps messages apart; sandbox/init.py has the other end. UIDS and GIDS are
 * the maps of a user namespace that this process enters first: an OCI runtime starts it as root of a single id.
 *
 * One kind of `request` starts a command. It comes with descriptors: a file with an order, then the command's
 * descriptors 0, 1, 2 and so on. Another kind sends a signal to a command. An `answer` says one of these:
 *     READY    this process is ready
 *     REFUSED  a command could not be executed, and why
 *     ENDED    a command has ended, with its status
 *     GONE     all commands have ended, and nothing else is left in the PID namespace
 * Before it answers GONE, this process kills and reaps everything in the namespace, so that no process of one command
 * meets the next command. Several commands may run at once. When CHANNEL ends, this process ends, and with it the
 * whole namespace.
 *
 * The commands run as the same user as this process. So that they cannot control it:
 *     - they cannot trace it: from the first command on it is not dumpable, nor are its children before they execute
 *     - it receives no signal from inside the namespace (pid_namespaces(7))
 *     - it passes none of its own descriptors on, and reads nothing that a command can write
 * A child reads the order, so that a bad order ends only that child.
 *
 * An order is a `head`, the system call filter, which may be empty, and `strings` strings, each with its NUL: the
 * directory to start in; the executable, found as execvp(3) does; `arguments` arguments from argv[0] on; the
 * environment. */
#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

enum {
    EXIT_FAILED = 125,
    SIGNALLED = 128,
    FIXED_STRINGS = 2,
    LAST_CAPABILITY = 63,
    FIRST_FREE = 64,      /* above all numbers that commands are given */
    MOST_DESCRIPTORS = 1024,
    MOST_GIVEN = 8,       /* descriptors of one request */
    MOST_COMMANDS = 256,  /* at once */
};

enum kind { START = 'c', SIGNAL = 's', READY = 'r', REFUSED = 'f', ENDED = 'e', GONE = 'g' };

/* The task that failed. sandbox/init.py knows the same letters. */
enum task { FILTER = 'f', DIRECTORY = 'd', EXECUTION = 'e', SETUP = 's' };

struct request {
    int32_t kind;
    int32_t command;
    int32_t value; /* the number of a signal */
};

struct answer {
    int32_t kind;
    int32_t command;
    int32_t value; /* a task that was refused, or a status */
    int32_t reason; /* errno of that task */
};

struct head {
    uint32_t filter; /* in bytes */
    uint32_t text;   /* of all strings, in bytes */
    uint32_t strings;
    uint32_t arguments;
    uint64_t files; /* RLIMIT_NOFILE, which runtimes written in Go raise and leave raised */
};

struct order {
    const char *filter;
    size_t filter_size;
    const char *directory, *executable;
    char **arguments, **environment;
    rlim_t files;
};

static int channel;
static struct {
    int32_t command;
    pid_t pid; /* 0 where none runs */
} running[MOST_COMMANDS];

static void answer(enum kind kind, int32_t command, int32_t value, int32_t reason)
{
    struct answer message = {(int32_t)kind, command, value, reason};

    while (send(channel, &message, sizeof message, MSG_NOSIGNAL) < 0 && errno == EINTR)
        continue;
}

static _Noreturn void refuse(int32_t command, enum task task)
{
    answer(REFUSED, command, (int32_t)task, errno);
    _exit(EXIT_FAILED);
}

/* Finds the parts of an order in its file. */
static bool read_order(int file, struct order *order)
{
    struct stat status;
    struct head head;
    char *text, *end, **strings;
    uint32_t number;

    if (fstat(file, &status) < 0)
        return false;
    errno = EINVAL;
    if ((size_t)status.st_size < sizeof head)
        return false;
    text = mmap(NULL, (size_t)status.st_size + 1, PROT_READ | PROT_WRITE, MAP_PRIVATE, file, 0);
    if (text == MAP_FAILED)
        return false;
    end = text + status.st_size;
    memcpy(&head, text, sizeof head);
    errno = EINVAL;
    if ((size_t)status.st_size != sizeof head + (size_t)head.filter + head.text || head.strings < FIXED_STRINGS ||
        head.arguments > head.strings - FIXED_STRINGS || head.text == 0 || end[-1] != '\0')
        return false;
    order->filter = text + sizeof head;
    order->filter_size = head.filter;
    order->files = head.files;
    text += sizeof head + head.filter;
    strings = calloc((size_t)head.strings + 2, sizeof *strings);
    if (strings == NULL)
        return false;
    order->directory = text;
    text += strlen(text) + 1;
    order->executable = text;
    text += strlen(text) + 1;
    order->arguments = strings;
    order->environment = strings + head.arguments + 1; /* behind the NULL that ends the arguments */
    for (number = 0; number < head.strings - FIXED_STRINGS && text < end; number++, text += strlen(text) + 1)
        strings[number < head.arguments ? number : number + 1] = text;
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

/* Enters a new user namespace with other ids, and gives up all capabilities that it has there. */
static bool change_ids(const char *uids, const char *gids)
{
    struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
    struct __user_cap_data_struct none[2] = {{0, 0, 0}, {0, 0, 0}};
    int number;

    if (unshare(CLONE_NEWUSER) < 0)
        return false;
    write_file("/proc/self/setgroups", "deny"); /* fails if it is denied already */
    if (!write_file("/proc/self/uid_map", uids) || !write_file("/proc/self/gid_map", gids))
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

/* Runs a file that names no interpreter with the shell, as glibc's execvp(3) does. */
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

static _Noreturn void execute(int32_t command, const struct order *order)
{
    if (chdir(order->directory) < 0)
        refuse(command, DIRECTORY);
    environ = order->environment;
    execvp(order->executable, order->arguments);
    if (errno == ENOEXEC) {
        execute_script(order);
        errno = ENOEXEC;
    }
    refuse(command, EXECUTION);
}

/* Becomes a command. `given` has the file with the order, then the descriptors of the command. */
static _Noreturn void become_command(int32_t command, int *given, int count)
{
    struct order order;
    int number;

    setsid();
    restore_signals();
    for (number = 0; number < count; number++) /* moved away from the numbers that the command gets */
        if ((given[number] = fcntl(given[number], F_DUPFD_CLOEXEC, FIRST_FREE)) < 0)
            refuse(command, SETUP);
    for (number = 1; number < count; number++)
        if (dup2(given[number], number - 1) < 0)
            refuse(command, SETUP);
    if (!read_order(given[0], &order) || !limit_files(order.files) || !hand_down_no_capability())
        refuse(command, SETUP);
    if (!confine(&order))
        refuse(command, FILTER);
    execute(command, &order);
}

/* The index of a running command in the table; -1 if it does not run. */
static int find_command(int32_t command)
{
    int place;

    for (place = 0; place < MOST_COMMANDS; place++)
        if (running[place].pid != 0 && running[place].command == command)
            return place;
    return -1;
}

/* The index of a process in the table, of a free entry for process 0; -1 if there is none. */
static int find_process(pid_t pid)
{
    int place;

    for (place = 0; place < MOST_COMMANDS; place++)
        if (running[place].pid == pid)
            return place;
    return -1;
}

static bool is_any_running(void)
{
    int place;

    for (place = 0; place < MOST_COMMANDS; place++)
        if (running[place].pid != 0)
            return true;
    return false;
}

/* Takes the descriptors that came with a message. */
static int take_descriptors(struct msghdr *message, int *given)
{
    struct cmsghdr *part = CMSG_FIRSTHDR(message);
    size_t size;

    if (part == NULL || part->cmsg_level != SOL_SOCKET || part->cmsg_type != SCM_RIGHTS)
        return 0;
    size = part->cmsg_len - CMSG_LEN(0);
    memcpy(given, CMSG_DATA(part), size);
    return (int)(size / sizeof *given);
}

static void start(const struct request *request, int *given, int count)
{
    int place = find_process(0);
    pid_t pid = -1;

    errno = EINVAL;
    if (place >= 0 && request->command >= 0 && find_command(request->command) < 0 && count > 0)
        pid = fork();
    if (pid == 0)
        become_command(request->command, given, count);
    if (pid > 0) {
        running[place].command = request->command;
        running[place].pid = pid;
        return;
    }
    answer(REFUSED, request->command, SETUP, errno);
    answer(ENDED, request->command, EXIT_FAILED, 0);
    if (!is_any_running())
        answer(GONE, -1, 0, 0);
}

/* Does what a request asks for; exits when the other end is closed. */
static void serve(void)
{
    union {
        struct cmsghdr header;
        char space[CMSG_SPACE(sizeof(int[MOST_GIVEN]))];
    } control;
    struct request request;
    struct iovec data = {&request, sizeof request};
    struct msghdr message = {
        .msg_iov = &data, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control.space};
    int given[MOST_GIVEN], count, number, place;
    ssize_t got = recvmsg(channel, &message, MSG_CMSG_CLOEXEC);

    if (got < 0 && errno == EINTR)
        return;
    if (got != (ssize_t)sizeof request)
        _exit(EXIT_FAILED); /* and with this process, all */
    /* Before the first command and not earlier: files in /proc/PID of a process that is not dumpable belong to root.
     * Until then an ordinary user on the host sets limits by them. */
    prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
    count = take_descriptors(&message, given);
    if (request.kind == START)
        start(&request, given, count);
    else if (request.kind == SIGNAL && (place = find_command(request.command)) >= 0)
        kill(running[place].pid, request.value); /* which was not reaped yet */
    for (number = 0; number < count; number++)
        close(given[number]);
}

/* Says that a process has ended, if it is a command. */
static bool say_ended(pid_t pid, int status)
{
    int place = find_process(pid);

    if (place < 0)
        return false;
    running[place].pid = 0;
    answer(ENDED, running[place].command,
           WIFSIGNALED(status) ? SIGNALLED + WTERMSIG(status) : WEXITSTATUS(status), 0);
    return true;
}

/* Kills and reaps everything else in the namespace. A process that forks meanwhile is killed too, and makes no child:
 * the kernel looks for signals before it makes one. Orphans become children of this process. */
static void clear(void)
{
    for (;;) {
        kill(-1, SIGKILL);
        if (waitpid(-1, NULL, __WALL) < 0 && errno == ECHILD)
            return;
        while (waitpid(-1, NULL, WNOHANG | __WALL) > 0)
            continue;
    }
}

/* Reaps the commands and orphans that have ended. */
static void reap(int signals)
{
    struct signalfd_siginfo information;
    bool ended = false;
    int status;
    pid_t pid;

    (void)!read(signals, &information, sizeof information);
    while ((pid = waitpid(-1, &status, WNOHANG | __WALL)) > 0)
        ended = say_ended(pid, status) || ended;
    if (ended && !is_any_running()) {
        clear();
        answer(GONE, -1, 0, 0);
    }
}

/* Closes the descriptors that the runtime has left open. */
static void close_others(void)
{
    int number;

    for (number = 3; number < MOST_DESCRIPTORS; number++)
        if (number != channel)
            close(number);
}

int main(int argc, char **argv)
{
    struct pollfd ends[2];
    sigset_t all;
    int signals;

    if ((argc != 2 && argc != 4) || getpid() != 1) /* outside a namespace `clear` would kill everything */
        return EXIT_FAILED;
    sigfillset(&all);
    channel = fcntl(atoi(argv[1]), F_DUPFD_CLOEXEC, FIRST_FREE);
    if (channel < 0 || sigprocmask(SIG_SETMASK, &all, NULL) < 0)
        return EXIT_FAILED;
    close_others();
    sigemptyset(&all);
    sigaddset(&all, SIGCHLD);
    signals = signalfd(-1, &all, SFD_CLOEXEC | SFD_NONBLOCK);
    if (argc == 4 && !change_ids(argv[2], argv[3])) {
        answer(REFUSED, -1, SETUP, errno);
        return EXIT_FAILED;
    }
    answer(READY, -1, 0, 0);
    ends[0] = (struct pollfd){channel, POLLIN, 0};
    ends[1] = (struct pollfd){signals, POLLIN, 0};
    for (;;) {
        if (poll(ends, 2, -1) < 0)
            continue;
        if (ends[1].revents != 0)
            reap(signals);
        if (ends[0].revents != 0)
            serve();
    }
}
