"""Addresses that are never connected to, whatever name led there. Pure.

Where a cloud tells a machine its own credentials, no registry is; whoever makes the proxy ask there
wants what is said there.
"""

from __future__ import annotations

import ipaddress
import socket
from typing import Final, TypeAlias

_Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address

_NETWORKS: Final = tuple(
    ipaddress.ip_network(network)
    for network in (
        "169.254.0.0/16",  # link-local: metadata of AWS (EC2, ECS, EKS), Google, Azure, OpenStack
        "fe80::/10",  # link-local
        "fd00:ec2::/32",  # AWS's services of an instance: ::254 metadata, ::23 EKS Pod Identity
        "100.100.100.200/32",  # Alibaba's metadata
        "168.63.129.16/32",  # Azure's WireServer
        "192.0.0.192/32",  # Oracle's metadata
        "fd20:ce::254/128",  # Google's metadata
    )
)
# IPv4 in the last 32 bits: NAT64 (RFC 6052, RFC 8215), and IPv4-compatible (RFC 4291 §2.5.5.1).
_EMBEDDING: Final = tuple(
    ipaddress.IPv6Network(network) for network in ("64:ff9b::/96", "64:ff9b:1::/48", "::/96")
)


class ForbiddenAddress(OSError):
    """A connection that was not made, since it would have led to such an address.

    One text for all: so a client of many addresses reports them as one failure.
    """

    def __init__(self) -> None:
        super().__init__("the address is link-local, or of a cloud's metadata service")


def is_forbidden(host: str) -> bool:
    """Whether an address, in any spelling that the system takes for one, must not be asked.

    False for a name: what it leads to is known when it has been resolved.
    """
    address = _read(host)
    return address is not None and any(_is_listed(form) for form in _forms(address))


def is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _read(host: str) -> _Address | None:
    try:
        return ipaddress.ip_address(host.partition("%")[0])  # without the zone
    except ValueError:
        pass
    try:
        # 2852039166, 0xa9fea9fe, 0251.0376.0251.0376, 169.254.43518 (inet_aton(3)).
        return ipaddress.IPv4Address(socket.inet_aton(host.removesuffix(".")))
    except (OSError, ValueError):
        return None


def _forms(address: _Address) -> list[_Address]:
    """The address, and those of IPv4 that are inside it."""
    forms = [address]
    if isinstance(address, ipaddress.IPv6Address):
        inside = [address.ipv4_mapped, address.sixtofour, *(address.teredo or ())]
        forms += [form for form in inside if form is not None]
        if any(address in network for network in _EMBEDDING):
            forms.append(ipaddress.IPv4Address(int(address) & 0xFFFFFFFF))
    return forms


def _is_listed(address: _Address) -> bool:
    return any(address in network for network in _NETWORKS)
