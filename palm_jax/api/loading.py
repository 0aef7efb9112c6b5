"""Where trained models come from: a run that is loaded, or a fine-tuning that ends in one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from palm_jax.api import training
from palm_jax.api.steering import steer
from palm_jax.api.trained_model import TrainedModel
from palm_jax.checkpoint_metadata import CheckpointMetadata, read_metadata
from palm_jax.configuration.compose import compose
from palm_jax.configuration.load import load as load_configuration
from palm_jax.configuration.origin import paths_from
from palm_jax.configuration.statements import given_in_python
from palm_jax.configuration.trust import Trust
from palm_jax.errors import UserError, located
from palm_jax.inference.generate import Sampler
from palm_jax.inference.steering import Steering
from palm_jax.logs import show_logs
from palm_jax.parameters import merge_matching
from palm_jax.partitioning import MeshLayout
from palm_jax.peft.method import AdaptedModel
from palm_jax.peft.trainable import join
from palm_jax.predictors.language_model_predictor import LanguageModelPredictor
from palm_jax.run_directory import RunDirectory, find_checkpoint, repair_files
from palm_jax.training.base_weights import quantize_base
from palm_jax.training.initial_parameters import fingerprint, restore_params
from palm_jax.training.setup import adapt_from_arguments
from palm_jax.training.state import init_params, unbox
from palm_jax.wording import shell_command


def finetune(
    table: str | Path,
    base: str | Path,
    model_dir: str | Path,
    gin_files: Sequence[str] = ('gin/finetune_lora.gin',),
    **bindings: Any,
) -> TrainedModel:
    """Fine-tune a model on a table, as `palm-jax train` does; a run in `model_dir` is continued.

    Args:
      table: path or glob of the training table (TRAIN_FILES).
      base: MODEL_DIR or checkpoint of the base model (INITIAL_CHECKPOINT_PATH).
      model_dir: directory for checkpoints, report and curves (MODEL_DIR).
      gin_files: configuration files, later ones override earlier ones.
      bindings: macros that override the files: TRAIN_STEPS=300.

    Raises:
      UserError: if the configuration or the table is invalid, or if a signal interrupted the run.
    """
    show_logs()
    of_run = {'TRAIN_FILES': str(table), 'INITIAL_CHECKPOINT_PATH': str(base), 'MODEL_DIR': str(model_dir)}
    flags = _as_gin(of_run | bindings)
    command = ['palm-jax', 'train', *(f'--gin_file={name}' for name in gin_files)]
    command += [f'--gin.{name}={value}' for name, value in flags]
    with given_in_python():
        code = training.train(gin_files, flags, shell_command(command))
    if code:
        raise UserError(f'The run was interrupted; its state is saved in {model_dir}. Call finetune again to continue.')
    return load_with(model_dir, [], trust_modules=None)  # this process has just trained it, from the caller's files


def load(model_dir: str | Path, *, trust_modules: Sequence[str] = (), **bindings: Any) -> TrainedModel:
    """Load the model of a run; an adapter is loaded together with the base that it was trained on.

    The tables of the run are not needed any more.

    Args:
      model_dir: MODEL_DIR of the run.
      trust_modules: modules outside palm_jax whose functions and classes the run's configuration may name; they are
        imported, which runs their code.
      bindings: macros that override the run's configuration: TEMPERATURE=0.0.

    Raises:
      UserError: if there is no run, its base has moved or changed, or it names code that is not trusted.
    """
    with given_in_python():
        return load_with(model_dir, _as_gin(bindings), trust_modules=trust_modules)


def _as_gin(bindings: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [(name, repr(value)) for name, value in bindings.items()]


def load_with(
    model_dir: str | Path,
    changes: Sequence[tuple[str, str]],
    gin_files: Sequence[str] = (),
    known: dict[Path, Any] | None = None,
    trust_modules: Sequence[str] | None = (),
) -> TrainedModel:
    """Load a model with bindings as gin text; see `load`.

    Tables and the base are also found where the run was started, see `configuration.origin`.

    Args:
      model_dir: MODEL_DIR of the run.
      changes: (name, value as gin text) of bindings that override the run's configuration.
      gin_files: files that override the run's configuration.
      known: parameters of the checkpoints loaded by earlier calls, by path; this call adds its own. Adapters on one
        base share its arrays.
      trust_modules: modules that the run's configuration may name besides those of palm_jax; None: any.

    Raises:
      UserError: there is no run, its base has moved or changed, or it names code that is not trusted.
    """
    known = {} if known is None else known
    trust = None if trust_modules is None else Trust(tuple(trust_modules))
    run = RunDirectory(Path(model_dir))
    repair_files(run)
    checkpoint, config = find_checkpoint(model_dir, 'MODEL_DIR'), run.config
    if not config.is_file():
        raise UserError(f'{model_dir} has no {config.name}: it is not the MODEL_DIR of a run.')
    if not gin_files:
        changes = [*paths_from(config), *changes]
    overlay = compose(['gin/runs/loaded.gin'], {'LOADED_MODEL_DIR': str(model_dir)})
    configuration = load_configuration('loop.train', [str(config), *gin_files], changes, overlay, trust)
    arguments = configuration.build('loop.train')
    predictor = configuration.arguments_of('predictor.for_run').get('predictor', LanguageModelPredictor())
    model, selection = adapt_from_arguments(arguments)
    data, ours = arguments['data'], CheckpointMetadata(arguments['data'].vocabulary.fingerprint)
    sampler = getattr(arguments['reporter'], 'sampler', None) or Sampler()
    fresh = _in_place(model, arguments.get('layout', MeshLayout()) if jax.device_count() > 1 else MeshLayout())
    metadata = read_metadata(checkpoint)
    if metadata.base is None:
        params = known[checkpoint] = restore_params(checkpoint, fresh, ours)
    else:
        base = _base(run, arguments['initial_checkpoint'], fresh, ours, model.trainable, known)
        part, frozen = selection.split(base)
        if fingerprint(frozen) != metadata.base:
            raise UserError(
                f'{model_dir} was trained on top of the base {metadata.base}, '
                f'but {arguments["initial_checkpoint"]} now holds {fingerprint(frozen)}.'
            )
        frozen = quantize_base(arguments.get('base_weights', 'stored'), part, frozen)
        params = join(restore_params(checkpoint, part, ours), frozen)
    trained = TrainedModel(model, params, data, config, predictor, sampler, checkpoint, arguments, trust)
    steering = getattr(sampler, 'steering', None)
    return _steered(trained, steering, known, trust_modules) if steering is not None and steering.is_on else trained


def _steered(
    model: TrainedModel, steering: Steering, known: dict[Path, Any], trust_modules: Sequence[str] | None
) -> TrainedModel:
    """Return a model that those of a `Steering` steer; the arguments are those of `load_with`."""
    others: dict[str, TrainedModel | None] = {}
    for macro, directory in (('STEER_EXPERT', steering.expert), ('STEER_ANTI_EXPERT', steering.anti_expert)):
        with located(f'{macro} = {directory!r}'):
            others[macro] = None if directory is None else load_with(directory, [], (), known, trust_modules)
    return steer(model, others['STEER_EXPERT'], others['STEER_ANTI_EXPERT'], steering.strength, steering.top_p)


def _base(
    run: RunDirectory,
    path: str | None,
    fresh: Any,
    ours: CheckpointMetadata,
    may_be_new: tuple[str, ...],
    known: dict[Path, Any],
) -> Any:
    """Return the parameters of an adapter's base; see `restore_params` for the arguments after `run`.

    Args:
      run: run of the adapter, for the message.
      known: parameters of checkpoints by path, which are used and added to.
    """
    try:
        checkpoint = find_checkpoint(path)
    except UserError:
        where = '' if path is None or Path(path).is_absolute() else f' in {Path.cwd()}'
        raise UserError(
            f'{run} holds the trained part of a model; the rest is its base, but {path!r}{where} is not a checkpoint '
            'nor a MODEL_DIR that holds one. Name the directory where the base is now: '
            '--gin.INITIAL_CHECKPOINT_PATH=... (in Python: INITIAL_CHECKPOINT_PATH=...).'
        ) from None
    if checkpoint in known and 'head' not in known[checkpoint]:
        return merge_matching(fresh, known[checkpoint])
    known[checkpoint] = restore_params(checkpoint, fresh, ours, may_be_new)
    return known[checkpoint]


def _in_place(model: AdaptedModel, layout: MeshLayout) -> Any:
    """Initial parameters, split over the devices as in the run."""
    mesh = layout.mesh()
    boxed = jax.eval_shape(lambda rng: init_params(model, rng), jax.random.key(0))
    layout.check(boxed, dict(mesh.shape))
    init = jax.jit(lambda rng: unbox(init_params(model, rng)), out_shardings=layout.shardings(boxed, mesh))
    return init(jax.random.key(0))
