"""What a run is made of, known from shapes alone: the adapted model, the state on its mesh, the step, the plan."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from palm_jax.checkpoint_metadata import CheckpointMetadata
from palm_jax.models.palm import PaLM
from palm_jax.partitioning import MeshLayout
from palm_jax.peft.method import AdaptedModel, Method
from palm_jax.peft.trainable import Trainable
from palm_jax.training.batch_sizes import BatchSizes, Ramp
from palm_jax.training.checkpoints import restore_params
from palm_jax.training.optimizers import Optimizer
from palm_jax.training.plan import Plan
from palm_jax.training.state import TrainState, init_state, unbox
from palm_jax.training.step import LossFn, train_step

_SHALLOW = 12  # largest number of layers that `unroll_layers = auto` unrolls on a CPU
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
      The adapted model, with `unroll_layers = auto` resolved for the platform, and the selection.
    """
    adapted = AdaptedModel(_resolve_unroll_layers(model, platform or jax.default_backend()), tuple(methods))
    if trainable is None and not methods:
        return adapted, Trainable(top_layers=trainable_layers)
    return adapted, Trainable((*(trainable or ()), *adapted.trainable), trainable_layers)


def adapt_from_arguments(arguments: Mapping[str, Any], platform: str | None = None) -> tuple[AdaptedModel, Trainable]:
    """`adapt`, from all arguments of `loop.train`."""
    chosen = {name: arguments[name] for name in _ADAPTATION if name in arguments}
    return adapt(arguments['model'], **chosen, platform=platform)


def _resolve_unroll_layers(model: PaLM, platform: str) -> PaLM:
    """`auto` unrolls a shallow model on a CPU, where a loop copies the activations that it saves of every layer."""
    if model.arch.unroll_layers != 'auto':
        return model
    layers = 0 if platform == 'cpu' and model.arch.num_layers <= _SHALLOW else 1
    return model.clone(arch=dataclasses.replace(model.arch, unroll_layers=layers))


@dataclasses.dataclass(frozen=True)
class Setup:
    """A run before it begins.

    Attributes:
      plan: with the adapted model and the state's shapes.
      selection: what is trained.
      optimizer: wrapped by the methods.
    """

    plan: Plan
    selection: Trainable
    optimizer: Optimizer

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
    ) -> Setup:
        """From the arguments of `loop.train`, `adapt`'s results, the mesh's devices and the tokens of a sequence.

        Raises:
          UserError: the mesh does not fit the devices, or does not divide a parameter.
        """
        optimizer, axis_sizes = model.wrap_optimizer(optimizer), layout.axis_sizes(num_devices)
        shapes = jax.eval_shape(functools.partial(init_state, model, optimizer, trainable=selection), jax.random.key(0))
        layout.check((shapes.params, shapes.frozen), axis_sizes)
        frozen_layers = selection.frozen_layers(shapes.params, model.arch.num_layers)
        sizes = BatchSizes.of(batch_size)
        plan = Plan(model, shapes, layout, axis_sizes, sizes, length, total_steps, frozen_layers)
        return cls(plan, selection, optimizer)

    @property
    def model(self) -> AdaptedModel:
        """As it is trained: layers below the lowest trained one have no backward pass."""
        return self.plan.model.freeze_layers(self.plan.frozen_layers)

    def shardings(self, mesh: Mesh) -> TrainState:
        """Where every array of the state lies."""
        return self.plan.layout.shardings(self.plan.shapes, mesh)

    def target(self, mesh: Mesh) -> TrainState:
        """The state's shapes with their shardings: shapes before arrays, on any mesh."""
        place = lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)  # noqa: E731
        return jax.tree.map(place, unbox(self.plan.shapes), self.shardings(mesh))

    def begin(self, mesh: Mesh, seed: int, initial_checkpoint: str | None, metadata: CheckpointMetadata) -> TrainState:
        """The initial state, created directly with its sharding: from scratch, or with another run's parameters.

        In the second case the optimizer state is fresh, and parameters of methods and of a new head have their
        initial values.
        """
        shardings = self.shardings(mesh)
        init = functools.partial(init_state, self.plan.model, self.optimizer, trainable=self.selection)
        fresh = jax.jit(lambda rng: unbox(init(rng)), out_shardings=shardings)(jax.random.key(seed))
        if initial_checkpoint is None:
            return fresh
        print(f'starting from the parameters of {initial_checkpoint}', flush=True)
        model = self.plan.model

        def start(params: Any) -> TrainState:
            trained, frozen = self.selection.split(model.init_from_base(params))
            return TrainState(fresh.step, trained, self.optimizer.init(trained), frozen)

        params = restore_params(initial_checkpoint, fresh.all_params, metadata, model.trainable)
        return jax.jit(start, out_shardings=shardings)(params)

    def step(self, mesh: Mesh, loss: LossFn, microbatches: int = 1) -> Any:
        """The jitted `train_step`: (donated state, batch, the run's key) to (state, metrics on every device)."""
        model = self.model
        return jax.jit(
            functools.partial(
                train_step,
                model=model,
                loss=model.penalized(loss),
                optimizer=self.optimizer,
                microbatches=microbatches,
            ),
            donate_argnums=0,
            out_shardings=(self.shardings(mesh), replicated(mesh)),
        )


def replicated(mesh: Mesh) -> NamedSharding:
    """On every device."""
    return NamedSharding(mesh, PartitionSpec())
