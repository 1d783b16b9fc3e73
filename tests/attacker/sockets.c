/* Attempts at sockets and other ways to talk: the engine's, the desktop's, the machine's own services. */
#include "attempt.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/if_alg.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <linux/vm_sockets.h>
#include <mqueue.h>
#include <net/if.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/ipc.h>
#include <sys/msg.h>
#include <sys/sem.h>
#include <sys/shm.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

/* Connects and reads what the other side says first. */
static _Noreturn void talks(int handle, const void *address, socklen_t length) {
    char text[100];
    if (handle < 0 || connect(handle, address, length) < 0)
        refused(errno);
    ssize_t count = read(handle, text, sizeof text - 1);
    if (count < 0)
        refused(errno);
    text[count] = 0;
    got("%s", text);
}

static _Noreturn void talks_unix(const char *name, int abstract) {
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    strncpy(address.sun_path + abstract, name, sizeof address.sun_path - 2);
    talks(socket(AF_UNIX, SOCK_STREAM, 0), &address,
          (socklen_t)(offsetof(struct sockaddr_un, sun_path) + (size_t)abstract + strlen(name)));
}

static void engine(void) { talks_unix(given("HOST_SOCKET"), 0); }
static void usual_sockets(void) {
    static const char *const paths[] = {"/var/run/docker.sock", "/run/docker.sock", "/run/podman/podman.sock",
                                        "/run/containerd/containerd.sock", "/run/dbus/system_bus_socket",
                                        "/run/systemd/private", "/run/user", "/tmp/.X11-unix",
                                        "/run/snapd.socket", "/dev/log", NULL};
    opens_any(paths, O_RDONLY | O_PATH);
}
/* One on which somebody listens, in the source directory, as development servers leave there. */
static void source_socket(void) { talks_unix("/workspace/socket", 0); }
static void agent(void) {
    const char *path = getenv("SSH_AUTH_SOCK");
    if (path == NULL)
        refused(ENOENT);
    talks_unix(path, 0);
}
static void abstract(void) { talks_unix(given("HOST_ABSTRACT"), 1); }
static void abstract_datagram(void) {
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    const char *name = given("HOST_DATAGRAM");
    strcpy(address.sun_path + 1, name);
    told(sendto(socket(AF_UNIX, SOCK_DGRAM, 0), "hello", 5, 0, (struct sockaddr *)&address,
                (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + strlen(name))));
}

static void loopback(void) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((in_port_t)atoi(given("HOST_PORT")))};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    talks(socket(AF_INET, SOCK_STREAM, 0), &address, sizeof address);
}
static void any_address(void) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((in_port_t)atoi(given("HOST_PORT")))};
    talks(socket(AF_INET, SOCK_STREAM, 0), &address, sizeof address);
}
static void loopback6(void) {
    struct sockaddr_in6 address = {.sin6_family = AF_INET6,
                                   .sin6_port = htons((in_port_t)atoi(given("HOST_PORT6")))};
    address.sin6_addr = in6addr_loopback;
    talks(socket(AF_INET6, SOCK_STREAM, 0), &address, sizeof address);
}

static void sniff(void) { told(socket(AF_PACKET, SOCK_RAW, htons(3))); }
static void raw(void) { told(socket(AF_INET, SOCK_RAW, IPPROTO_ICMP)); }
static void hypervisor(void) {
    struct sockaddr_vm address = {.svm_family = AF_VSOCK, .svm_cid = 2, .svm_port = 1};
    talks(socket(AF_VSOCK, SOCK_STREAM, 0), &address, sizeof address);
}
static void ciphers(void) {
    struct sockaddr_alg address = {.salg_family = AF_ALG, .salg_type = "hash", .salg_name = "sha256"};
    int handle = socket(AF_ALG, SOCK_SEQPACKET, 0);
    if (handle < 0)
        refused(errno);
    told(bind(handle, (struct sockaddr *)&address, sizeof address));
}
static void low_port(void) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(1)};
    told(bind(socket(AF_INET, SOCK_STREAM, 0), (struct sockaddr *)&address, sizeof address));
}

/* Gives the loopback interface an address, as `ip addr add`. */
static void set_address(void) {
    struct {
        struct nlmsghdr head;
        struct ifaddrmsg body;
        struct rtattr attribute;
        unsigned char address[4];
    } request = {
        {sizeof request, RTM_NEWADDR, NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE, 1, 0},
        {AF_INET, 32, 0, 0, 1},
        {sizeof request.attribute + 4, IFA_LOCAL},
        {192, 0, 2, 66},
    };
    struct {
        struct nlmsghdr head;
        struct nlmsgerr error;
        char rest[500];
    } answer;
    int handle = socket(AF_NETLINK, SOCK_RAW, NETLINK_ROUTE);
    if (send(handle, &request, sizeof request, 0) < 0 || recv(handle, &answer, sizeof answer, 0) < 0)
        refused(errno);
    if (answer.error.error < 0)
        refused(-answer.error.error);
    got("an address");
}
static void interface_down(void) {
    struct ifreq request = {.ifr_name = "lo"};
    told(ioctl(socket(AF_INET, SOCK_DGRAM, 0), SIOCSIFFLAGS, &request));
}
static void audit(void) {
    struct nlmsghdr request = {sizeof request, 1000, NLM_F_REQUEST | NLM_F_ACK, 1, 0};
    struct {
        struct nlmsghdr head;
        struct nlmsgerr error;
        char rest[500];
    } answer;
    int handle = socket(AF_NETLINK, SOCK_RAW, NETLINK_AUDIT);
    if (handle < 0 || send(handle, &request, sizeof request, 0) < 0 ||
        recv(handle, &answer, sizeof answer, MSG_DONTWAIT) < 0)
        refused(errno);
    if (answer.head.nlmsg_type == NLMSG_ERROR && answer.error.error < 0)
        refused(-answer.error.error);
    got("an answer");
}

static void shared_memory(void) { told(shmget((key_t)atoi(given("HOST_IPC")), 0, 0)); }
static void shared_memory_by_number(void) {
    for (int number = 0; number < 100000; number++)
        if (shmat(number, NULL, SHM_RDONLY) != (void *)-1)
            got("segment %d", number);
    refused(errno);
}
static void messages(void) { told(msgget((key_t)atoi(given("HOST_IPC")), 0)); }
static void semaphores(void) { told(semget((key_t)atoi(given("HOST_IPC")), 0, 0)); }
static void message_queue(void) { told(mq_open(given("HOST_QUEUE"), O_RDONLY)); }

const Attempt SOCKETS[] = {
    {"engine-socket", engine, 0, {0}},
    {"usual-sockets", usual_sockets, 0, {0}},
    {"source-socket", source_socket, 0, {0}},
    {"ssh-agent", agent, 0, {0}},
    {"abstract-socket", abstract, 0, {0}},
    {"abstract-datagram", abstract_datagram, 0, {0}},
    {"host-loopback", loopback, 0, {0}},
    {"host-any-address", any_address, 0, {0}},
    {"host-loopback6", loopback6, 0, {0}},
    {"sniff", sniff, 0, {0}},
    {"raw-socket", raw, 0, {0}},
    {"hypervisor-socket", hypervisor, 0, {0}},
    {"kernel-ciphers", ciphers, 0, {0}},
    {"low-port", low_port, 0, {0}},
    {"set-address", set_address, 0, {0}},
    {"interface-down", interface_down, 0, {0}},
    {"audit", audit, 0, {0}},
    {"shared-memory", shared_memory, 0, {0}},
    {"shared-memory-by-number", shared_memory_by_number, 0, {0}},
    {"message-queue-sysv", messages, 0, {0}},
    {"semaphores", semaphores, 0, {0}},
    {"message-queue", message_queue, 0, {0}},
    {NULL, NULL, 0, {0}},
};
