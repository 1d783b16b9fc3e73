/* Makes the terminal of `packhorse run -t` in the sandbox, and becomes the user's command.
 *
 *     terminal SOCKET SELF COMMAND ARGV0 [ARGUMENT...]
 *
 * It opens a pseudo terminal in the sandbox, so that the terminal is the sandbox's own (/dev/pts/0) and belongs to
 * the user there. It sends both ends through SOCKET to sandbox/terminal.py: the master, and the slave, so that the
 * terminal lasts until sandbox/terminal.py closes it. Once a byte comes back, this program starts a new session,
 * makes the slave its controlling terminal (bubblewrap's --new-session does not) and its stdin, stdout and stderr,
 * and executes COMMAND, found as by execvp(3), with ARGV0 as its name.
 *
 * Then SOCKET ends. If COMMAND cannot be executed, SOCKET first has a byte with errno, and the exit status is
 * docker's: 127 if the command does not exist, 126 otherwise. SELF is the descriptor that this program was executed
 * from. The command inherits none of root's capabilities; see init/main.c. */
#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <pty.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>
#include <utmp.h>

enum { EXIT_USAGE = 125, EXIT_NOT_EXECUTABLE = 126, EXIT_NOT_FOUND = 127 };

static int send_ends(int channel, const int ends[2])
{
    union {
        struct cmsghdr header;
        char space[CMSG_SPACE(sizeof(int[2]))];
    } control = {0};
    char byte = 0;
    struct iovec data = {&byte, 1};
    struct msghdr message = {
        .msg_iov = &data,
        .msg_iovlen = 1,
        .msg_control = &control,
        .msg_controllen = sizeof control.space,
    };
    struct cmsghdr *part = CMSG_FIRSTHDR(&message);

    part->cmsg_level = SOL_SOCKET;
    part->cmsg_type = SCM_RIGHTS;
    part->cmsg_len = CMSG_LEN(sizeof(int[2]));
    memcpy(CMSG_DATA(part), ends, sizeof(int[2]));
    return sendmsg(channel, &message, MSG_NOSIGNAL) < 0 ? -1 : 0;
}

/* Makes the terminal and returns its slave, or -1. */
static int open_terminal(int channel)
{
    int ends[2];
    char go;

    if (openpty(&ends[0], &ends[1], NULL, NULL, NULL) < 0 || send_ends(channel, ends) < 0)
        return -1;
    close(ends[0]);
    if (read(channel, &go, 1) != 1) {
        errno = EPIPE; /* sandbox/terminal.py has ended */
        return -1;
    }
    return ends[1];
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

int main(int argc, char **argv)
{
    int channel, slave;
    char reason;

    if (argc < 5)
        return EXIT_USAGE;
    channel = atoi(argv[1]);
    close(atoi(argv[2]));
    if (fcntl(channel, F_SETFD, FD_CLOEXEC) == 0 && (slave = open_terminal(channel)) >= 0 &&
        login_tty(slave) == 0 && hand_down_no_capability())
        execvp(argv[3], argv + 4);
    reason = (char)errno;
    send(channel, &reason, 1, MSG_NOSIGNAL);
    return reason == ENOENT || reason == ENOTDIR ? EXIT_NOT_FOUND : EXIT_NOT_EXECUTABLE;
}
