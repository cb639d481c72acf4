"""Word to systemd (sd_notify): a datagram to the socket that the unit's environment names.

https://www.freedesktop.org/software/systemd/man/latest/sd_notify.html
"""

from __future__ import annotations

import os
import socket


def notify(**state: str) -> None:
    """Send READY="1", STATUS="...", WATCHDOG="1", STOPPING="1"; nothing outside of systemd."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    message = "\n".join(f"{key}={value}" for key, value in state.items())
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
        channel.connect(address)
        channel.sendall(message.encode())


def watchdog_seconds() -> float | None:
    """How often the watchdog wants to hear from us, or None where it does not listen."""
    microseconds = os.environ.get("WATCHDOG_USEC")
    return int(microseconds) / 1e6 if microseconds else None
