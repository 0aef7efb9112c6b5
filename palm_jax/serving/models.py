"""The models that are served, by name."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from palm_jax.api import loading
from palm_jax.api.trained_model import TrainedModel
from palm_jax.errors import UserError, closest, located
from palm_jax.inference.engine import Engine
from palm_jax.inference.generate import begin, next_power_of_two
from palm_jax.monitoring.registry import Registry
from palm_jax.predictors.generator import Generator
from palm_jax.predictors.predictor import Predictor
from palm_jax.run_directory import find_checkpoint


@dataclasses.dataclass(frozen=True)
class ServedModel:
    """A trained model under a name.

    Attributes:
      name: name in requests.
      model: trained model.
      directory: MODEL_DIR of the run.
      registry: registry whose champion the model is; None for a run of its own.
      engine_name: name in the engine of a model that generates text, where two have one name, see `switching` and
        `routing`; empty for `name`.
      created: time of loading, in seconds since the epoch.
    """

    name: str
    model: TrainedModel
    directory: str = ''
    registry: Registry | None = None
    engine_name: str = ''
    created: int = dataclasses.field(default_factory=lambda: int(time.time()))

    @property
    def predictor(self) -> Predictor:
        """Kind of task of the model."""
        return self.model.predictor

    @property
    def in_engine(self) -> str:
        """Name of the model in the engine."""
        return self.engine_name or self.name

    @property
    def generator(self) -> Generator:
        """Kind of task of a model that generates text.

        Raises:
          UserError: if the model does not generate text.
        """
        if not isinstance(self.predictor, Generator):
            raise UserError(f'The model {self.name!r} is for {self.predictor.kind}; it does not generate text.')
        return self.predictor

    def prompt(self, given: str | Sequence[int]) -> tuple[int, ...]:
        """Return the ids of a prompt, from a text as the model was trained to read it or from ids without BOS.

        Raises:
          UserError: if an id is not in the vocabulary, or the text lacks something.
        """
        if isinstance(given, str):
            return self.generator.prompt(self.model, given) or begin(self.model.data.vocabulary, ())
        size = self.model.data.vocabulary.size
        if unknown := [i for i in given if i >= size]:
            raise UserError(f'Token {unknown[0]} is unknown: the vocabulary has {size}.')
        return begin(self.model.data.vocabulary, given)

    def prompts(self, given: Sequence[str | Sequence[int]]) -> list[tuple[int, ...]]:
        """Return the ids of prompts, see `prompt`; a message about one of them has its number, from 0."""
        found = []
        for number, one in enumerate(given):
            with located(f'prompt {number}'):
                found.append(self.prompt(one))
        return found


def parse(text: str) -> tuple[str, str]:
    """Return the name and the directory of `[NAME=]MODEL_DIR`, which is parted at the first `=`.

    Raises:
      UserError: if the directory is missing, or an `=` in it was taken for the end of a name.
    """
    name, equals, directory = text.partition('=') if '=' in text else ('', '', text)
    if not directory:
        raise UserError(f'--model={text}: a MODEL_DIR is missing: --model={name or "NAME"}=runs/tiny')
    if equals and Path(text).is_dir() and not Path(directory).exists():
        suggestion = f'--model={Path(text).name.replace("=", "_")}={text}'
        raise UserError(f'--model={text}: what comes before the first = is a name. Write {suggestion}')
    directory = directory.removesuffix('/config.gin')
    return name or Path(directory).resolve().name, directory


@dataclasses.dataclass(frozen=True)
class Loader:
    """Loads models to serve. Adapters on one base share its arrays.

    Attributes:
      bindings: (name, value as gin text) that override the configurations of all models.
      trust_modules: modules that their configurations may name besides those of palm_jax.
      bases: what has been loaded, by directory.
    """

    bindings: Sequence[tuple[str, str]] = ()
    trust_modules: Sequence[str] = ()
    bases: dict[Path, Any] = dataclasses.field(default_factory=dict)

    def __call__(self, name: str, directory: str) -> ServedModel:
        """Load the model of a run, or of the champion of a registry (`monitoring.registry`), under a name.

        Raises:
          UserError: if it cannot be loaded.
        """
        found = Registry(Path(directory))
        registry = found if found.file.is_file() else None
        run = directory if registry is None else registry.champion()
        try:
            find_checkpoint(run, 'MODEL_DIR')
        except UserError as error:
            if registry is not None:
                raise UserError(f'{found.file} names a champion that is gone: {error}') from None
            what = f'Nor is it a registry of palm-jax retune: there is no {found.file}.'
            raise UserError(f'{error}\n{what}{_like(directory)}') from None
        model = loading.load_with(run, self.bindings, known=self.bases, trust_modules=self.trust_modules)
        return ServedModel(name, model, run, registry)

    def scorer(self, directory: str, label: str | None) -> Callable[[Sequence[str]], list[float]]:
        """Return the scores that a classifier gives to texts: the probability of a label, or a number from 0 to 1.

        Raises:
          UserError: the model does not label single texts, or has no such label.
        """
        found = self(directory, directory)
        predictor, labels = found.predictor, list(found.model.data.labels)
        if predictor.endpoint != '/v1/classify' or predictor.reads_pairs(found.model):
            raise UserError(f'{directory} is for {predictor.kind}; a rule needs a model that labels single texts.')
        if labels and label not in labels:
            raise UserError(f'{directory} has no label {label!r}.{closest(str(label), labels)} Labels: {labels}.')

        def score(texts: Sequence[str]) -> list[float]:
            read = [number for number, text in enumerate(texts) if text.strip()]  # nothing else can be predicted
            batch_size = min(32, next_power_of_two(max(1, len(read))))
            predictions = found.model.predict([texts[number] for number in read], batch_size=batch_size)
            scores = [0.0] * len(texts)
            for number, prediction in zip(read, predictions, strict=True):
                scores[number] = float(prediction[label] if labels else prediction)
            return scores

        return score


def _like(directory: str) -> str:
    """Return the folder beside a wrong directory whose name is closest, as a question; an empty text for none."""
    parent = Path(directory).expanduser().parent
    known = parent.iterdir() if parent.is_dir() else ()
    return closest(directory, [str(path) for path in known if path.is_dir()])


def load(wanted: Sequence[str], loader: Loader) -> dict[str, ServedModel]:
    """Load the models of `[NAME=]MODEL_DIR`; the default name is that of the directory.

    Returns:
      Models by name.

    Raises:
      UserError: if two models have one name, or one cannot be loaded.
    """
    served: dict[str, ServedModel] = {}
    for text in wanted:
        name, directory = parse(text)
        if name in served:
            raise UserError(f'Two models are called {name}; name one of them: --model=another={directory}')
        served[name] = loader(name, directory)
    return served


def fill(engine: Engine, served: Mapping[str, ServedModel], others: Iterable[ServedModel] = ()) -> None:
    """Add all models that generate text to the engine: those served by name, and others, such as those of A/B tests."""
    copies: dict[tuple[int, ...], Any] = {}
    for entry in (*served.values(), *others):
        add(engine, entry, copies)


def add(engine: Engine, entry: ServedModel, copies: dict[tuple[int, ...], Any]) -> None:
    """Add a model to the engine if it generates text.

    Args:
      engine: engine.
      entry: model.
      copies: arrays made for models that share a base, see `decoding.unstack_layers`; this call adds its own.
    """
    if isinstance(entry.predictor, Generator):
        model = entry.model
        unstacked = model.unstacked(copies)
        is_bidirectional = entry.predictor.is_bidirectional(model)
        engine.add(entry.in_engine, *unstacked, model.data.vocabulary, model.data.length, is_bidirectional)
