"""Which model answers a request: by its name, by its kind of task, and in an A/B test by the user."""

from __future__ import annotations

import dataclasses
import hashlib
import random
from collections.abc import Callable, Mapping, Sequence

from palm_jax.errors import UserError, closest
from palm_jax.predictors.generator import Generator
from palm_jax.predictors.predictor import Predictor
from palm_jax.serving.errors import Failure
from palm_jax.serving.models import Loader, ServedModel, parse


@dataclasses.dataclass(frozen=True)
class ABTest:
    """A second model that answers a share of the requests for a name.

    Attributes:
      model: second model, under the name of the first.
      share: share of the requests that it answers, in (0, 1).
    """

    model: ServedModel
    share: float

    def is_for(self, user: str | None) -> bool:
        """Return whether the second model answers this request: the same for all requests of a user, else by chance."""
        if not user:
            return random.random() < self.share
        digest = hashlib.sha256(f'{self.model.name}\n{user}'.encode()).digest()
        return int.from_bytes(digest[:8]) < self.share * 2**64


@dataclasses.dataclass(frozen=True)
class Models:
    """The served models, found by the name in a request.

    Attributes:
      served: models by name; a model may be replaced while the server runs, see `switching`.
      tests: A/B tests by the name of their first model.
    """

    served: Mapping[str, ServedModel]
    tests: Mapping[str, ABTest] = dataclasses.field(default_factory=dict)

    def find(self, name: str | None, fits: Callable[[Predictor], bool] = lambda _: True) -> ServedModel:
        """Return the model of that name, if its kind of task fits the endpoint; otherwise raise Failure.

        A request without a name is for the only model that fits.
        """
        fitting = [n for n, model in self.served.items() if fits(model.predictor)]
        if name is None and len(fitting) > 1:
            raise Failure(400, f'model: name one of these: {", ".join(fitting)}.', param='model')
        if name is None:
            name = fitting[0] if fitting else next(iter(self.served), '')
        if name in fitting:
            return self.served[name]
        problem = f'is for {self.served[name].predictor.kind}' if name in self.served else 'does not exist'
        known = f'Known here: {", ".join(fitting)}.' if fitting else 'No served model can do this.'
        message = f'The model {name[:100]!r} {problem}.{closest(name[:100], fitting)} {known}'
        raise Failure(404, message, 'model_not_found', 'model')

    def answering(self, model: ServedModel, user: str | None) -> ServedModel:
        """Return the model that answers a request for `model`: itself, or the second one of an A/B test."""
        test = self.tests.get(model.name)
        return test.model if test is not None and test.is_for(user) else model


def check(first: ServedModel, second: ServedModel) -> None:
    """Refuse a model that cannot answer in the place of another.

    Raises:
      UserError: they are asked or answer in different ways.
    """
    one, other = first.predictor, second.predictor
    if (one.kind, one.endpoint) != (other.kind, other.endpoint):
        raise UserError(f'{second.directory} is for {other.kind}, {first.name} for {one.kind}.')
    if one.purpose != other.purpose:
        raise UserError(f'{second.directory} was trained {other.purpose}, {first.name} {one.purpose}.')
    labels, others = (sorted(model.model.data.labels) for model in (first, second))
    if labels != others:
        raise UserError(f'{second.directory} has the labels {others}, {first.name} has {labels}.')
    if one.reads_pairs(first.model) != other.reads_pairs(second.model):
        raise UserError(f'One of {first.directory} and {second.directory} reads pairs of texts, the other single ones.')


def load_tests(
    wanted: Sequence[str], share: float, served: Mapping[str, ServedModel], loader: Loader
) -> dict[str, ABTest]:
    """Load the second models of A/B tests.

    Args:
      wanted: `NAME=MODEL_DIR`, where NAME is a served model.
      share: share of the requests that a second model answers.
      served: served models by name.
      loader: loads a model.

    Returns:
      The tests, by name.

    Raises:
      UserError: a name is unknown or given twice, or the second model cannot answer in the place of the first.
    """
    tests: dict[str, ABTest] = {}
    for text in wanted:
        name, directory = parse(text)
        if '=' not in text or name not in served:
            known = ', '.join(served)
            raise UserError(f'--ab_test={text}: write NAME=MODEL_DIR with the name of a served model: {known}.')
        if name in tests:
            raise UserError(f'--ab_test={text}: {name} has a second model already, {tests[name].model.directory}.')
        second = loader(name, directory)
        if isinstance(second.predictor, Generator):
            second = dataclasses.replace(second, engine_name=f'{name} B')
        check(served[name], second)
        tests[name] = ABTest(second, share)
    return tests
