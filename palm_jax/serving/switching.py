"""The champion of a registry is replaced while the server runs: `palm-jax retune` promotes it or rolls back."""

from __future__ import annotations

import dataclasses
import gc
import itertools
import logging
import threading
import traceback
import weakref
from collections.abc import Callable, MutableMapping

import anyio
from starlette.concurrency import run_in_threadpool

from palm_jax.errors import UserError
from palm_jax.inference.engine import Engine
from palm_jax.predictors.generator import Generator
from palm_jax.serving import models, routing
from palm_jax.serving.models import ServedModel

_LOGGER = logging.getLogger(__name__)


class Switcher:
    """Looks at registries from time to time, and serves their champions.

    A request keeps the model that it began with, so none is lost or answered by two. The new model is loaded and has
    answered a text (which compiles it) before it replaces the other; one that cannot be served changes nothing. A model
    that generates text stays in the engine beside its successor, and is let go with the last request that holds it.

    Args:
      served: models by name, in which champions are replaced.
      load: loads a model, from its name and the directory of its registry.
      period: seconds between looks at the registries.
      engine: engine of the models that generate text.
    """

    def __init__(
        self,
        served: MutableMapping[str, ServedModel],
        load: Callable[[str, str], ServedModel],
        period: float,
        engine: Engine,
    ):
        self._served, self._load, self._period, self._engine = served, load, period, engine
        self._refused: dict[str, str] = {}
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()

    @property
    def is_needed(self) -> bool:
        """Whether a served model comes from a registry."""
        return any(model.registry is not None for model in self._served.values())

    async def run(self) -> None:
        """Look at the registries until cancelled."""
        while True:
            await anyio.sleep(self._period)
            await run_in_threadpool(self.look)

    def look(self) -> list[str]:
        """Replace the models whose registries have another champion; return their names."""
        with self._lock:
            switched = [name for name in list(self._served) if self._is_switched(name)]
        if switched:
            gc.collect()  # models are large, and what holds the former ones may be in reference cycles
        return switched

    def _is_switched(self, name: str) -> bool:
        before = self._served[name]
        if before.registry is None:
            return False
        champion = ''
        try:
            champion = before.registry.champion()
            if champion in (before.directory, self._refused.get(name)):
                return False
            model = self._load(name, str(before.registry.path))
            model = dataclasses.replace(model, engine_name=f'{name} {next(self._numbers)}')
            routing.check(before, model)
            self._try(model)
        except Exception as error:  # whatever a model raises, the one that is served goes on
            if self._refused.get(name) != champion:
                # As text: a record with an exception would hold its frames, and with them the models.
                what = str(error) if isinstance(error, UserError | OSError) else traceback.format_exc()
                _LOGGER.warning('%s still serves %s: %s', name, before.directory, what)
            self._refused[name] = champion
            return False
        self._served[name] = model
        self._refused.pop(name, None)
        if isinstance(before.predictor, Generator):
            weakref.finalize(before, self._engine.release, before.in_engine).atexit = False
        _LOGGER.info('%s now serves %s instead of %s', name, model.directory, before.directory)
        return True

    def _try(self, model: ServedModel) -> None:
        """Let a model answer a text, which compiles its programs."""
        if isinstance(model.predictor, Generator):
            models.add(self._engine, model, {})
        else:
            reads_pairs = model.predictor.reads_pairs(model.model)
            model.model.predict([('a', 'b') if reads_pairs else 'a'], batch_size=1)
