/* Attempts at what the kernel does for the whole machine, and at other namespaces. */
#include "attempt.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/fs.h>
#include <linux/nsfs.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/timex.h>
#include <time.h>
#include <unistd.h>

#define NEW_TIME 0x80
#define FILE_ITSELF AT_FDCWD
#define REMOUNT (MS_REMOUNT | MS_BIND)
#define DETACH 2
#define FLAGS(value) NUMBER((long)(value))

static void new_namespace(int flags) {
    if (unshare(flags) < 0)
        refused(errno);
}

/* What a namespace of one's own would be for: an overlay over other directories. */
static void nested_overlay(void) {
    new_namespace(CLONE_NEWUSER | CLONE_NEWNS);
    told(syscall(SYS_mount, "overlay", "/tmp", "overlay", 0L, "lowerdir=/layers,upperdir=/tmp,workdir=/tmp"));
}

static void clone3_user(void) {
    unsigned long arguments[11] = {CLONE_NEWUSER, 0, 0, 0, SIGCHLD};
    told(syscall(435, arguments, sizeof arguments));
}

static void enter_namespace(void) { told(setns(open("/proc/self/ns/user", O_RDONLY), 0)); }

static void parent_namespace(void) { told(ioctl(open("/proc/self/ns/user", O_RDONLY), NS_GET_PARENT)); }

static void owner_namespace(void) {
    int user = ioctl(open("/proc/self/ns/net", O_RDONLY), NS_GET_USERNS);
    if (user < 0)
        refused(errno);
    told(ioctl(user, NS_GET_PARENT));
}

static void module_file(void) { told(syscall(SYS_finit_module, open("/proc/self/exe", O_RDONLY), "", 0)); }

static void bpf(void) {
    unsigned attributes[12] = {1, 4, 4, 1};
    told(syscall(SYS_bpf, 0, attributes, sizeof attributes));
}

static void perf(void) {
    unsigned attributes[28] = {1, sizeof attributes};
    told(syscall(SYS_perf_event_open, attributes, 0, -1, -1, 0L));
}

static void io_uring(void) {
    char parameters[120] = {0};
    told(syscall(425, 4, parameters));
}

static void search_key(void) { told(syscall(SYS_keyctl, 10, -3, "user", given("HOST_KEY"), 0L)); }

static void request_key(void) { told(syscall(SYS_request_key, "user", given("HOST_KEY"), "", -3)); }

static void set_clock(void) {
    struct timespec time = {1, 0};
    told(clock_settime(CLOCK_REALTIME, &time));
}

static void adjust_clock(void) {
    struct timex time = {.modes = ADJ_OFFSET, .offset = 1};
    told(adjtimex(&time));
}

static void kernel_log(void) {
    char text[100];
    told(syscall(SYS_syslog, 3, text, sizeof text));
}

static void io_ports(void) {
#ifdef SYS_iopl
    told(syscall(SYS_iopl, 3));
#else
    refused(ENOSYS);
#endif
}

/* The number of getpid(2) for 32-bit programs. */
static void old_entry(void) {
#ifdef __x86_64__
    long result;
    __asm__ volatile("int $0x80" : "=a"(result) : "a"(20L) : "memory");
    if (result < 0)
        refused((int)-result);
    got("%ld", result);
#else
    refused(ENOSYS);
#endif
}

static void capabilities(void) {
    struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
    struct __user_cap_data_struct data[2] = {{~0u, ~0u, ~0u}, {~0u, ~0u, ~0u}};
    told(syscall(SYS_capset, &header, data));
}

static void program_of_process(void) {
    told(prctl(PR_SET_MM, PR_SET_MM_EXE_FILE, open("/proc/self/exe", O_RDONLY), 0, 0));
}

static void real_time(void) {
    struct sched_param parameters = {.sched_priority = 50};
    told(syscall(SYS_sched_setscheduler, 0, SCHED_FIFO, &parameters));
}

static void lock_memory(void) {
    struct rlimit all = {RLIM_INFINITY, RLIM_INFINITY};
    told(setrlimit(RLIMIT_MEMLOCK, &all));
}

static void unkillable(void) { writes("/proc/self/oom_score_adj", "-1000"); }

#define MOUNT(name, source, target, kind, flags) \
    {name, NULL, SYS_mount, {source, target, kind, FLAGS(flags)}}
#define UNSHARE(name, flags) {name, NULL, SYS_unshare, {FLAGS(flags)}}
#define AT FLAGS(AT_FDCWD)

const Attempt KERNEL[] = {
    MOUNT("mount", "none", "/tmp", "tmpfs", 0),
    MOUNT("mount-proc", "proc", "/tmp", "proc", 0),
    MOUNT("mount-bind", "/proc", "/tmp", NULL, MS_BIND),
    MOUNT("remount-root", NULL, "/", NULL, REMOUNT),
    MOUNT("remount-settings", NULL, "/proc/sys", NULL, REMOUNT),
    MOUNT("mount-propagation", NULL, "/", NULL, MS_SHARED | MS_REC),
    {"unmount-settings", NULL, SYS_umount2, {"/proc/sys", FLAGS(DETACH)}},
    {"unmount-mask", NULL, SYS_umount2, {"/proc/1", FLAGS(DETACH)}},
    {"unmount-layers", NULL, SYS_umount2, {"/layers", FLAGS(DETACH)}},
    {"open-tree", NULL, 428, {AT, "/", FLAGS(1)}},
    {"move-mount", NULL, 429, {AT, "/tmp", AT, "/layers"}},
    {"fsopen", NULL, 430, {"tmpfs"}},
    {"fspick", NULL, 433, {AT, "/"}},
    {"mount-setattr", NULL, 442, {AT, "/", FLAGS(0x8000)}},
    {"pivot-root", NULL, SYS_pivot_root, {"/tmp", "/tmp"}},
    UNSHARE("user-namespace", CLONE_NEWUSER),
    UNSHARE("mount-namespace", CLONE_NEWNS),
    UNSHARE("user-and-mount-namespace", CLONE_NEWUSER | CLONE_NEWNS),
    UNSHARE("network-namespace", CLONE_NEWNET),
    UNSHARE("process-namespace", CLONE_NEWPID),
    UNSHARE("time-namespace", NEW_TIME),
    {"nested-overlay", nested_overlay, 0, {0}},
    {"clone-namespace", NULL, SYS_clone, {FLAGS(CLONE_NEWUSER | SIGCHLD)}},
    {"clone3-namespace", clone3_user, 0, {0}},
    {"enter-namespace", enter_namespace, 0, {0}},
    {"parent-namespace", parent_namespace, 0, {0}},
    {"owner-namespace", owner_namespace, 0, {0}},
    {"load-module", NULL, SYS_init_module, {"", NULL, ""}},
    {"load-module-file", module_file, 0, {0}},
    {"unload-module", NULL, SYS_delete_module, {"overlay", FLAGS(O_NONBLOCK)}},
    {"kexec", NULL, SYS_kexec_load, {NULL}},
    {"kexec-file", NULL, SYS_kexec_file_load, {FLAGS(-1), FLAGS(-1), NULL, NULL, FLAGS(8)}},
    /* With wrong magic numbers, which no kernel acts on. */
    {"reboot", NULL, SYS_reboot, {FLAGS(1), FLAGS(2), FLAGS(3)}},
    {"bpf", bpf, 0, {0}},
    {"perf", perf, 0, {0}},
    {"userfaultfd", NULL, SYS_userfaultfd, {FLAGS(O_CLOEXEC)}},
    {"io-uring", io_uring, 0, {0}},
    {"fanotify", NULL, SYS_fanotify_init, {FLAGS(0x200)}},
    {"search-key", search_key, 0, {0}},
    {"request-key", request_key, 0, {0}},
    {"add-key", NULL, SYS_add_key, {"user", "planted", "x", FLAGS(1), FLAGS(-4)}},
    {"set-clock", set_clock, 0, {0}},
    {"adjust-clock", adjust_clock, 0, {0}},
    {"set-name", NULL, SYS_sethostname, {"attacked", FLAGS(8)}},
    {"kernel-log", kernel_log, 0, {0}},
    {"accounting", NULL, SYS_acct, {"/tmp/accounts"}},
    {"swap", NULL, SYS_swapon, {"/tmp/swap"}},
    {"quota", NULL, SYS_quotactl, {FLAGS(0x800001 << 8)}},
    {"hang-up", NULL, SYS_vhangup, {0}},
    {"personality", NULL, SYS_personality, {FLAGS(0x0040000)}},
    {"io-ports", io_ports, 0, {0}},
    {"32-bit-entry", old_entry, 0, {0}},
    {"x32-entry", NULL, 0x40000000 | SYS_getpid, {0}},
    {"future-call", NULL, 5000, {0}},
    {"capabilities", capabilities, 0, {0}},
    {"ambient-capability", NULL, SYS_prctl, {FLAGS(PR_CAP_AMBIENT), FLAGS(PR_CAP_AMBIENT_RAISE),
                                             FLAGS(CAP_SYS_ADMIN)}},
    {"new-privileges", NULL, SYS_prctl, {FLAGS(PR_SET_NO_NEW_PRIVS)}},
    {"program-of-process", program_of_process, 0, {0}},
    {"no-filter", NULL, SYS_prctl, {FLAGS(PR_SET_SECCOMP)}},
    {"real-time", real_time, 0, {0}},
    {"higher-priority", NULL, SYS_setpriority, {FLAGS(PRIO_PROCESS), NULL, FLAGS(-20)}},
    {"disk-priority", NULL, SYS_ioprio_set, {FLAGS(1), NULL, FLAGS(1 << 13)}},
    {"lock-memory", lock_memory, 0, {0}},
    {"unkillable", unkillable, 0, {0}},
    {NULL, NULL, 0, {0}},
};
