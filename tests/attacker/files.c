/* Attempts at files: the machine's, other builds', the image's, devices, what the kernel shows of itself. */
#include "attempt.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <unistd.h>

static void canary(void) { reads(given("HOST_CANARY")); }
static void credentials(void) { reads(given("HOST_CREDENTIALS")); }
static void store(void) { reads(given("HOST_STORE")); }
static void temporary(void) { reads(given("HOST_TEMPORARY")); }
static void memory_file(void) { reads(given("HOST_SHARED_FILE")); }

static void above_root(void) {
    char path[1000] = "/proc/../..";
    for (int level = 0; level < 40; level++)
        strcat(path, "/..");
    strcat(path, given("HOST_CANARY"));
    reads(path);
}

static void old_root(void) {
    static const char *const paths[] = {"/oldroot", "/.oldroot", "/.pivot_root", "/newroot", NULL};
    opens_any(paths, O_RDONLY);
}

/* Through the links of other processes: their roots, directories and open files. */
static void process_links(void) {
    static const char *const links[] = {"root", "cwd", "fd/3", "fd/4", "exe", "map_files", NULL};
    char path[1200];
    int error = ENOENT;
    DIR *directory = opendir("/proc");
    struct dirent *entry;
    while ((entry = readdir(directory)) != NULL)
        for (int index = 0; atoi(entry->d_name) && links[index]; index++) {
            snprintf(path, sizeof path, "/proc/%s/%s%s", entry->d_name, links[index], given("HOST_CANARY"));
            if (open(path, O_RDONLY) >= 0)
                got("%s", path);
            error = errno;
        }
    refused(error);
}

/* The whole file system by the number of an inode (CVE-2014-9357's "shocker"). */
static void file_handle(void) {
    union {
        struct file_handle head;
        unsigned words[40]; /* the length, the kind, the number of the root */
    } handle = {.words = {8, 1, 2}};
    static const char *const mounts[] = {"/tmp", "/layers", "/", "/etc/hosts", NULL};
    int error = 0;
    for (int index = 0; mounts[index]; index++) {
        int mount = open(mounts[index], O_RDONLY);
        int file = open_by_handle_at(mount, &handle.head, O_RDONLY);
        if (file >= 0)
            got("the root of what is mounted at %s", mounts[index]);
        error = errno;
    }
    refused(error);
}

static void makes_device(mode_t kind, unsigned major, unsigned minor) {
    unlink("/tmp/device");
    if (mknod("/tmp/device", kind | 0666, makedev(major, minor)) < 0)
        refused(errno);
    reads("/tmp/device");
}

static void disk_device(void) { makes_device(S_IFBLK, 254, 0); }
static void memory_device(void) { makes_device(S_IFCHR, 1, 1); }

static void devices(void) {
    static const char *const paths[] = {"/dev/mem",   "/dev/kmem",     "/dev/port", "/dev/kmsg", "/dev/kvm",
                                        "/dev/fuse",  "/dev/net/tun",  "/dev/sda",  "/dev/vda",  "/dev/nvme0n1",
                                        "/dev/loop0", "/dev/mapper",   "/dev/console", "/dev/tty0", "/dev/input",
                                        "/dev/bus",   "/dev/dri",      "/dev/vsock", "/dev/vhost-net",
                                        "/dev/userfaultfd", NULL};
    opens_any(paths, O_RDWR);
}

/* /dev/zero's, in the source tree, where a root has put it. */
static void source_device(void) { reads("/workspace/zero"); }

static void write_image(void) {
    static const char *const paths[] = {"/new", "/bin/new", "/etc/new", "/usr/new", "/var/new", "/cnb/new",
                                        "/cnb/buildpacks/new", "/cnb/lifecycle/launcher", "/platform/new",
                                        "/dev/new", "/proc/new", NULL};
    opens_any(paths, O_WRONLY | O_CREAT);
}

static void replace_launcher(void) {
    if (symlink("/etc/shadow", "/tmp/launcher") < 0)
        refused(errno);
    told(rename("/tmp/launcher", "/cnb/lifecycle/launcher"));
}

static void change_bound_file(void) { told(chmod("/etc/hosts", 0777)); }
static void write_bound_file(void) { writes("/etc/resolv.conf", "nameserver 192.0.2.66\n"); }
static void change_null(void) { told(fchmod(0, 0)); }

static void write_kernel(void) {
    static const char *const paths[] = {
        "/proc/sys/kernel/core_pattern",     "/proc/sys/kernel/modprobe",    "/proc/sys/kernel/hostname",
        "/proc/sys/kernel/ns_last_pid",      "/proc/sys/vm/drop_caches",     "/proc/sys/vm/overcommit_memory",
        "/proc/sys/fs/file-max",             "/proc/sys/net/ipv4/ip_forward", "/proc/sys/user/max_user_namespaces",
        "/proc/sys/fs/binfmt_misc/register", "/proc/sysrq-trigger",          "/proc/irq/default_smp_affinity",
        "/proc/mtrr", NULL};
    opens_any(paths, O_WRONLY);
}

static void read_kernel(void) {
    static const char *const paths[] = {"/proc/kcore", "/proc/kmsg", "/proc/vmallocinfo", "/proc/slabinfo",
                                        "/proc/kpagecount", "/proc/kpageflags", "/proc/pagetypeinfo", NULL};
    opens_any(paths, O_RDONLY);
}

/* What is masked can be opened and is empty. */
static void masked(void) {
    static const char *const paths[] = {"/proc/keys", "/proc/timer_list", "/proc/sched_debug",
                                        "/proc/latency_stats", NULL};
    char byte;
    for (int index = 0; paths[index]; index++) {
        int file = open(paths[index], O_RDONLY);
        if (file >= 0 && read(file, &byte, 1) > 0)
            got("%s", paths[index]);
    }
    refused(ENOENT);
}

static void kernel_addresses(void) {
    char line[200];
    FILE *file = fopen("/proc/kallsyms", "r");
    if (file == NULL)
        refused(errno);
    while (fgets(line, sizeof line, file))
        if (strtoul(line, NULL, 16) != 0)
            got("%s", line);
    refused(EPERM);
}

static void sysfs(void) {
    static const char *const paths[] = {"/sys/kernel", "/sys/firmware", "/sys/fs/cgroup", "/sys/class",
                                        "/sys/module", "/sys/kernel/debug", NULL};
    opens_any(paths, O_RDONLY);
}

static void own_program(void) { told(chmod("/proc/1/exe", 04777)); }
static void sandbox_environment(void) { reads("/proc/1/environ"); }
static void sandbox_root(void) { reads("/proc/1/root/etc/passwd"); }
static void sandbox_memory(void) { writes("/proc/1/mem", ""); }

static void copies_itself(const char *target, mode_t mode) {
    char buffer[65536];
    ssize_t length;
    unlink(target);
    int source = open("/proc/self/exe", O_RDONLY), copy = open(target, O_WRONLY | O_CREAT, 0700);
    if (source < 0 || copy < 0)
        refused(errno);
    while ((length = read(source, buffer, sizeof buffer)) > 0)
        if (write(copy, buffer, (size_t)length) != length)
            refused(errno);
    if (fchmod(copy, mode) < 0)
        refused(errno);
    close(copy);
}

/* Stays in a layer, so that the test sees what it is on this machine. */
static void setuid_file(void) {
    copies_itself(getenv("CNB_LAYERS_DIR") ? "/layers/setuid" : "/tmp/setuid", 06777);
    got("a file of its own");
}

/* A copy of id(1) that the image has as root's, with the setuid bit. */
static void setuid_of_image(void) {
    char text[100] = "";
    struct stat status;
    if (stat("/bin/setuid-id", &status) < 0 || !(status.st_mode & S_ISUID))
        got("no such program: %m");
    FILE *output = popen("/bin/setuid-id -u", "r");
    if (output == NULL || fgets(text, sizeof text, output) == NULL)
        refused(errno);
    got("user %s", atoi(text) == (int)getuid() ? "as before" : text);
}

static void become_root(void) { told(setresuid(0, 0, 0)); }
static void give_to_root(void) {
    copies_itself("/tmp/of-root", 04755);
    told(chown("/tmp/of-root", 0, 0));
}

static void file_capability(void) {
    static const unsigned char all[20] = {1, 0, 0, 2, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
                                          0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff};
    copies_itself("/tmp/capable", 0755);
    told(setxattr("/tmp/capable", "security.capability", all, sizeof all, 0));
}

static void trusted_attribute(void) {
    mkdir("/layers/marked", 0755);
    told(setxattr("/layers/marked", "trusted.overlay.opaque", "y", 1, 0));
}

/* Marks by which an overlay would hide, or fetch from elsewhere: told to the test by what is in the store. */
static void overlay_marks(void) {
    mkdir("/layers/marked", 0755);
    int opaque = setxattr("/layers/marked", "user.overlay.opaque", "y", 1, 0);
    int redirect = setxattr("/layers/marked", "user.overlay.redirect", "/../../..", 9, 0);
    if (opaque < 0 && redirect < 0)
        refused(errno);
    got("marks inside the overlay");
}

static void whiteout(void) {
    unlink("/layers/whiteout");
    told(mknod("/layers/whiteout", S_IFCHR, 0));
}

static void hard_link(void) { told(link("/etc/passwd", "/layers/passwd")); }
static void hard_link_app(void) { told(link("/workspace/source", "/layers/source")); }

static void immutable(void) {
    int flags = FS_IMMUTABLE_FL | FS_APPEND_FL;
    int file = open("/tmp/immutable", O_RDONLY | O_CREAT, 0600);
    told(ioctl(file, FS_IOC_SETFLAGS, &flags));
}

/* The source is changed inside; the test looks at it outside. */
static void change_source(void) {
    if (chmod("/workspace/source", 0777) < 0)
        refused(errno);
    int file = open("/workspace/source", O_WRONLY | O_TRUNC);
    if (file < 0)
        refused(errno);
    told(write(file, "changed", 7));
}

static void descriptors(void) {
    char path[64], target[300];
    for (int number = 3; number < 1024; number++) {
        snprintf(path, sizeof path, "/proc/self/fd/%d", number);
        ssize_t length = readlink(path, target, sizeof target - 1);
        if (length > 0) {
            target[length] = 0;
            got("%d is %s", number, target);
        }
    }
    refused(EBADF);
}

extern char **environ;

static void environment(void) {
    for (char **entry = environ; *entry; entry++)
        if (strstr(*entry, "SECRET"))
            got("%s", *entry);
    refused(ENOENT);
}

static void chroot_out(void) { told(chroot("/layers")); }

const Attempt FILES[] = {
    {"read-home", canary, 0, {0}},
    {"read-credentials", credentials, 0, {0}},
    {"read-store", store, 0, {0}},
    {"read-tmp", temporary, 0, {0}},
    {"read-shared-memory-file", memory_file, 0, {0}},
    {"above-root", above_root, 0, {0}},
    {"old-root", old_root, 0, {0}},
    {"process-links", process_links, 0, {0}},
    {"file-handle", file_handle, 0, {0}},
    {"disk-device", disk_device, 0, {0}},
    {"memory-device", memory_device, 0, {0}},
    {"devices", devices, 0, {0}},
    {"source-device", source_device, 0, {0}},
    {"write-image", write_image, 0, {0}},
    {"replace-launcher", replace_launcher, 0, {0}},
    {"change-bound-file", change_bound_file, 0, {0}},
    {"write-bound-file", write_bound_file, 0, {0}},
    {"change-null", change_null, 0, {0}},
    {"write-kernel", write_kernel, 0, {0}},
    {"read-kernel", read_kernel, 0, {0}},
    {"masked", masked, 0, {0}},
    {"kernel-addresses", kernel_addresses, 0, {0}},
    {"sysfs", sysfs, 0, {0}},
    {"sandbox-program", own_program, 0, {0}},
    {"sandbox-environment", sandbox_environment, 0, {0}},
    {"sandbox-root", sandbox_root, 0, {0}},
    {"sandbox-memory", sandbox_memory, 0, {0}},
    {"setuid-file", setuid_file, 0, {0}},
    {"setuid-of-image", setuid_of_image, 0, {0}},
    {"become-root", become_root, 0, {0}},
    {"give-to-root", give_to_root, 0, {0}},
    {"file-capability", file_capability, 0, {0}},
    {"trusted-attribute", trusted_attribute, 0, {0}},
    {"overlay-marks", overlay_marks, 0, {0}},
    {"whiteout", whiteout, 0, {0}},
    {"hard-link", hard_link, 0, {0}},
    {"hard-link-source", hard_link_app, 0, {0}},
    {"immutable", immutable, 0, {0}},
    {"change-source", change_source, 0, {0}},
    {"descriptors", descriptors, 0, {0}},
    {"environment", environment, 0, {0}},
    {"chroot", chroot_out, 0, {0}},
    {NULL, NULL, 0, {0}},
};
