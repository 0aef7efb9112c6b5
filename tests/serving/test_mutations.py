"""Thousands of mutated requests: none is a failure of the server, and the answers before and after are the same."""

import asyncio
import collections
import contextlib
import functools
import gc
import os
import random
import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from palm_jax.serving.hosts import hosts_of
from palm_jax.serving.limits import Limits
from tests.support import http, mutations
from tests.support.raw_http import received, status_of
from tests.support.server import running
from tests.support.waiting import wait_until

LIMITS = Limits(
    max_tokens=4, seconds=20, body_seconds=0.4, header_seconds=0.4, hosts=hosts_of('127.0.0.1', '127.0.0.1', [])
)
ASKED = [
    ('/v1/completions', {'model': 'text', 'prompt': 'abc', 'max_tokens': 4, 'temperature': 0, 'logprobs': 3}),
    ('/v1/chat/completions', {'model': 'chat', 'messages': [{'role': 'user', 'content': 'hi'}], 'temperature': 0}),
    ('/v1/classify', {'model': 'classes', 'input': ['a', 'b c']}),
    ('/v1/tag', {'model': 'tags', 'input': 'Ann met Bob.'}),
]


def answers(site):
    """What the server answers to valid requests, without what differs each time."""
    found = []
    for path, body in ASKED:
        answer = http.post(f'{site.url}{path}', json=body, timeout=60)
        assert answer.status_code == 200, answer.text
        found.append({k: v for k, v in answer.json().items() if k not in ('id', 'created')})
    return found


def send(site, request):
    """Sends a mutated request and stops sending; returns the status, or None if the server cuts the connection."""
    with socket.create_connection(('127.0.0.1', site.port), timeout=30) as connection:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            connection.sendall(request)
        return status_of(received(connection))


def check(site, count, seed=0):
    rng, statuses = random.Random(seed), collections.Counter()
    before = answers(site)
    with ThreadPoolExecutor(8) as pool:  # many are answered only when the server has waited for the rest of them
        for first in range(0, count, 500):
            requests = [mutations.mutated(rng) for _ in range(min(500, count - first))]
            for request, status in zip(requests, pool.map(functools.partial(send, site), requests), strict=True):
                statuses[status] += 1
                assert status is None or status < 500, (first, status, request[:2000])
            assert answers(site) == before, first
    wait_until(lambda: site.engine.num_active + site.engine.num_waiting == 0)
    return statuses


def test_mutated_requests_are_answered_and_change_nothing(kinds):
    with running(kinds, LIMITS) as site:
        statuses = check(site, 300)
        assert {200, 400, 404} <= statuses.keys() and statuses[400] > 30, statuses


@pytest.mark.slow
def test_ten_thousand_mutated_requests(kinds):
    with running(kinds, LIMITS) as site:
        statuses = check(site, 10_000, seed=1)
        print(dict(statuses))
        assert {200, 400, 403, 404, 405} <= statuses.keys(), statuses


@pytest.mark.slow
@pytest.mark.skipif(not Path('/proc/self/statm').exists(), reason='needs /proc')
def test_memory_is_flat_over_ten_thousand_requests(kinds):
    async def ask_all(site, count):
        async with httpx.AsyncClient(timeout=300, limits=httpx.Limits(max_connections=16)) as http:
            places = asyncio.Semaphore(16)

            async def ask(number):
                path, body = ASKED[number % len(ASKED)]
                async with places:
                    answer = await http.post(f'{site.url}{path}', json=body)
                assert answer.status_code == 200, answer.text

            await asyncio.gather(*map(ask, range(count)))
        gc.collect()
        return int(Path('/proc/self/statm').read_text().split()[1]) * os.sysconf('SC_PAGE_SIZE') / 2**20

    with running(kinds, Limits(max_tokens=4)) as site:
        sizes = [asyncio.run(ask_all(site, 2000)) for _ in range(6)]
    print([round(size) for size in sizes])
    assert sizes[-1] - sizes[0] < 24, sizes  # MiB, over the last 10,000 of 12,000 requests


@pytest.mark.slow
def test_a_thousand_at_once_are_answered_or_told_to_come_again(kinds):
    """With the limits that the program has by default."""

    async def ask_all(site):
        async with httpx.AsyncClient(timeout=300, limits=httpx.Limits(max_connections=None)) as http:

            async def ask(number):
                path, body = ASKED[number % len(ASKED)]
                return (await http.post(f'{site.url}{path}', json=body)).status_code

            return collections.Counter(await asyncio.gather(*map(ask, range(1000))))

    with running(kinds, Limits(), slots=8, max_waiting=64) as site:
        statuses = asyncio.run(ask_all(site))
        print(dict(statuses))
        assert set(statuses) == {200, 429} and statuses[200] > 64, statuses
        assert answers(site)
