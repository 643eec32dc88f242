"""Which addresses lie on the public internet, so that a name in a request cannot lead into the network of the hub."""

import errno
import ipaddress
import socket

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

# `is_global` of Python 3.11 errs on several of these.
_RESERVED_V4 = tuple(
    map(
        ipaddress.IPv4Network,
        (
            "0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.0.0.0/24",
            "192.0.2.0/24", "192.88.99.0/24", "192.168.0.0/16", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24",
            "224.0.0.0/4", "240.0.0.0/4",
            "168.63.129.16/32",  # Azure answers its machines there
        ),
    )
)  # fmt: skip
_PUBLIC_V6 = ipaddress.IPv6Network("2000::/3")
_RESERVED_V6 = tuple(
    map(
        ipaddress.IPv6Network,
        (
            "2001::/23",  # protocols, Teredo among them
            "2001:db8::/32",
            "2002::/16",  # 6to4
            "3fff::/20",
        ),
    )
)
_MAPPED = ipaddress.IPv6Network("::ffff:0:0/96")
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
_ISATAP = (0x00005EFE, 0x02005EFE)
"""First half of the interface's part of an address that carries an IPv4 address in the second."""


def is_public(address: Address) -> bool:
    """Whether an address is one of the public internet, and none of this machine's.

    Forms of IPv6 that carry an IPv4 address are judged by it (mapped, NAT64) or refused (6to4, Teredo, ISATAP, compatible).
    """
    if isinstance(address, ipaddress.IPv6Address):
        if address in _MAPPED or address in _NAT64:
            return is_public(ipaddress.IPv4Address(int(address) & 0xFFFFFFFF))
        if address.scope_id is not None or address not in _PUBLIC_V6 or any(address in network for network in _RESERVED_V6):
            return False
        if (int(address) >> 32) & 0xFFFFFFFF in _ISATAP:
            return False
    elif any(address in network for network in _RESERVED_V4):
        return False
    return not _is_of_this_machine(address)


def _is_of_this_machine(address: Address) -> bool:
    """Only an address of its own can be bound."""
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.bind((str(address), 0))
    except OSError as error:
        # Anything but "not mine" leaves it open, but for a machine without that family, which cannot have such an address.
        return error.errno not in {errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT}
    return True
