"""Names of this machine, for doors that ask nobody who they are."""

from __future__ import annotations

import ipaddress


def is_local_name(host: str) -> bool:
    """Tell whether a host, perhaps with a port, is this machine by its own name or address.

    A page elsewhere can make its visitor's browser send requests here under a name of its own
    (DNS rebinding); such a request does not carry one of these.
    """
    if host.startswith("["):
        name = host[1:].partition("]")[0]
    elif host.count(":") == 1:
        name = host.partition(":")[0]
    else:
        name = host
    try:
        return name == "localhost" or ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False
