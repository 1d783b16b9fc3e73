/* Makes one system call below one directory fail, or kills the process in its place (LD_PRELOAD).
 *
 * A settings file named at compile time (SETTINGS) has one line: DIRECTORY FIRST LAST ACTION COUNTER READS BOOT.
 * The calls FIRST to LAST (from 1, counted by all processes together in the file COUNTER) fail with the errno
 * ACTION; with `kill` the process dies there, and with `cut` the file system goes down as if the power failed
 * (ext4 and xfs; root alone can do that). READS says whether reading counts too; BOOT is a file with the boot ID
 * to be seen. Without the settings nothing happens. Compiled with -DWRAPPER this is the program that starts the
 * real python (PYTHON) with the library (LIBRARY), so that children with an empty environment are reached too.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#ifdef WRAPPER
int main(int argc, char **argv) {
    (void)argc;
    if (access(SETTINGS, R_OK) == 0)
        setenv("LD_PRELOAD", LIBRARY, 1);
    execv(PYTHON, argv);
    return 127;
}
#else

struct shared {
    long count;
    char hit[200];
    /* How long locks were waited for, in ns, by the first letters of their files' names. */
    struct {
        char name[8];
        long count, total, longest;
    } waits[16];
};

#define SHUT_DOWN _IOR('X', 125, unsigned) /* {EXT4,XFS}_IOC_SHUTDOWN */
#define WITHOUT_LOG 2u
#define BOOT_ID "/proc/sys/kernel/random/boot_id"

static char directory[PATH_MAX], boot[PATH_MAX];
static size_t length;
static long first, last;
static int number, reads, armed;
static struct shared *shared;

__attribute__((constructor)) static void begin(void) {
    char action[32], counter[PATH_MAX];
    unsetenv("LD_PRELOAD"); /* the wrapper decides anew for every child */
    FILE *file = fopen(SETTINGS, "re");
    if (!file)
        return;
    int found = fscanf(file, "%4095s %ld %ld %31s %4095s %d %4095s", directory, &first, &last, action, counter,
                       &reads, boot);
    fclose(file);
    if (found < 7)
        return;
    number = !strcmp(action, "kill") ? -1 : !strcmp(action, "cut") ? -2 : atoi(action);
    int descriptor = open(counter, O_RDWR | O_CLOEXEC);
    if (descriptor < 0)
        return;
    shared = mmap(0, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED, descriptor, 0);
    close(descriptor);
    length = strlen(directory);
    armed = shared != MAP_FAILED;
}

static int below(const char *path) {
    return !strncmp(path, directory, length) && (path[length] == '/' || !path[length]);
}

static int of_descriptor(int descriptor) {
    char name[40], path[PATH_MAX];
    snprintf(name, sizeof name, "/proc/self/fd/%d", descriptor);
    ssize_t size = readlink(name, path, sizeof path - 1);
    if (size < 0)
        return 0;
    path[size] = 0;
    return below(path);
}

static int of_path(int parent, const char *path) {
    if (path[0] == '/') {
        int descriptor;
        if (sscanf(path, "/proc/self/fd/%d", &descriptor) == 1)
            return of_descriptor(descriptor);
        return below(path);
    }
    if (parent != AT_FDCWD)
        return of_descriptor(parent);
    char here[PATH_MAX];
    return getcwd(here, sizeof here) && below(here);
}

static int fails(int concerned, const char *name) {
    if (!armed || !concerned)
        return 0;
    long now = __atomic_add_fetch(&shared->count, 1, __ATOMIC_SEQ_CST);
    if (now < first || now > last)
        return 0;
    if (now == first)
        snprintf(shared->hit, sizeof shared->hit, "%s", name);
    if (number == -2) {
        unsigned how = WITHOUT_LOG;
        int descriptor = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        if (descriptor < 0 || ioctl(descriptor, SHUT_DOWN, &how))
            abort();
    }
    if (number < 0) {
        kill(getpid(), SIGKILL);
        pause();
    }
    errno = number;
    return 1;
}

#define CALL(type, function, test, parameters, arguments) \
    type function parameters { \
        static type(*real) parameters; \
        if (!real) \
            real = (type(*) parameters)dlsym(RTLD_NEXT, #function); \
        int saved = errno; \
        if (fails(test, #function)) \
            return -1; \
        errno = saved; \
        return real arguments; \
    }

#define MODE \
    mode_t mode = 0; \
    if (flags & (O_CREAT | __O_TMPFILE)) { \
        va_list rest; \
        va_start(rest, flags); \
        mode = va_arg(rest, mode_t); \
        va_end(rest); \
    }

static int opens(int parent, const char *path, int flags) {
    return ((flags & (O_CREAT | O_TRUNC)) || (flags & O_TMPFILE) == O_TMPFILE || reads) && of_path(parent, path);
}

#define OPEN2(function) \
    int function(const char *path, int flags, ...) { \
        static int (*real)(const char *, int, ...); \
        if (!real) \
            real = (int (*)(const char *, int, ...))dlsym(RTLD_NEXT, #function); \
        MODE; \
        if (armed && !strcmp(path, BOOT_ID)) \
            path = boot; \
        if (fails(opens(AT_FDCWD, path, flags), #function)) \
            return -1; \
        return real(path, flags, mode); \
    }
#define OPEN3(function) \
    int function(int parent, const char *path, int flags, ...) { \
        static int (*real)(int, const char *, int, ...); \
        if (!real) \
            real = (int (*)(int, const char *, int, ...))dlsym(RTLD_NEXT, #function); \
        MODE; \
        if (fails(opens(parent, path, flags), #function)) \
            return -1; \
        return real(parent, path, flags, mode); \
    }

OPEN2(open)
OPEN2(open64)
OPEN3(openat)
OPEN3(openat64)

CALL(ssize_t, write, of_descriptor(to), (int to, const void *data, size_t size), (to, data, size))
CALL(ssize_t, pwrite64, of_descriptor(to), (int to, const void *data, size_t size, off64_t at), (to, data, size, at))
CALL(ssize_t, writev, of_descriptor(to), (int to, const struct iovec *parts, int count), (to, parts, count))
CALL(ssize_t, read, reads &&of_descriptor(of), (int of, void *data, size_t size), (of, data, size))
CALL(ssize_t, pread64, reads &&of_descriptor(of), (int of, void *data, size_t size, off64_t at), (of, data, size, at))
CALL(int, fsync, of_descriptor(of), (int of), (of))
CALL(int, fdatasync, of_descriptor(of), (int of), (of))
CALL(int, syncfs, of_descriptor(of), (int of), (of))
CALL(int, ftruncate64, of_descriptor(of), (int of, off64_t size), (of, size))
CALL(int, mkdir, of_path(AT_FDCWD, path), (const char *path, mode_t mode), (path, mode))
CALL(int, mkdirat, of_path(at, path), (int at, const char *path, mode_t mode), (at, path, mode))
CALL(int, mknod, of_path(AT_FDCWD, path), (const char *path, mode_t mode, dev_t device), (path, mode, device))
CALL(int, mknodat, of_path(at, path), (int at, const char *path, mode_t mode, dev_t device), (at, path, mode, device))
CALL(int, link, of_path(AT_FDCWD, new), (const char *old, const char *new), (old, new))
CALL(int, linkat, of_path(to, new), (int at, const char *old, int to, const char *new, int flags), (at, old, to, new, flags))
CALL(int, symlink, of_path(AT_FDCWD, new), (const char *old, const char *new), (old, new))
CALL(int, symlinkat, of_path(to, new), (const char *old, int to, const char *new), (old, to, new))
CALL(int, rename, of_path(AT_FDCWD, new), (const char *old, const char *new), (old, new))
CALL(int, renameat, of_path(to, new), (int at, const char *old, int to, const char *new), (at, old, to, new))
CALL(int, chmod, of_path(AT_FDCWD, path), (const char *path, mode_t mode), (path, mode))
CALL(int, fchmod, of_descriptor(of), (int of, mode_t mode), (of, mode))
CALL(int, fchmodat, of_path(at, path), (int at, const char *path, mode_t mode, int flags), (at, path, mode, flags))
CALL(int, chown, of_path(AT_FDCWD, path), (const char *path, uid_t uid, gid_t gid), (path, uid, gid))
CALL(int, lchown, of_path(AT_FDCWD, path), (const char *path, uid_t uid, gid_t gid), (path, uid, gid))
CALL(int, fchown, of_descriptor(of), (int of, uid_t uid, gid_t gid), (of, uid, gid))
CALL(int, fchownat, of_path(at, path), (int at, const char *path, uid_t uid, gid_t gid, int flags), (at, path, uid, gid, flags))
CALL(int, setxattr, of_path(AT_FDCWD, path), (const char *path, const char *name, const void *data, size_t size, int flags), (path, name, data, size, flags))
CALL(int, lsetxattr, of_path(AT_FDCWD, path), (const char *path, const char *name, const void *data, size_t size, int flags), (path, name, data, size, flags))
CALL(int, unlink, of_path(AT_FDCWD, path), (const char *path), (path))
CALL(int, unlinkat, of_path(at, path), (int at, const char *path, int flags), (at, path, flags))
CALL(int, rmdir, of_path(AT_FDCWD, path), (const char *path), (path))

static long now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * 1000000000L + time.tv_nsec;
}

static void waited(int descriptor, long since) {
    char name[40], path[PATH_MAX];
    snprintf(name, sizeof name, "/proc/self/fd/%d", descriptor);
    ssize_t size = readlink(name, path, sizeof path - 1);
    if (size < 0)
        return;
    path[size] = 0;
    if (!below(path))
        return;
    long took = now() - since;
    char *base = strrchr(path, '/') + 1;
    if (*base >= '0' && *base <= '9')
        return; /* a lease, which is its holder's alone */
    for (int index = 0; index < 16; index++) {
        char *slot = shared->waits[index].name;
        if (!*slot)
            strncpy(slot, base, 7);
        if (strncmp(slot, base, 7))
            continue;
        __atomic_add_fetch(&shared->waits[index].count, 1, __ATOMIC_SEQ_CST);
        __atomic_add_fetch(&shared->waits[index].total, took, __ATOMIC_SEQ_CST);
        long before = shared->waits[index].longest;
        while (took > before && !__atomic_compare_exchange_n(&shared->waits[index].longest, &before, took, 0,
                                                             __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST))
            ;
        return;
    }
}

int flock(int of, int how) {
    static int (*real)(int, int);
    if (!real)
        real = (int (*)(int, int))dlsym(RTLD_NEXT, "flock");
    long since = now();
    int answer = real(of, how);
    if (armed && !(how & LOCK_NB))
        waited(of, since);
    return answer;
}

int fcntl64(int of, int command, ...) {
    static int (*real)(int, int, ...);
    va_list rest;
    va_start(rest, command);
    void *argument = va_arg(rest, void *);
    va_end(rest);
    if (!real)
        real = (int (*)(int, int, ...))dlsym(RTLD_NEXT, "fcntl64");
    long since = now();
    int answer = real(of, command, argument);
    if (armed && command == F_OFD_SETLKW)
        waited(of, since);
    return answer;
}

int posix_fallocate64(int of, off64_t at, off64_t size) {
    static int (*real)(int, off64_t, off64_t);
    if (!real)
        real = (int (*)(int, off64_t, off64_t))dlsym(RTLD_NEXT, "posix_fallocate64");
    return fails(of_descriptor(of), "posix_fallocate64") ? errno : real(of, at, size);
}
#endif
