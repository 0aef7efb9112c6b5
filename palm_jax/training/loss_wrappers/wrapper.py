"""A loss that wraps the loss of a task in training; evaluation sees the loss of the task alone."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Container, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import jax

from palm_jax.errors import UserError
from palm_jax.models.model import Model
from palm_jax.training.metrics import Metrics

if TYPE_CHECKING:
    from palm_jax.training.teachers import Teacher

Batch = dict[str, jax.Array]
SumAndMetrics = tuple[jax.Array, Metrics]


@dataclasses.dataclass(frozen=True)
class LossInputs:
    """What the loss of one batch is a function of.

    Attributes:
      model: model with its fine-tuning methods.
      params: all parameters of the model.
      batch: features [B, ...].
      dropout_rng: key of the dropout masks; None disables dropout.
      rng: key for other random choices; a function of the seed, the step and the microbatch, as `dropout_rng`.
      step: number of steps taken before this one, int32 [].
      start: all parameters as the run began, without a gradient; None where no wrapper keeps them, see
        `LossWrapper.anchor`.
      wrapper_state: arrays that wrappers change from step to step, by name, see `LossWrapper.initial_state`.
      teachers: parameters of other models by path, see `LossWrapper.teachers`.
    """

    model: Model
    params: Any
    batch: Batch
    dropout_rng: jax.Array | None
    rng: jax.Array
    step: jax.Array
    start: Any = None
    wrapper_state: Any = dataclasses.field(default_factory=dict)
    teachers: Mapping[str | None, Any] = dataclasses.field(default_factory=dict)

    def replace(self, **changes: Any) -> LossInputs:
        """Return a copy with other attributes."""
        return dataclasses.replace(self, **changes)


@dataclasses.dataclass(frozen=True)
class Rows:
    """What a step reads for each row of a batch, for the estimates of its cost.

    Attributes:
      at_once: number of rows whose activations are in memory at the same time.
      in_all: number of rows in all passes of the step that have a backward pass.
      without_gradient: number of rows that are read besides, by the model or by a teacher, without a backward pass.
    """

    at_once: float = 1.0
    in_all: float = 1.0
    without_gradient: float = 0.0

    @property
    def passes(self) -> float:
        """All of them as passes forward and backward; a forward pass is a third of one."""
        return self.in_all + self.without_gradient / 3

    def plus(self, at_once: float = 0.0, in_all: float = 0.0, without_gradient: float = 0.0) -> Rows:
        """Return these and further ones."""
        return Rows(self.at_once + at_once, self.in_all + in_all, self.without_gradient + without_gradient)

    def times(self, count: float) -> Rows:
        """Return these, each repeated in the same pass."""
        return Rows(self.at_once * count, self.in_all * count, self.without_gradient * count)


class Loss(Protocol):
    """The loss of a batch, in one piece or as a prediction and what follows from it.

    A prediction is a tree of arrays [B, ...] whose form only its loss knows.
    """

    def __call__(self, inputs: LossInputs) -> SumAndMetrics:
        """Return the weighted sum of the loss, and its metrics; see `losses.LanguageModelLoss`."""

    def predict(self, inputs: LossInputs) -> Any:
        """Return the prediction for a batch, from one pass through the model."""

    def of_prediction(self, prediction: Any, inputs: LossInputs) -> SumAndMetrics:
        """Return the same as a call, from a prediction."""

    def divergences(self, p: Any, q: Any, inputs: LossInputs, p_params: Any = None) -> tuple[jax.Array, jax.Array]:
        """Return KL(p ‖ q) and KL(q ‖ p) of two predictions, weighted sums as the loss is.

        Args:
          p, q: results of `predict`.
          inputs: what q was predicted from.
          p_params: all parameters that p was predicted with; None is those of `inputs`.
        """


class LossWrapper:
    """A method that computes something around a loss: a frozen dataclass that gin builds, listed in LOSS_WRAPPERS.

    One that changes what follows from a prediction overrides `of_prediction`; one that changes how often or on what the
    model is run overrides `__call__`. Rows that are run more than once are repeated, each next to itself. With a weight
    of 0 it returns the loss as it is, so that a run is bit for bit that without it.

    Attributes:
      stage: what the method is around: 0 predictions, 1 several predictions for a row, 2 other inputs of the rows,
        3 other rows. Wrappers are listed from the lowest stage to the highest, above 0 with one of a stage.
    """

    stage: ClassVar[int] = 0

    @property
    def penalty_name(self) -> str | None:
        """Name of the metric of `penalty`; None for a wrapper without one."""
        return None

    def __call__(self, loss: Loss, inputs: LossInputs) -> SumAndMetrics:
        """Return the weighted sum and the metrics of a batch; `loss` of the metrics is that of the task.

        Args:
          loss: wrapped loss.
          inputs: what it is a function of.
        """
        return self.of_prediction(loss, loss.predict(inputs), inputs)

    def of_prediction(self, loss: Loss, prediction: Any, inputs: LossInputs) -> SumAndMetrics:
        """Return the same as a call, from a prediction of `loss`."""
        raise UserError(
            f'{type(self).__name__} has no loss of a single prediction, which another one of LOSS_WRAPPERS asks for.'
        )

    def rows(self, inner: Rows, row: Mapping[str, Any]) -> Rows:
        """Return what a step reads for each row of a batch; by default what it reads without the method.

        Args:
          inner: what the wrapped loss reads.
          row: features of a row, see `Data.blank`; empty where they are not known yet.
        """
        del row
        return inner

    def check(self, model: Model) -> None:
        """Refuse a model that the method cannot train, before the first step.

        Raises:
          UserError: with the binding to change.
        """
        del model

    def teachers(self) -> Sequence[Teacher]:
        """Return the models whose parameters the method reads in every step; none by default."""
        return ()

    def anchor(self, model: Model, params: Any, trained: Any) -> dict[str, Any]:
        """Return what the method keeps unchanged through the run: trees by name, which are saved with the state.

        The tree `start`, the trained parameters, is what `LossInputs.start` is made of. Called under a trace, with
        parameters that may be boxed with their logical axes.

        Args:
          model: model of the run.
          params: all parameters as the run begins.
          trained: those that are trained.
        """
        del model, params, trained
        return {}

    def fill(self, anchor: dict[str, Any], new: Container[str], labels: Sequence[str] | None) -> dict[str, Any]:
        """Return the anchor with the values that are read from files; called before the first step.

        Args:
          anchor: arrays of all wrappers on the mesh, by name.
          new: paths of the parameters that the initial checkpoint lacks.
          labels: names of the head's classes; None without such a head.

        Raises:
          UserError: the method cannot begin from these parameters.
        """
        del new, labels
        return anchor

    def initial_state(self) -> dict[str, jax.Array]:
        """Return arrays that the method changes from step to step, by name; they are saved with the state.

        `LossInputs.wrapper_state` has them, those of all wrappers together.
        """
        return {}

    def next_state(self, state: dict[str, jax.Array], metrics: Metrics) -> dict[str, jax.Array]:
        """Return these arrays after a step.

        Args:
          state: arrays of all wrappers before the step.
          metrics: metrics of the step, over the whole batch.
        """
        del state, metrics
        return {}

    def penalty(self, model: Model, params: Any, start: Any, anchor: dict[str, Any]) -> jax.Array:
        """Return a term that is added to the mean loss; called if there is a `penalty_name`.

        Args:
          model: model of the run.
          params: all parameters, as they are stored.
          start: all parameters as the run began.
          anchor: what the wrappers keep.
        """
        raise NotImplementedError


def anchor_of(wrappers: Sequence[LossWrapper], model: Model, params: Any, trained: Any) -> dict[str, Any]:
    """Return what all wrappers keep; see `LossWrapper.anchor`."""
    return {name: tree for w in wrappers for name, tree in w.anchor(model, params, trained).items()}


def state_of(wrappers: Sequence[LossWrapper]) -> dict[str, jax.Array]:
    """Return what all wrappers change from step to step, as the run begins; see `LossWrapper.initial_state`."""
    return {name: array for w in wrappers for name, array in w.initial_state().items()}


def rows_of(wrappers: Sequence[LossWrapper], row: Mapping[str, Any]) -> Rows:
    """Return what a step reads for each row of a batch, with wrappers from the inside out; see `LossWrapper.rows`."""
    rows = Rows()
    for wrapper in wrappers:
        rows = wrapper.rows(rows, row)
    return rows


@dataclasses.dataclass(frozen=True)
class _TaskLoss:
    """The loss of a task, see `losses.LanguageModelLoss`, as a `Loss`."""

    task: Any

    def __call__(self, inputs: LossInputs) -> SumAndMetrics:
        return self.task(inputs.model, inputs.params, inputs.batch, inputs.dropout_rng)

    def predict(self, inputs: LossInputs) -> Any:
        return self._part('predict')(inputs.model, inputs.params, inputs.batch, inputs.dropout_rng)

    def of_prediction(self, prediction: Any, inputs: LossInputs) -> SumAndMetrics:
        return self._part('of_prediction')(prediction, inputs.model, inputs.params, inputs.batch)

    def divergences(self, p: Any, q: Any, inputs: LossInputs, p_params: Any = None) -> tuple[jax.Array, jax.Array]:
        others = {} if p_params is None else {'p_params': p_params}
        return self._part('divergences')(p, q, inputs.model, inputs.params, inputs.batch, **others)

    def _part(self, name: str) -> Callable[..., Any]:
        part = getattr(self.task, name, None)
        if part is None:
            raise UserError(
                f'LOSS = {type(self.task).__name__} has no `{name}`, which a method of LOSS_WRAPPERS asks for: leave '
                'the method out for this kind of task. Of a loss of your own, palm_jax.training.head_losses shows how '
                'it is divided.'
            )
        return part


@dataclasses.dataclass(frozen=True)
class _WrappedLoss:
    """A loss inside a wrapper, as a `Loss`."""

    wrapper: LossWrapper
    loss: Loss

    def __call__(self, inputs: LossInputs) -> SumAndMetrics:
        return self.wrapper(self.loss, inputs)

    def predict(self, inputs: LossInputs) -> Any:
        return self.loss.predict(inputs)

    def of_prediction(self, prediction: Any, inputs: LossInputs) -> SumAndMetrics:
        return self.wrapper.of_prediction(self.loss, prediction, inputs)

    def divergences(self, p: Any, q: Any, inputs: LossInputs, p_params: Any = None) -> tuple[jax.Array, jax.Array]:
        return self.loss.divergences(p, q, inputs, p_params)


def wrap(task: Callable[..., SumAndMetrics], wrappers: Sequence[LossWrapper] = ()) -> Loss:
    """Return the loss of a task inside wrappers.

    Args:
      task: function of (model, params, batch, dropout_rng), see `losses.LanguageModelLoss`.
      wrappers: wrappers from the inside out.

    Raises:
      UserError: two of them do not work together in that order.
    """
    for inner, outer in itertools.pairwise(wrappers):
        if inner.stage > outer.stage or inner.stage == outer.stage > 0:
            names = ', '.join(type(w).__name__ for w in sorted(wrappers, key=lambda w: w.stage))
            advice = f'list them as {names}' if inner.stage > outer.stage else 'keep one of the two'
            raise UserError(f'LOSS_WRAPPERS: {type(outer).__name__} cannot be around {type(inner).__name__}; {advice}.')
    loss: Loss = _TaskLoss(task)
    for wrapper in wrappers:
        loss = _WrappedLoss(wrapper, loss)
    return loss
