"""Connections that keep the server waiting, that are too many, that name another server or that lack the key."""

import contextlib
import json
import socket
import time

import pytest

from palm_jax.serving.hosts import Hosts, hosts_of
from palm_jax.serving.limits import Limits
from tests.support import http
from tests.support.raw_http import exchange, head, received, status_of
from tests.support.server import running
from tests.support.waiting import wait_until

ASK = {'model': 'base', 'prompt': 'a', 'max_tokens': 3, 'temperature': 0}


def connect(site):
    return socket.create_connection(('127.0.0.1', site.port), timeout=20)


def drip(connection, part, seconds=8):
    """Sends a part again and again until the server cuts the connection; returns how long that took."""
    start = time.monotonic()
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        while time.monotonic() < start + seconds:
            connection.sendall(part)
            time.sleep(0.05)
    return time.monotonic() - start


def test_what_keeps_the_server_waiting_is_cut(served):
    limits = Limits(header_seconds=0.7, body_seconds=0.7, body_bytes=1000)
    with running(served, limits) as site:
        with connect(site) as silent, connect(site) as begun:
            begun.sendall(b'POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1\r\n')
            assert drip(begun, b'X-A: b\r\n') < 5  # a header that never ends
            assert received(silent) == b''
        with connect(site) as kept:  # a second header that never ends, after a whole request
            kept.sendall(head('GET', '/health'))
            assert status_of(kept.recv(4096)) == 200
            assert drip(kept, b'GET /health HTTP/1.1\r\n'[:1]) < 5
        with connect(site) as slow:  # a body that never ends, also after its refusal
            slow.sendall(head(length=900))
            assert drip(slow, b'{') < 5
        with connect(site) as large:
            large.sendall(head(length=10**9))
            assert status_of(large.recv(4096)) == 413
            assert drip(large, b'{') < 5
        assert http.post(f'{site.url}/v1/completions', json=ASK, timeout=60).status_code == 200
        wait_until(lambda: not site.server.server_state.connections, seconds=10)


def test_a_client_that_stops_reading_is_cut(served):
    with running(served, Limits(stall_seconds=0.5)) as site, connect(site) as stalled:
        stalled.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        wait_until(lambda: site.server.server_state.connections)
        content = json.dumps(ASK | {'prompt': ['a'] * 16, 'stream': True, 'logprobs': 20, 'max_tokens': 60}).encode()
        (connection,) = site.server.server_state.connections
        connection.transport.set_write_buffer_limits(high=1000)
        stalled.sendall(head(length=len(content)) + content)
        wait_until(lambda: not site.server.server_state.connections, seconds=20)
        wait_until(lambda: site.engine.num_active + site.engine.num_waiting == 0, seconds=20)


def test_connections_are_counted(served):
    with running(served, Limits(max_connections=3, header_seconds=30)) as site, contextlib.ExitStack() as stack:
        state = site.server.server_state
        open_ones = [stack.enter_context(connect(site)) for _ in range(3)]
        wait_until(lambda: len(state.connections) == 3)
        refused = http.post(f'{site.url}/v1/completions', json=ASK)
        assert refused.status_code == 429 and 'Too many connections' in refused.json()['error']['message']
        assert refused.headers['retry-after'] == '1'
        with contextlib.suppress(OSError):  # far beyond the limit there is not even a refusal
            further = [stack.enter_context(connect(site)) for _ in range(6)]
            assert received(further[-1], 5) == b''
        assert len(state.connections) <= 6
        open_ones[0].sendall(head('GET', '/health'))
        assert status_of(open_ones[0].recv(4096)) == 200  # the first ones are served
        stack.close()
        wait_until(lambda: not state.connections)
        assert http.get(f'{site.url}/health').status_code == 200


def test_large_bodies_are_counted(served):
    """Bodies that arrive slowly cannot fill the memory together."""
    limits = Limits(body_bytes=10_000)
    with running(served, limits) as site, contextlib.ExitStack() as stack:
        for _ in range(17):
            connection = stack.enter_context(connect(site))
            connection.sendall(head(length=9_999) + b'{' * 9_900)
        last = stack.enter_context(connect(site))
        time.sleep(0.3)
        last.sendall(head(length=9_999) + b'{' * 9_900)
        assert status_of(last.recv(4096)) == 429
        assert http.get(f'{site.url}/health').status_code == 200
        stack.close()
        wait_until(lambda: http.post(f'{site.url}/v1/completions', json=ASK, timeout=60).status_code == 200)


LOOPBACK = hosts_of('127.0.0.1', '127.0.0.1', ['model.example.com', '*.inside.example.org'])
HOSTS = [
    (LOOPBACK, 'accepted', ['localhost', 'LOCALHOST:8000', '127.0.0.1:80', '[::1]:8000', '[::1]', 'localhost.',
                            'model.example.com', 'a.b.inside.example.org:1']),
    (LOOPBACK, 'refused', ['', 'evil.com', 'evil.com:8000', '192.168.0.7', '127.0.0.1.evil.com', 'localhost.evil.com',
                           'inside.example.org', 'xinside.example.org', '[::2]', 'localhost@evil.com', '[evil', ':80']),
    (hosts_of('0.0.0.0', '0.0.0.0', []), 'accepted', ['192.168.0.7:8000', '10.0.0.1', '[fe80::1]:80', 'localhost',
                                                      socket.gethostname()]),
    (hosts_of('0.0.0.0', '0.0.0.0', []), 'refused', ['evil.com', '10.0.0.1.evil.com', '']),
    (hosts_of('10.0.0.5', '10.0.0.5', []), 'accepted', ['10.0.0.5:8000', socket.gethostname()]),
    (hosts_of('10.0.0.5', '10.0.0.5', []), 'refused', ['10.0.0.6', '127.0.0.1', 'evil.com']),
    (hosts_of('::', '::', ['*']), 'accepted', ['anything.example.com', '']),
    (Hosts(), 'accepted', ['anything.example.com']),
]  # fmt: skip


@pytest.mark.parametrize('hosts, expected, headers', HOSTS)
def test_the_host_header(hosts, expected, headers):
    for header in headers:
        assert hosts.accept(header) == (expected == 'accepted'), header


def test_another_hosts_name_is_refused(served):
    with running(served, Limits(hosts=LOOPBACK)) as site:
        for host, status in (('127.0.0.1', 200), (f'localhost:{site.port}', 200), ('evil.com', 403), ('é', 403)):
            for path in ('/', '/v1/models', '/health', '/openapi.json'):
                answer = http.get(f'{site.url}{path}', headers={'Host': host.encode()})
                assert answer.status_code == status, (host, path)
        assert '--allowed_host' in answer.json()['error']['message']
        old = exchange(site.port, b'GET /health HTTP/1.0\r\n\r\n')  # without the header
        assert status_of(old) == 200


@pytest.mark.parametrize(
    'header, status',
    [('Bearer secret', 200), ('bearer  secret', 200), ('secret', 401), ('Basic secret', 401), ('Bearersecret', 401),
     ('Bearer secre', 401), ('Bearer secrett', 401), ('Bearer', 401), ('', 401), ('Bearer Bearer secret', 401)],
)  # fmt: skip
def test_the_key_is_a_bearer_token(key_site, header, status):
    for path in ('/v1/models', '/metrics', '/v1/models/base'):
        answer = http.get(f'{key_site.url}{path}', headers={'Authorization': header} if header else {})
        assert answer.status_code == status and (status == 200) == ('www-authenticate' not in answer.headers)


@pytest.fixture(scope='module')
def key_site():
    from palm_jax.models.architecture import Architecture
    from palm_jax.models.palm import PaLM
    from palm_jax.serving.models import ServedModel
    from tests.support.architectures import MICRO
    from tests.support.kinds import every_kind

    def micro(**changes):
        return (PaLM(Architecture(**(MICRO | changes))),)

    model = ServedModel('base', every_kind(micro)['text'])
    with running({'base': model}, Limits(token='secret')) as site:
        yield site
