"""HTTP as bytes on a socket, for requests that no client would send."""

import contextlib
import re
import socket


def head(method='POST', path='/v1/completions', length=None, host='127.0.0.1', **headers):
    """The header of a request, as bytes; other headers by name, with _ for -."""
    lines = [f'{method} {path} HTTP/1.1', f'Host: {host}', 'Content-Type: application/json']
    lines += [] if length is None else [f'Content-Length: {length}']
    lines += [f'{name.replace("_", "-")}: {value}' for name, value in headers.items()]
    return '\r\n'.join([*lines, '', '']).encode()


def received(connection, seconds=30):
    """What a server sends until it closes the connection."""
    connection.settimeout(seconds)
    parts = []
    with contextlib.suppress(ConnectionResetError):
        while part := connection.recv(1 << 16):
            parts.append(part)
    return b''.join(parts)


def status_of(answer):
    """The status of a response, or None if there is none."""
    found = re.match(rb'HTTP/1\.1 (\d{3}) ', answer)
    return found and int(found[1])


def exchange(port, request, seconds=30):
    """Sends bytes on a connection of their own, and returns what is answered until the server closes it."""
    with socket.create_connection(('127.0.0.1', port), timeout=seconds) as connection:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            connection.sendall(request)
        return received(connection, seconds)
