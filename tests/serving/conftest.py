"""A micro model behind a real server on a free port."""

import contextlib
import socket
import threading
import time
from types import SimpleNamespace

import pytest

pytest.importorskip('fastapi', reason='the server is not installed: pip install "palm_jax[serve]"')
import uvicorn

from palm_jax.api.trained_model import TrainedModel
from palm_jax.data.vocabulary.special_tokens import ExtendedVocabulary
from palm_jax.data.vocabulary.vocabularies import Bytes
from palm_jax.inference.engine import Engine
from palm_jax.peft.bitfit import BitFit
from palm_jax.peft.method import AdaptedModel
from palm_jax.serving import app, models
from palm_jax.serving.limits import Limits
from palm_jax.serving.models import ServedModel
from tests.peft.test_methods import shaken

BYTES = ExtendedVocabulary(Bytes(), 0)


@pytest.fixture
def served(micro):
    """A model of bytes, and an adapter on it."""
    import jax

    from palm_jax.training import state

    model, params = micro(vocab_size=BYTES.size)
    data = SimpleNamespace(vocabulary=BYTES, length=64, labels=())
    adapted = AdaptedModel(model, (BitFit(),))
    fresh = state.unbox(state.init_params(adapted, jax.random.key(0)))
    both = {
        'base': TrainedModel(AdaptedModel(model), params, data, ''),
        'adapter': TrainedModel(adapted, shaken(fresh), data, ''),
    }
    return {name: ServedModel(name, trained) for name, trained in both.items()}


@contextlib.contextmanager
def running(served, limits=Limits(), places=4, max_waiting=32):
    """The address of a server, the server, and its engine."""
    engine = Engine(places, max_waiting, chunk=4)
    models.fill(engine, served)
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = free.getsockname()[1]
    config = uvicorn.Config(
        app.create_app(served, engine, limits), port=port, log_level='warning', timeout_graceful_shutdown=60
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.05)
    try:
        yield SimpleNamespace(url=f'http://127.0.0.1:{port}', port=port, server=server, engine=engine, thread=thread)
    finally:
        server.should_exit = True
        thread.join(60)
        assert not thread.is_alive()
