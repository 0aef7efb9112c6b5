"""The names by which a server may be addressed.

A page of another site can let its own name point to this machine (DNS rebinding); its requests then carry that name in
the Host header, and are refused.
"""

from __future__ import annotations

import dataclasses
import ipaddress
import socket
from collections.abc import Iterable

_LOOPBACK = ('localhost', '127.0.0.1', '::1')


@dataclasses.dataclass(frozen=True)
class Hosts:
    """Names that are accepted in the Host header.

    Attributes:
      names: lower-case host names and addresses; `*.example.com` accepts all names below, `*` any name.
      any_address: whether every IP address is accepted; no other site can be at an address of this machine.
    """

    names: frozenset[str] = frozenset('*')
    any_address: bool = False

    def accept(self, header: str) -> bool:
        """Return whether a Host header, with or without a port, names this server."""
        name = _without_port(header.strip().lower())
        if '*' in self.names or name in self.names:
            return True
        if any(pattern.startswith('*.') and name.endswith(pattern[1:]) for pattern in self.names):
            return True
        return self.any_address and _address(name) is not None


def hosts_of(host: str, listening: str, further: Iterable[str]) -> Hosts:
    """Return the names of a server.

    Args:
      host: name or address of the flag --host.
      listening: address that it listens to: that of `host`.
      further: names that the user adds.
    """
    names = {host, listening, *further}
    address = _address(listening)
    if address is None or address.is_loopback or address.is_unspecified:
        names |= set(_LOOPBACK)
    if address is None or not address.is_loopback:
        names |= {socket.gethostname(), socket.getfqdn()}
    normal = frozenset(_without_port(name.strip().lower()) for name in names) - {''}
    return Hosts(normal, address is not None and address.is_unspecified)


def _without_port(header: str) -> str:
    """Return the name of `name:port` or the address of `[address]:port`, without the dot that ends a full name."""
    if header.startswith('['):
        return header[1:].partition(']')[0]
    name, _, port = header.rpartition(':')
    return (name if name and ':' not in name and port.isdecimal() else header).rstrip('.')


def _address(name: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(name.partition('%')[0])
    except ValueError:
        return None
