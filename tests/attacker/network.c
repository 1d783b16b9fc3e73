/* Attempts to leave a network of a step's own: packets to this machine's addresses, sent by the network's device.
   The test looks at the other side too, where the service counts its visitors: an answer may get lost on its way. */
#include "attempt.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/if_packet.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <netinet/ip.h>
#include <netinet/udp.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { PATIENCE = 200 /* ms */ };

typedef enum { BIND, PACKET_INFO, UNICAST } Way;

typedef union {
    struct sockaddr any;
    struct sockaddr_in ipv4;
    struct sockaddr_in6 ipv6;
} Address;

static Address address_of(const char *text, const char *port) {
    Address address = {0};
    in_port_t number = htons((in_port_t)atoi(port));
    if (strchr(text, ':') == NULL) {
        address.ipv4 = (struct sockaddr_in){.sin_family = AF_INET, .sin_port = number};
        inet_pton(AF_INET, text, &address.ipv4.sin_addr);
    } else {
        address.ipv6 = (struct sockaddr_in6){.sin6_family = AF_INET6, .sin6_port = number};
        inet_pton(AF_INET6, text, &address.ipv6.sin6_addr);
    }
    return address;
}

static socklen_t length_of(const Address *address) {
    return address->any.sa_family == AF_INET ? sizeof address->ipv4 : sizeof address->ipv6;
}

/* On this machine's own network there is nothing to leave, and packets would go to other machines. */
static void needs_own_network(void) {
    Address service = address_of("127.0.0.1", given("HOST_PORT"));
    int handle = socket(AF_INET, SOCK_STREAM, 0);
    if (connect(handle, &service.any, length_of(&service)) == 0)
        refused(EISCONN);
    close(handle);
}

/* The first device but loopback. */
static struct if_nameindex outward(void) {
    struct if_nameindex *devices = if_nameindex();
    needs_own_network();
    for (; devices != NULL && devices->if_index != 0; devices++)
        if (strcmp(devices->if_name, "lo") != 0)
            return *devices;
    refused(ENODEV);
}

static void choose(int handle, const char *device) {
    if (setsockopt(handle, SOL_SOCKET, SO_BINDTODEVICE, device, (socklen_t)strlen(device)) < 0)
        refused(errno);
}

/* What the other side says; returns when it says nothing. */
static void hear(int handle) {
    char text[100];
    struct pollfd answer = {handle, POLLIN, 0};
    ssize_t count;
    if (poll(&answer, 1, PATIENCE) != 1)
        return;
    count = recv(handle, text, sizeof text - 1, 0);
    if (count <= 0)
        return;
    text[count] = 0;
    got("%s", text);
}

static void connects(const char *text, const char *port, const char *device) {
    Address address = address_of(text, port);
    int handle = socket(address.any.sa_family, SOCK_STREAM | SOCK_NONBLOCK, 0);
    choose(handle, device);
    if (connect(handle, &address.any, length_of(&address)) == 0 || errno == EINPROGRESS)
        hear(handle);
    close(handle);
}

static void sends(const char *text, const char *port, Way way) {
    struct if_nameindex device = outward();
    Address address = address_of(text, port);
    int family = address.any.sa_family, handle = socket(family, SOCK_DGRAM, 0);
    unsigned number = htonl(device.if_index);
    struct in_pktinfo info4 = {.ipi_ifindex = (int)device.if_index};
    struct in6_pktinfo info6 = {.ipi6_ifindex = device.if_index};
    union {
        struct cmsghdr header;
        char space[CMSG_SPACE(sizeof(struct in6_pktinfo))];
    } control = {0};
    struct iovec data = {"hello", 5};
    struct msghdr message = {
        .msg_name = &address, .msg_namelen = length_of(&address), .msg_iov = &data, .msg_iovlen = 1};
    if (way == BIND)
        choose(handle, device.if_name);
    if (way == UNICAST && (family == AF_INET ? setsockopt(handle, IPPROTO_IP, IP_UNICAST_IF, &number, sizeof number)
                                             : setsockopt(handle, IPPROTO_IPV6, IPV6_UNICAST_IF, &number, sizeof number)))
        refused(errno);
    if (way == PACKET_INFO) {
        size_t size = family == AF_INET ? sizeof info4 : sizeof info6;
        message.msg_control = &control;
        message.msg_controllen = (socklen_t)CMSG_SPACE(size);
        control.header.cmsg_level = family == AF_INET ? IPPROTO_IP : IPPROTO_IPV6;
        control.header.cmsg_type = family == AF_INET ? IP_PKTINFO : IPV6_PKTINFO;
        control.header.cmsg_len = (socklen_t)CMSG_LEN(size);
        memcpy(CMSG_DATA(&control.header), family == AF_INET ? (void *)&info4 : (void *)&info6, size);
    }
    if (sendmsg(handle, &message, 0) >= 0)
        hear(handle);
    close(handle);
}

static void tcp_by_device(void) {
    struct if_nameindex device = outward();
    connects("127.0.0.1", given("HOST_PORT"), device.if_name);
    connects("127.9.9.9", given("HOST_OTHER_PORT"), device.if_name);
    connects("::ffff:127.0.0.1", given("HOST_PORT"), device.if_name);
    refused(ETIMEDOUT);
}
static void tcp6_by_device(void) {
    connects("::1", given("HOST_PORT6"), outward().if_name);
    refused(ETIMEDOUT);
}
static void udp_by(Way way) {
    sends("127.0.0.1", given("HOST_UDP"), way);
    sends("127.9.9.9", given("HOST_OTHER_UDP"), way);
    sends("::ffff:127.0.0.1", given("HOST_UDP"), way);
    sends("::1", given("HOST_UDP6"), way);
    refused(ETIMEDOUT);
}
static void udp_by_device(void) { udp_by(BIND); }
static void udp_by_packet_info(void) { udp_by(PACKET_INFO); }
static void udp_by_unicast(void) { udp_by(UNICAST); }

/* The machine's address, which the step's network has too. */
static void own_address(void) {
    struct if_nameindex device = outward();
    const char *address = given("HOST_ADDRESS"), *port = given("HOST_ADDRESS_PORT");
    connects(address, port, device.if_name);
    connects(address, port, "lo");
    connects(address, port, "");
    refused(ETIMEDOUT);
}

typedef struct {
    struct iphdr ip;
    struct udphdr udp;
    char text[6];
} Packet;

/* A datagram behind a header of our own; the text has no checksum. */
static Packet craft(const char *destination) {
    Address to = address_of(destination, given("HOST_UDP")), from = address_of(given("HOST_ADDRESS"), "40000");
    Packet packet = {
        .ip = {.version = 4, .ihl = 5, .ttl = 64, .protocol = IPPROTO_UDP, .tot_len = htons(sizeof packet)},
        .udp = {.source = from.ipv4.sin_port, .dest = to.ipv4.sin_port},
        .text = "hello",
    };
    unsigned sum = 0;
    packet.udp.len = htons(sizeof packet - sizeof packet.ip);
    packet.ip.saddr = from.ipv4.sin_addr.s_addr;
    packet.ip.daddr = to.ipv4.sin_addr.s_addr;
    for (size_t place = 0; place < sizeof packet.ip; place += 2) {
        unsigned short word;
        memcpy(&word, (char *)&packet.ip + place, sizeof word);
        sum += word;
    }
    sum = (sum & 0xffff) + (sum >> 16);
    packet.ip.check = (unsigned short)~(sum + (sum >> 16));
    return packet;
}

/* The kernel goes by the address that it is told, and the packet has another. */
static void crafted_packet(void) {
    Packet packet = craft("127.0.0.1");
    Address gateway = address_of("192.0.2.1", "0");
    int handle = socket(AF_INET, SOCK_RAW, IPPROTO_RAW);
    if (handle < 0)
        refused(errno);
    needs_own_network();
    if (sendto(handle, &packet, sizeof packet, 0, &gateway.any, length_of(&gateway)) < 0)
        refused(errno);
    got("sent");
}
static void crafted_frame(void) {
    Packet packet = craft("127.0.0.1");
    struct sockaddr_ll to = {.sll_family = AF_PACKET, .sll_protocol = htons(ETH_P_IP), .sll_halen = 6,
                             .sll_addr = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff}};
    int handle = socket(AF_PACKET, SOCK_DGRAM, htons(ETH_P_IP));
    if (handle < 0)
        refused(errno);
    to.sll_ifindex = (int)outward().if_index;
    if (sendto(handle, &packet, sizeof packet, 0, (struct sockaddr *)&to, sizeof to) < 0)
        refused(errno);
    got("sent");
}

const Attempt NETWORK[] = {
    {"host-loopback-device", tcp_by_device, 0, {0}},
    {"host-loopback6-device", tcp6_by_device, 0, {0}},
    {"host-datagram-device", udp_by_device, 0, {0}},
    {"host-datagram-packet-info", udp_by_packet_info, 0, {0}},
    {"host-datagram-unicast", udp_by_unicast, 0, {0}},
    {"host-own-address", own_address, 0, {0}},
    {"host-crafted-packet", crafted_packet, 0, {0}},
    {"host-crafted-frame", crafted_frame, 0, {0}},
    {NULL, NULL, 0, {0}},
};
