"""Where the server listens."""

import socket

from tfssl.errors import UserError

LOOPBACK = {"127.0.0.1", "localhost", "::1"}


def bound(host, port):
    """A TCP socket with an address of its own, on which nobody listens yet."""
    try:
        family, kind, number, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        made = socket.socket(family, kind, number)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind(address)
    except OSError as error:
        raise UserError(f"--host {host} --rest-port {port}: cannot be used ({error.strerror or error})") from None
    return made


def written(host, port):
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
