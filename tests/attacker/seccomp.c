/* Prints what the system call filters above this process answer: `NUMBER ERRNO`, ERRNO 0 for "allowed".

       seccomp LAST              every number up to LAST, with arguments of 0
       seccomp NUMBER A B C      one call with these arguments

   No call is ever made. A filter of its own hands them to its parent, which answers 999 in the kernel's place;
   what another filter refuses does not come so far, since a refusal goes before a question (seccomp(2)). */
#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

enum { MARK = 0x5eccb0b, ANSWER = 999 };

/* Asks about what has the mark in its sixth argument. */
static int ask_parent(void) {
    struct sock_filter filter[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args[5])),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, MARK, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_USER_NOTIF),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = {sizeof filter / sizeof *filter, filter};
    prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    return (int)syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_NEW_LISTENER, &program);
}

static void hand_over(int channel, int descriptor) {
    union {
        struct cmsghdr head;
        char space[CMSG_SPACE(sizeof(int))];
    } control = {.head = {.cmsg_len = CMSG_LEN(sizeof(int)), .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS}};
    char byte = 0;
    struct iovec data = {&byte, 1};
    struct msghdr message = {.msg_iov = &data, .msg_iovlen = 1, .msg_control = &control};
    message.msg_controllen = sizeof control;
    memcpy(CMSG_DATA(&control.head), &descriptor, sizeof descriptor);
    sendmsg(channel, &message, 0);
}

static int taken(int channel) {
    union {
        struct cmsghdr head;
        char space[CMSG_SPACE(sizeof(int))];
    } control;
    char byte;
    int descriptor = -1;
    struct iovec data = {&byte, 1};
    struct msghdr message = {.msg_iov = &data, .msg_iovlen = 1, .msg_control = &control};
    message.msg_controllen = sizeof control;
    if (recvmsg(channel, &message, 0) == 1 && CMSG_FIRSTHDR(&message))
        memcpy(&descriptor, CMSG_DATA(&control.head), sizeof descriptor);
    return descriptor;
}

static void asks(long number, long first, long second, long third) {
    int error = syscall(number, first, second, third, 0L, 0L, (long)MARK) == -1 && errno != ANSWER ? errno : 0;
    syscall(SYS_getpid, 0L, 0L, 0L, 0L, 0L, 0L); /* so that no later call finds the mark in its register */
    printf("%ld %d\n", number, error);
}

/* uretprobe and uprobe, which no filter is asked about (Linux 6.14), and which end a process like this. */
static int is_unfiltered(long number) {
#ifdef __x86_64__
    return number == 335 || number == 336;
#else
    return number < 0;
#endif
}

int main(int count, char **words) {
    int channel[2];
    socketpair(AF_UNIX, SOCK_STREAM, 0, channel);
    pid_t child = fork();
    if (child == 0) {
        close(channel[0]);
        hand_over(channel[1], ask_parent());
        if (count > 2)
            asks(strtol(words[1], NULL, 0), strtol(words[2], NULL, 0), strtol(words[3], NULL, 0),
                 strtol(words[4], NULL, 0));
        for (long number = 0; count == 2 && number <= atol(words[1]); number++)
            if (!is_unfiltered(number))
                asks(number, 0, 0, 0);
        fflush(stdout);
        _exit(0);
    }
    close(channel[1]);
    int listener = taken(channel[0]);
    if (listener < 0) {
        fprintf(stderr, "there can be no filter that asks\n");
        return 1;
    }
    struct seccomp_notif question = {0};
    while (ioctl(listener, SECCOMP_IOCTL_NOTIF_RECV, &question) == 0 || errno == EINTR) {
        struct seccomp_notif_resp answer = {.id = question.id, .error = -ANSWER};
        ioctl(listener, SECCOMP_IOCTL_NOTIF_SEND, &answer);
        memset(&question, 0, sizeof question);
    }
    waitpid(child, NULL, 0);
    return 0;
}
