"""A real server on a free port, in a thread of the test."""

import contextlib
import socket
import threading
import time
from types import SimpleNamespace

import pytest

pytest.importorskip('fastapi', reason='the server is not installed: pip install "palm_jax[serve]"')
from palm_jax.inference.engine import Engine
from palm_jax.inference.generate import Sampler
from palm_jax.serving import app, connections, models
from palm_jax.serving.limits import Limits
from palm_jax.serving.routing import Models
from palm_jax.serving.switching import Switcher


@contextlib.contextmanager
def running(
    served,
    limits=Limits(),
    slots=4,
    max_waiting=32,
    log=None,
    tests=None,
    load=None,
    prefix_cache_bytes=0,
    prefill_chunk=512,
    **parts,
):
    """Yields the server's URL and port, the server, its engine, thread and switcher; stops it at the end.

    With `load`, which loads a model from its name and the directory of its registry, new champions are served.
    """
    engine = Engine(slots, max_waiting, chunk=4, prefix_cache_bytes=prefix_cache_bytes, prefill_chunk=prefill_chunk)
    models.fill(engine, served, [test.model for test in (tests or {}).values()])
    switcher = Switcher(served, load, 0.05, engine) if load else None
    listening = socket.create_server(('127.0.0.1', 0), backlog=2048)
    port = listening.getsockname()[1]
    application = app.create_app(Models(served, tests or {}), engine, limits, log, switcher, **parts)
    server = connections.create_server(application, limits)
    thread = threading.Thread(target=server.run, args=([listening],), daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.05)
    try:
        url = f'http://127.0.0.1:{port}'
        yield SimpleNamespace(url=url, port=port, server=server, engine=engine, thread=thread, switcher=switcher)
    finally:
        server.should_exit = True
        thread.join(60)
        assert not thread.is_alive()


def alone(served, name, prompt, tokens=12):
    """Completes a prompt greedily with a served model, without the server."""
    return served[name].model.generate([prompt], Sampler(max_tokens=tokens, temperature=0.0))[0]


def slowed(engine, seconds):
    """Makes every chunk of an engine take `seconds` longer, so that clients can leave in the middle."""
    for model in engine._models.values():
        work = model.work
        model.work = lambda chunk, work=work: (time.sleep(seconds), work(chunk))
