/* Prepares the network namespace of a sandbox: opens ports below 1024, and keeps packets to loopback addresses inside.
 *
 *     network USERNS NETNS READY DONE
 *
 * Every process may listen on any port, as docker lets one in a container. If /proc/sys is read-only, as in a
 * container, the setting does not change.
 *
 * A program can name the device that its packets leave by: SO_BINDTODEVICE, IP_PKTINFO, IP_UNICAST_IF and their like
 * need no privilege. The kernel then skips the routes of all other devices, and with them that of lo: a packet to
 * 127.0.0.1 takes the default route, out of the namespace. Older versions of pasta connect to its address, which on
 * their side is this machine's own loopback. So every device gets local routes to the loopback addresses.
 *
 * The arguments are descriptors: the user namespace, the network namespace, and two pipes. READY has a newline once
 * the devices exist, and ends without one if pasta failed. DONE gets a newline when the routes exist
 * (sandbox/network.py). A system call filter could not do this: IP_PKTINFO is in memory that sendmsg(2) points to. */
#include <errno.h>
#include <fcntl.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <sched.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { EXIT_FAILED = 1, EXIT_USAGE = 125 };

static const unsigned char IPV4[] = {127, 0, 0, 0};
static const unsigned char IPV6[16] = {[15] = 1};

struct request {
    struct nlmsghdr header;
    struct rtmsg route;
    char attributes[64];
};

static int fail(const char *what)
{
    fprintf(stderr, "%s: %s\n", what, strerror(errno));
    return EXIT_FAILED;
}

static void add(struct request *request, unsigned short type, const void *value, size_t size)
{
    struct rtattr *attribute = (struct rtattr *)((char *)request + NLMSG_ALIGN(request->header.nlmsg_len));

    attribute->rta_type = type;
    attribute->rta_len = (unsigned short)RTA_LENGTH(size);
    memcpy(RTA_DATA(attribute), value, size);
    request->header.nlmsg_len = NLMSG_ALIGN(request->header.nlmsg_len) + (uint32_t)RTA_ALIGN(attribute->rta_len);
}

/* Sends a request and returns the kernel's answer to it: 0, or an error number. */
static int ask(int netlink, struct request *request)
{
    struct {
        struct nlmsghdr header;
        struct nlmsgerr error;
        char rest[512];
    } answer;
    ssize_t size;

    if (send(netlink, request, request->header.nlmsg_len, 0) < 0)
        return errno;
    size = recv(netlink, &answer, sizeof answer, 0);
    if (size < 0)
        return errno;
    if ((size_t)size < sizeof answer.header + sizeof answer.error || answer.header.nlmsg_type != NLMSG_ERROR)
        return EPROTO;
    return -answer.error.error;
}

/* Adds a local route through a device; returns 0 or an error number. */
static int add_route(int netlink, uint32_t device, unsigned char family, const unsigned char *address, size_t size,
                     unsigned char prefix)
{
    /* The loopback device's own route, which has no number, comes first for a program that names no device. */
    uint32_t priority = 1;
    struct request request = {
        .header = {.nlmsg_len = NLMSG_LENGTH(sizeof request.route),
                   .nlmsg_type = RTM_NEWROUTE,
                   .nlmsg_flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE},
        .route = {.rtm_family = family,
                  .rtm_dst_len = prefix,
                  .rtm_table = RT_TABLE_LOCAL,
                  .rtm_protocol = RTPROT_STATIC,
                  .rtm_scope = RT_SCOPE_HOST,
                  .rtm_type = RTN_LOCAL},
    };

    add(&request, RTA_DST, address, size);
    add(&request, RTA_OIF, &device, sizeof device);
    add(&request, RTA_PRIORITY, &priority, sizeof priority);
    return ask(netlink, &request);
}

/* Whether an error means that the kernel or the device has no IPv6. Then no IPv6 packet can leave by it. */
static bool means_no_ipv6(int error)
{
    return error == EAFNOSUPPORT || error == EOPNOTSUPP || error == EACCES || error == ENODEV;
}

static int guard(int netlink)
{
    struct if_nameindex *devices = if_nameindex(), *device;

    if (devices == NULL)
        return errno;
    for (device = devices; device->if_index != 0; device++) {
        int error;

        if (strcmp(device->if_name, "lo") == 0)
            continue;
        error = add_route(netlink, device->if_index, AF_INET, IPV4, sizeof IPV4, 8);
        if (error != 0)
            return error;
        error = add_route(netlink, device->if_index, AF_INET6, IPV6, sizeof IPV6, 128);
        if (error != 0 && !means_no_ipv6(error))
            return error;
    }
    return 0;
}

static void open_low_ports(void)
{
    int setting = open("/proc/sys/net/ipv4/ip_unprivileged_port_start", O_WRONLY | O_CLOEXEC);

    if (setting < 0)
        return;
    if (write(setting, "0", 1) != 1)
        perror("ports below 1024 stay closed");
    close(setting);
}

int main(int argc, char **argv)
{
    int netlink, ready, done;
    char byte = 0;

    if (argc != 5)
        return EXIT_USAGE;
    ready = atoi(argv[3]);
    done = atoi(argv[4]);
    if (setns(atoi(argv[1]), CLONE_NEWUSER) < 0 || setns(atoi(argv[2]), CLONE_NEWNET) < 0)
        return fail("the network of a step cannot be entered");
    open_low_ports();
    while (byte != '\n')
        if (read(ready, &byte, 1) <= 0)
            return EXIT_FAILED; /* pasta has said why */
    netlink = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);
    if (netlink < 0)
        return fail("routes cannot be added");
    errno = guard(netlink);
    if (errno != 0)
        return fail("a route cannot be added");
    return write(done, "\n", 1) == 1 ? 0 : EXIT_FAILED;
}
