"""A UDP socket for multicast, and what Linux offers beyond the socket module.

Both ends let the kernel cut and join datagrams where it can (UDP_SEGMENT, UDP_GRO: udp(7), Linux
4.18 and 5.0): one call then carries many.
"""

import socket

SOL_UDP, UDP_SEGMENT, UDP_GRO = 17, 103, 104  # linux/udp.h


def multicast_socket(interface: str, ttl: int) -> socket.socket:
    """Return a socket whose multicast goes out at the interface that has this IPv4 address."""
    made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    try:
        if interface:
            at = socket.inet_aton(interface)
            made.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, at)
        made.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, ttl)
    except OSError:
        made.close()
        raise
    return made
