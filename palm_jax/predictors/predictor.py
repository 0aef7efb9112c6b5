"""The interface of a kind of task, and the binding that says which one a run is of.

gin binds one predictor beside the data, the loss and the reporter of a task (gin/heads). Training does not read it;
whatever uses the trained model does: the Python API, `palm-jax infer`, `serve`, `eval` and `export`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import jax

from palm_jax.data.readers.row import Row
from palm_jax.explanations.explainable import Explainable
from palm_jax.inference.generate import Decoder


class Model(Protocol):
    """A trained model as predictors read it; `api.load` returns one.

    Attributes:
      model: module with its methods attached.
      params: its parameters.
      data: data of the run: `vocabulary`, `length` and what the kind of task reads besides.
      sampler: default settings for generating text.
      for_decoding: (model, params) as decoding needs them.
    """

    @property
    def model(self) -> Any: ...

    @property
    def params(self) -> Any: ...

    @property
    def data(self) -> Any: ...

    @property
    def sampler(self) -> Decoder: ...

    @property
    def for_decoding(self) -> tuple[Any, Any]: ...


class Predictor(Protocol):
    """A kind of task: a frozen dataclass that gin builds.

    A kind whose models generate text is a `generator.Generator`, and is served by the engine.

    Attributes:
      kind: name of the kind in `GET /v1/models`.
      endpoint: path of the HTTP API that serves it.
      method: the method of the Python API that answers its inputs, named when another one is called.
      purpose: what models of this kind are trained to do: `to label texts`.
      features: names of the batch's features that `apply` reads.
    """

    kind: str
    endpoint: str
    method: str

    @property
    def purpose(self) -> str: ...

    @property
    def features(self) -> tuple[str, ...]: ...

    def parse(self, model: Model, row: Row) -> Any:
        """Return the input that a row of a table holds.

        Raises:
          UserError: with the row's location, if the row does not hold a usable input.
        """

    def reads_pairs(self, model: Model) -> bool:
        """Return whether an input is a pair of texts."""

    def predict(self, model: Model, inputs: Sequence[Any], batch_size: int = 32, first: int = 0) -> list[Any]:
        """Return a prediction for each input.

        Args:
          model: trained model.
          inputs: results of `parse`, or what a caller of the Python API gives instead.
          batch_size: inputs per forward pass.
          first: number of the first input, on which the random choices for it depend.
        """

    def explainables(
        self, model: Model, inputs: Sequence[Any], labels: Sequence[str | None], batch_size: int = 32
    ) -> list[list[Explainable]]:
        """Return what is to be explained for each input.

        Args:
          model: trained model.
          inputs: inputs of `predict`.
          labels: name of the label, or text of the answer, to explain for each input; None is the predicted one.
          batch_size: inputs per forward pass.

        Raises:
          UserError: if there is no such label.
        """

    def check_label(self, model: Model, label: Any) -> None:
        """Check what a user says to be the right answer: a text, a list of texts, or a number.

        Raises:
          UserError: if the model cannot give this answer; the message names what it can give.
        """

    def to_json(self, prediction: Any) -> dict[str, Any]:
        """Return what `palm-jax infer` adds to a row."""

    def to_response(self, prediction: Any) -> dict[str, Any]:
        """Return the fields of an answer of `endpoint`; not called for a `Generator`."""

    def apply(self, model: Any, params: Any, *features: jax.Array) -> jax.Array:
        """Return logits or scores from the arrays named by `features`: the function that `palm-jax export` writes."""


def purpose_of(model: Any) -> str:
    """Return what a model was trained to do, for messages: `to label pairs of texts`.

    Args:
      model: trained model, an `api.TrainedModel`.
    """
    purpose: str = model.predictor.purpose
    return purpose.replace('texts', 'pairs of texts') if model.predictor.reads_pairs(model) else purpose


def for_run(predictor: Predictor) -> Predictor:
    """Return the predictor of a run: the function to whose parameter gin binds it.

    Args:
      predictor: object that predicts with the model of a run and serves it.
    """
    return predictor
