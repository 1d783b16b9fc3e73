/* Attempts at processes outside, at the sandbox's own, at terminals, and at staying behind. */
#include "attempt.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

static pid_t victim(void) { return (pid_t)atoi(given("HOST_PID")); }

/* Processes whose command line has the word that the test gave to its own; others of the step are none. */
static void see_process(void) {
    char path[300], line[4096];
    DIR *directory = opendir("/proc");
    struct dirent *entry;
    while ((entry = readdir(directory)) != NULL) {
        if (atoi(entry->d_name) == 0)
            continue;
        snprintf(path, sizeof path, "/proc/%s/cmdline", entry->d_name);
        int file = open(path, O_RDONLY);
        ssize_t length = file < 0 ? 0 : read(file, line, sizeof line);
        if (length > 0 && memmem(line, (size_t)length, given("HOST_WORD"), strlen(given("HOST_WORD"))))
            got("%s", path);
    }
    refused(ESRCH);
}

static void read_environment(void) {
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/environ", victim());
    reads(path);
}

static void kill_process(void) { told(kill(victim(), SIGKILL)); }
static void kill_by_number(void) {
    int found = 0;
    /* All numbers that a machine has, one's own family spared: in another namespace they are nobody's. */
    for (pid_t pid = 1000; pid < 70000; pid++)
        found += kill(pid, SIGKILL) == 0;
    if (found)
        got("%d processes", found);
    refused(ESRCH);
}
static void kill_group(void) { told(kill(-victim(), SIGKILL)); }
static void kill_sandbox(void) {
    /* Taken, and nothing comes of it: the first process of a namespace hears no signal from inside. */
    for (int number = 1; number < 32; number++)
        kill(1, number);
    got("no effect");
}
static void trace_process(void) { told(ptrace(PTRACE_SEIZE, victim(), NULL, NULL)); }
static void trace_sandbox(void) { told(ptrace(PTRACE_SEIZE, 1, NULL, NULL)); }
static void process_memory(void) {
    char text[8];
    struct iovec here = {text, sizeof text}, there = {(void *)0x400000, sizeof text};
    told(process_vm_readv(victim(), &here, 1, &there, 1, 0));
}
static void sandbox_memory(void) {
    char text[8] = "";
    struct iovec here = {text, sizeof text}, there = {(void *)0x400000, sizeof text};
    told(process_vm_writev(1, &here, 1, &there, 1, 0));
}
static void open_process(void) { told(syscall(434, victim(), 0)); }
static void take_descriptor(void) { told(syscall(438, syscall(434, getpid(), 0), 0, 0)); }
static void compare_processes(void) { told(syscall(SYS_kcmp, getpid(), 1, 0, 0L, 0L)); }
static void limit_process(void) {
    struct rlimit none = {0, 0};
    told(prlimit(victim(), RLIMIT_NOFILE, &none, NULL));
}
static void bind_process(void) {
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(0, &one);
    told(sched_setaffinity(victim(), sizeof one, &one));
}
/* All processes of the user: outside they would be slowed down; the test looks at one. */
static void slow_user(void) { told(setpriority(PRIO_USER, 0, 19)); }

static void signal_owner(void) { told(fcntl(0, F_SETOWN, victim())); }

/* Nobody's child, in a session of its own, deaf to what can be ignored, without the step's output. */
static void stay_behind(void) {
    for (int number = 1; number < 32; number++)
        signal(number, SIG_IGN);
    prctl(PR_SET_PDEATHSIG, 0);
    prctl(PR_SET_NAME, given("HOST_WORD"));
    if (fork() == 0) {
        setsid();
        if (fork() == 0) {
            for (int number = 0; number < 64; number++)
                close(number);
            for (;;)
                pause();
        }
        _exit(0);
    }
    wait(NULL); /* for the one between, so that there is one left to be found */
    got("a process in a session of its own");
}

static void types(unsigned long request) {
    static const char *const names[] = {"/dev/stdin", "/dev/stdout", "/dev/stderr", "/dev/tty", "/dev/pts/0",
                                        "/dev/pts/1", "/dev/console", NULL};
    char key[2] = "\n";
    int error = ENOTTY;
    for (int index = 0; names[index]; index++) {
        int file = index < 3 ? index : open(names[index], O_RDWR | O_NONBLOCK);
        if (file < 0)
            continue;
        if (ioctl(file, request, key) >= 0)
            got("%s", names[index]);
        if (errno == EPERM)
            error = EPERM;
    }
    refused(error);
}

static void type_in(void) { types(TIOCSTI); }
static void paste(void) { types(0x541C); }

/* On a terminal of one's own, where nothing but the filter forbids it. */
static void own_terminal(void) {
    int master = open("/dev/ptmx", O_RDWR | O_NOCTTY);
    if (master < 0)
        refused(errno);
    told(ioctl(master, TIOCSTI, "x"));
}
static void steal_terminal(void) {
    if (setsid() < 0)
        refused(errno);
    told(ioctl(1, TIOCSCTTY, 1));
}
static void open_terminal(void) { told(open("/dev/tty", O_RDWR)); }
static void see_terminals(void) {
    static const char *const paths[] = {"/dev/pts/0", "/dev/pts/1", "/dev/pts/2", "/dev/pts/3", NULL};
    opens_any(paths, O_RDWR);
}

const Attempt PROCESSES[] = {
    {"see-process", see_process, 0, {0}},
    {"read-environment", read_environment, 0, {0}},
    {"kill-process", kill_process, 0, {0}},
    {"kill-by-number", kill_by_number, 0, {0}},
    {"kill-group", kill_group, 0, {0}},
    {"kill-sandbox", kill_sandbox, 0, {0}},
    {"trace-process", trace_process, 0, {0}},
    {"trace-sandbox", trace_sandbox, 0, {0}},
    {"process-memory", process_memory, 0, {0}},
    {"sandbox-process-memory", sandbox_memory, 0, {0}},
    {"open-process", open_process, 0, {0}},
    {"take-descriptor", take_descriptor, 0, {0}},
    {"compare-processes", compare_processes, 0, {0}},
    {"limit-process", limit_process, 0, {0}},
    {"bind-process", bind_process, 0, {0}},
    {"slow-user", slow_user, 0, {0}},
    {"signal-owner", signal_owner, 0, {0}},
    {"stay-behind", stay_behind, 0, {0}},
    {"type-in", type_in, 0, {0}},
    {"paste", paste, 0, {0}},
    {"type-in-own-terminal", own_terminal, 0, {0}},
    {"steal-terminal", steal_terminal, 0, {0}},
    {"open-terminal", open_terminal, 0, {0}},
    {"see-terminals", see_terminals, 0, {0}},
    {NULL, NULL, 0, {0}},
};
