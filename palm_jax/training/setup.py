"""The parts of a run that follow from shapes alone: the adapted model, the state on its mesh, the steps, the plan."""

from __future__ import annotations

import dataclasses
import functools
import logging
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from palm_jax.checkpoint_metadata import CheckpointMetadata
from palm_jax.errors import UserError
from palm_jax.models.palm import PaLM
from palm_jax.models.quantization import dequantize_tree
from palm_jax.parameters import leaves_by_path, path_name
from palm_jax.partitioning import MeshLayout
from palm_jax.peft.method import AdaptedModel, Method
from palm_jax.peft.trainable import Trainable, join
from palm_jax.training import platform_choices
from palm_jax.training.base_weights import BaseWeights, quantize_base
from palm_jax.training.batch_sizes import BatchSizes, Ramp
from palm_jax.training.head_scores import metrics_and_scores
from palm_jax.training.initial_parameters import fingerprint, restore_params
from palm_jax.training.loss_wrappers.wrapper import LossWrapper, anchor_of, rows_of, state_of, wrap
from palm_jax.training.optimizers import Optimizer
from palm_jax.training.plan import Plan
from palm_jax.training.state import TrainState, init_params, init_state, state_of_params, unbox
from palm_jax.training.step import LossFn, eval_step, loss_inputs, train_step
from palm_jax.training.teachers import fingerprint_of

_LOGGER = logging.getLogger(__name__)
_ADAPTATION = ('methods', 'trainable', 'trainable_layers')  # of `train`'s arguments, what `adapt` takes


def adapt(
    model: PaLM,
    methods: Sequence[Method] = (),
    trainable: Sequence[str] | None = None,
    trainable_layers: int | None = None,
    platform: str | None = None,
) -> tuple[AdaptedModel, Trainable]:
    """Attach the methods to the model and select the trained parameters.

    Args:
      model, methods, trainable, trainable_layers: arguments of `loop.train`.
      platform: platform that the model is compiled for; None is that of the default device.

    Returns:
      The adapted model, with `auto` in its architecture resolved for the platform, and the selection.
    """
    arch = platform_choices.resolve(model.arch, platform or jax.default_backend())
    adapted = AdaptedModel(model.clone(arch=arch), tuple(methods))
    if trainable is None and not any(method.adapts for method in methods):
        return adapted, Trainable(top_layers=trainable_layers)
    return adapted, Trainable((*(trainable or ()), *adapted.trainable), trainable_layers)


def adapt_from_arguments(arguments: Mapping[str, Any], platform: str | None = None) -> tuple[AdaptedModel, Trainable]:
    """`adapt`, from all arguments of `loop.train`."""
    chosen = {name: arguments[name] for name in _ADAPTATION if name in arguments}
    return adapt(arguments['model'], **chosen, platform=platform)


@dataclasses.dataclass(frozen=True)
class Setup:
    """A run before it begins.

    Attributes:
      plan: the adapted model, the state's shapes, and what follows from them.
      params: shapes of all parameters as they are initialized, with their logical axes.
      selection: parameters that are trained.
      optimizer: update rule, wrapped by the methods.
      base_weights: how frozen linear maps are kept in memory, see `loop.train`.
      wrappers: methods around the loss, see `loop.train`.
    """

    plan: Plan
    params: Any
    selection: Trainable
    optimizer: Optimizer
    base_weights: BaseWeights = 'stored'
    wrappers: tuple[LossWrapper, ...] = ()

    @classmethod
    def of(
        cls,
        model: AdaptedModel,
        selection: Trainable,
        optimizer: Optimizer,
        layout: MeshLayout,
        num_devices: int,
        batch_size: int | Ramp,
        length: int,
        total_steps: int,
        base_weights: BaseWeights = 'stored',
        wrappers: Sequence[LossWrapper] = (),
        microbatches: int = 1,
    ) -> Setup:
        """Set a run up.

        Args:
          model, selection: results of `adapt`.
          optimizer, layout, batch_size, total_steps, base_weights, wrappers, microbatches: see `loop.train`.
          num_devices: number of devices in the mesh.
          length: tokens per sequence.

        Raises:
          UserError: the mesh does not fit the devices, or does not divide a parameter; the pipeline does not divide the
            layers.
        """
        optimizer, axis_sizes = model.wrap_optimizer(optimizer), layout.axis_sizes(num_devices)
        if layout.schedule is not None:
            layout.schedule.layers_at_once(model.arch.num_layers)
        all_params = jax.eval_shape(functools.partial(init_params, model), jax.random.key(0))
        begin = functools.partial(state_of_params, model, optimizer, trainable=selection, wrappers=wrappers)
        shapes = jax.eval_shape(begin, all_params)
        frozen = jax.eval_shape(functools.partial(quantize_base, base_weights), shapes.params, shapes.frozen)
        shapes = dataclasses.replace(shapes, frozen=frozen)
        for params in (shapes.params, shapes.frozen):
            layout.check(params, axis_sizes)
        frozen_layers = selection.frozen_layers(shapes.params, model.arch.num_layers)
        sizes = BatchSizes.of(batch_size)
        teachers = {t.path: t.shapes(model.arch) for wrapper in wrappers for t in wrapper.teachers()}
        for params in teachers.values():
            layout.check(params, axis_sizes)
        of_run = sizes, length, total_steps, frozen_layers, teachers, microbatches
        plan = Plan(model, shapes, layout, axis_sizes, *of_run)
        return cls(plan, all_params, selection, optimizer, base_weights, tuple(wrappers))

    def around(self, loss: LossFn, row: Callable[[], Mapping[str, np.ndarray]] = dict) -> Setup:
        """Return the same with a plan that counts what the methods around the loss read of a batch.

        Args:
          loss: loss of the task.
          row: function that returns the features of a row, see `Data.blank`; none where they are not known yet.

        Raises:
          UserError: the methods do not work together, or cannot train the model; with the binding to change.
        """
        self._check_wrappers(loss)
        rows = rows_of(self.wrappers, row() if self.wrappers else {})
        return dataclasses.replace(self, plan=dataclasses.replace(self.plan, rows=rows))

    @property
    def model(self) -> AdaptedModel:
        """The model as it is trained: layers below the lowest trained one have no backward pass."""
        return self.plan.model.freeze_layers(self.plan.frozen_layers)

    def shardings(self, mesh: Mesh) -> TrainState:
        """The sharding of every array of the state."""
        return self.plan.layout.shardings(self.plan.shapes, mesh)

    def target(self, mesh: Mesh) -> TrainState:
        """Shapes and shardings of the state, without arrays."""
        return jax.tree.map(_placed, unbox(self.plan.shapes), self.shardings(mesh))

    def teachers_target(self, mesh: Mesh) -> dict[str, Any]:
        """Shapes and shardings of the parameters of the teachers by path, without arrays; empty without teachers."""
        boxed = self.plan.teachers
        return jax.tree.map(_placed, unbox(boxed), self.plan.layout.shardings(boxed, mesh))

    def check_start(self, initial_checkpoint: str | None) -> None:
        """Refuse to keep what a run from scratch does not have.

        Args:
          initial_checkpoint: see `begin`.

        Raises:
          UserError: a wrapper needs an initial checkpoint, and there is none.
        """
        if initial_checkpoint is None and self.plan.shapes.anchor:
            raise UserError(
                f'{" and ".join(type(w).__name__ for w in self.wrappers)}: a run from scratch has nothing to keep. '
                'Name the model that has learned the earlier tasks: --gin.INITIAL_CHECKPOINT_PATH=...'
            )

    def check_teachers(self, metadata: CheckpointMetadata) -> None:
        """Refuse teachers that `load_teachers` cannot load, without reading their parameters.

        Args:
          metadata: metadata of this run; the vocabularies must agree.

        Raises:
          UserError: a teacher lacks parameters, or has another vocabulary.
        """
        for teacher in {t.path: t for wrapper in self.wrappers for t in wrapper.teachers()}.values():
            teacher.check(unbox(self.plan.teachers[teacher.path]), metadata)

    def load_teachers(self, mesh: Mesh, metadata: CheckpointMetadata) -> tuple[dict[str, Any], CheckpointMetadata]:
        """Return the further arguments of the train step, and the metadata of a run that learns from the teachers.

        The arguments are `teachers`, their parameters on the mesh by path; without teachers there are none.

        Args:
          mesh: devices of the run.
          metadata: metadata of this run; the vocabularies must agree.
        """
        known = {t.path: t for wrapper in self.wrappers for t in wrapper.teachers()}
        teachers = {path: known[path].load(target, metadata) for path, target in self.teachers_target(mesh).items()}
        metadata = dataclasses.replace(metadata, teacher=fingerprint_of(teachers))
        return {'teachers': teachers} if teachers else {}, metadata

    def begin(
        self, mesh: Mesh, seed: int, initial_checkpoint: str | None, metadata: CheckpointMetadata
    ) -> tuple[TrainState, str | None]:
        """Return the state at step 0, created directly with its shardings, and the fingerprint of the base.

        The base is the frozen part of the initial checkpoint's parameters, as stored there; None without a checkpoint
        or a frozen part.

        Args:
          mesh: devices of the run.
          seed: seed for initialization.
          initial_checkpoint: checkpoint or MODEL_DIR whose parameters replace the initial ones; the optimizer and the
            parameters of the methods and the head start afresh. None keeps the initial parameters.
          metadata: metadata of this run; the vocabularies must agree.
        """
        shardings, model = self.shardings(mesh), self.plan.model
        init = functools.partial(init_state, model, self.optimizer, trainable=self.selection, wrappers=self.wrappers)
        self.check_start(initial_checkpoint)
        if initial_checkpoint is None:
            return jax.jit(lambda rng: unbox(init(rng)), out_shardings=shardings)(jax.random.key(seed)), None
        _LOGGER.info('starting from the parameters of %s', initial_checkpoint)
        fresh = self._fresh_params(mesh, seed)
        params = restore_params(initial_checkpoint, fresh, metadata, model.trainable)
        was_fresh = leaves_by_path(fresh)
        new = {path for path, leaf in leaves_by_path(params).items() if leaf is was_fresh[path]}
        _, frozen = self.selection.split(params)
        base = fingerprint(frozen) if jax.tree.leaves(frozen) else None

        def start(params: Any) -> TrainState:
            trained, frozen = self.selection.split(params)
            frozen = quantize_base(self.base_weights, trained, frozen)
            trained, _ = self.selection.split(model.init_from_base(join(trained, dequantize_tree(frozen, 'float32'))))
            anchor = anchor_of(self.wrappers, model, join(trained, frozen), trained) if self.wrappers else {}
            step = jnp.zeros((), jnp.int32)
            return TrainState(step, trained, self.optimizer.init(trained), frozen, anchor, state_of(self.wrappers))

        state = jax.jit(start, out_shardings=shardings, donate_argnums=0)(params)
        for wrapper in self.wrappers:
            state = dataclasses.replace(state, anchor=wrapper.fill(state.anchor, new, metadata.labels))
        return state, base

    def _check_wrappers(self, loss: LossFn) -> None:
        wrap(loss, self.wrappers)
        for wrapper in self.wrappers:
            wrapper.check(self.plan.model)

    def _fresh_params(self, mesh: Mesh, seed: int) -> Any:
        """Initial parameters of the methods and the head, and the shapes with shardings of all others."""
        init = functools.partial(init_params, self.plan.model)
        shapes = jax.tree.map(_placed, unbox(self.params), self.plan.layout.shardings(self.params, mesh))
        is_new = re.compile('|'.join(self.plan.model.trainable) or '(?!)').fullmatch

        def new(params: Any) -> dict[str, Any]:
            leaves = jax.tree_util.tree_leaves_with_path(params)
            return {name: leaf for path, leaf in leaves if is_new(name := path_name(path))}

        shardings = {name: shape.sharding for name, shape in new(shapes).items()}
        values = jax.jit(lambda rng: new(unbox(init(rng))), out_shardings=shardings)(jax.random.key(seed))
        return jax.tree_util.tree_map_with_path(lambda path, shape: values.get(path_name(path), shape), shapes)

    def train_step(self, mesh: Mesh, loss: LossFn, microbatches: int = 1) -> Any:
        """Jitted `step.train_step`: (donated state, batch, the run's key) to (state, metrics on every device).

        The parameters of teachers, if there are any, are its keyword `teachers`.

        Raises:
          UserError: a wrapper cannot train the model.
        """
        self._check_wrappers(loss)
        model = self.model
        return jax.jit(
            functools.partial(
                train_step,
                model=model,
                loss=loss,
                optimizer=self.optimizer,
                microbatches=microbatches,
                wrappers=self.wrappers,
                penalty=model.penalty if model.methods else None,
            ),
            donate_argnums=0,
            out_shardings=(self.shardings(mesh), replicated(mesh)),
        )

    def check_loss(self, loss: LossFn, row: Mapping[str, np.ndarray]) -> None:
        """Refuse what the loss, and the methods around it, refuse in the first step; it is traced, but not computed.

        Args:
          loss: loss of the task.
          row: features of a row, see `Data.blank`, of which only shapes and types are read.

        Raises:
          UserError: with the binding to change.
        """

        def value(state: TrainState, batch: Any, teachers: Any) -> Any:
            inputs = loss_inputs(state, state.params, batch, jax.random.key(0), self.model, teachers)
            return wrap(loss, self.wrappers)(inputs)

        rows = min(size for _, size in self.plan.batch_sizes.ramp)
        batch = {name: jax.ShapeDtypeStruct((rows, *x.shape), x.dtype) for name, x in row.items()}
        jax.eval_shape(value, unbox(self.plan.shapes), batch, unbox(self.plan.teachers))

    def held_out_steps(self, mesh: Mesh, loss: LossFn) -> tuple[Any, Any]:
        """Jitted functions of a state and a batch, whose results are on every device.

        They are `step.eval_step`, which returns metrics, and `head_scores.metrics_and_scores`.
        """
        of_metrics = functools.partial(eval_step, model=self.model, loss=loss)
        of_scores = lambda state, batch: metrics_and_scores(loss, self.model, state.all_params, batch)  # noqa: E731
        jit = functools.partial(jax.jit, out_shardings=replicated(mesh))
        return jit(of_metrics), jit(of_scores)


def _placed(shape: Any, sharding: NamedSharding) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape.shape, shape.dtype, sharding=sharding)


def replicated(mesh: Mesh) -> NamedSharding:
    """The sharding of an array that every device holds whole."""
    return NamedSharding(mesh, PartitionSpec())
