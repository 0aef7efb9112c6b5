"""What the tasks of `palm-jax continue` are checked, trained and measured with."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax

from palm_jax.api import evaluation, fisher, loading, training
from palm_jax.api.trained_model import TrainedModel
from palm_jax.checkpoint_metadata import CheckpointMetadata, read_metadata
from palm_jax.configuration.flags import gin_flags
from palm_jax.configuration.load import Configuration, load
from palm_jax.errors import UserError
from palm_jax.inference.generate import Sampler
from palm_jax.partitioning import MeshLayout
from palm_jax.peft.method import AdaptedModel, Method
from palm_jax.peft.trainable import Trainable
from palm_jax.predictors.language_model_predictor import LanguageModelPredictor
from palm_jax.run_directory import RunDirectory, find_checkpoint
from palm_jax.studies.continual import FisherSettings, Flags, TaskRead
from palm_jax.training import fisher as fisher_files
from palm_jax.training.batch_sizes import BatchSizes
from palm_jax.training.checks import check_run
from palm_jax.training.setup import Setup, adapt_from_arguments

_ROOT = 'loop.train'


class Tools:
    """Implements `studies.continual.Tools`; reads every configuration once."""

    def __init__(self) -> None:
        self._built: dict[tuple[str, ...], tuple[Configuration, dict[str, Any]]] = {}

    def read(self, flags: Flags) -> TaskRead:
        """Build what a task's run is made of, and read its data.

        Raises:
          UserError: the run could not begin, or the next one could not begin from its result.
        """
        configuration, arguments = self._build(flags)
        model, data, path = arguments['model'], arguments['data'], arguments.get('initial_checkpoint')
        adapted, _, setup = _set_up(arguments)
        try:
            find_checkpoint(path)
            for wrapper in arguments.get('loss_wrappers', ()):
                wrapper.check(adapted)
            data.describe()
            sizes, devices = BatchSizes.of(arguments['batch_size']), setup.plan.axis_sizes['data']
            microbatches, schedule = arguments.get('microbatches', 1), setup.plan.layout.schedule
            check_run(model, data, sizes, devices, microbatches, arguments['reporter'], schedule)
        except UserError as error:
            raise UserError(configuration.located(str(error))) from None
        if unmerged := [m for m in arguments.get('methods', ()) if type(m).merge is Method.merge]:
            raise UserError(
                f'{type(unmerged[0]).__name__} cannot be merged into the kernels, and the next task starts from the '
                'merged model. Take --gin_file=gin/peft/lora.gin or full.gin.'
            )
        head = 'no head' if model.head is None else f'a head with {getattr(model.head, "pooling", "no")} pooling'
        bound = configuration.effective
        labels = bound['LABELS'].value if 'LABELS' in bound else None
        form, files = f'{head} and {type(arguments["loss"]).__name__}', tuple(data.train_files)
        return TaskRead(tuple(data.labels), form, files, labels is not None)

    def train(self, gin_files: Flags, bindings: Sequence[tuple[str, str]], command: str) -> int:
        """Train or continue a run, and forget its compiled programs; see `api.training.train`."""
        try:
            return training.train(gin_files, bindings, command, is_part=True)
        finally:
            jax.clear_caches()

    def evaluate(self, model_dir: Path | None, tasks: Sequence[Flags]) -> list[dict[str, float]]:
        """Return the metrics of the held-out part of every task.

        Args:
          model_dir: directory of a run; None is the model of the first task at its start.
          tasks: flags of the tasks.
        """
        model = self._at_start(tasks[0]) if model_dir is None else loading.load_with(model_dir, [], trust_modules=None)
        found = []
        for flags in tasks:
            configuration, arguments = self._build(flags)
            predictor = configuration.arguments_of('predictor.for_run').get('predictor', LanguageModelPredictor())
            sampler = getattr(arguments['reporter'], 'sampler', None) or Sampler()
            of_task = dataclasses.replace(
                model, data=arguments['data'], run=arguments, predictor=predictor, sampler=sampler
            )
            found.append({n: float(x) for n, x in evaluation.on_held_out(of_task)['metrics'].items()})
        jax.clear_caches()
        return found

    def save_whole(self, model_dir: Path, to: Path) -> Path:
        """Write a run as a base for the next one, unless it is one already; return the directory of the base."""
        model = loading.load_with(model_dir, [], trust_modules=None)
        if not model.model.methods and read_metadata(find_checkpoint(model_dir)).base is None:
            return model_dir
        if not RunDirectory(to).config.is_file():  # which is written last
            shutil.rmtree(to, ignore_errors=True)
            model.save(to)
        return to

    def write_fisher(self, model_dir: Path, output: Path, earlier: Path | None, settings: FisherSettings) -> None:
        """Write the Fisher information of a run, added to that of the earlier tasks."""
        model = loading.load_with(model_dir, [], trust_modules=None)
        found, _ = fisher.of_run(model, settings.rows, settings.targets, settings.seed)
        if earlier is not None:
            found = found.after(fisher_files.read(str(earlier)), settings.decay)
        found.write(output)

    def _build(self, flags: Flags) -> tuple[Configuration, dict[str, Any]]:
        key = tuple(flags)
        if key not in self._built:
            configuration = load(_ROOT, *gin_flags(flags))
            self._built[key] = configuration, configuration.build(_ROOT)
        return self._built[key]

    def _at_start(self, flags: Flags) -> TrainedModel:
        """The model with which a run begins."""
        _, arguments = self._build(flags)
        data, layout = arguments['data'], arguments.get('layout', MeshLayout())
        adapted, mesh, setup = _set_up(arguments)
        metadata = CheckpointMetadata.of_model(adapted.arch, data.vocabulary.fingerprint, data.labels)
        with layout.on(mesh):
            state, _ = setup.begin(mesh, arguments.get('seed', 0), arguments.get('initial_checkpoint'), metadata)
        return TrainedModel(adapted, state.all_params, data, Path(), checkpoint=Path('0'), run=arguments)


def _set_up(arguments: dict[str, Any]) -> tuple[AdaptedModel, Any, Setup]:
    """The adapted model of a run, its mesh and its setup."""
    layout = arguments.get('layout', MeshLayout())
    found: tuple[AdaptedModel, Trainable] = adapt_from_arguments(arguments)
    mesh, length = layout.mesh(), arguments['data'].length
    sizes = mesh.size, arguments['batch_size'], length, arguments['total_steps']
    base_weights, wrappers = arguments.get('base_weights', 'stored'), arguments.get('loss_wrappers', ())
    return found[0], mesh, Setup.of(*found, arguments['optimizer'], layout, *sizes, base_weights, wrappers)
