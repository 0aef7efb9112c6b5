"""Ensembles and merged models: several models that were fine-tuned from one base, as one."""

from __future__ import annotations

import dataclasses
import logging
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from palm_jax.api import evaluation
from palm_jax.api.loading import load_with
from palm_jax.api.trained_model import TrainedModel
from palm_jax.checkpoint_metadata import CheckpointMetadata
from palm_jax.errors import UserError, closest
from palm_jax.fusion.merging import Merge
from palm_jax.parameters import leaves_by_path
from palm_jax.predictors.label_predictor import LabelPredictor
from palm_jax.run_directory import find_checkpoint
from palm_jax.training.best import is_smaller_better
from palm_jax.training.initial_parameters import restore_params
from palm_jax.training.result import Scored

_LOGGER = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A model that is compared.

    Attributes:
      name: name for the table.
      metrics: metrics on the held-out part.
      seconds: duration of the evaluation, after a first one that compiles.
      cost: forward passes for an answer.
    """

    name: str
    metrics: dict[str, float]
    seconds: float
    cost: int = 1


@dataclasses.dataclass(frozen=True)
class Fusion:
    """Several models from one base, their ensemble, and one model made of their parameters.

    Attributes:
      candidates: members, ensemble (of models that label texts) and merged model, with their metrics.
      members: names of the members that the merged model was made of.
      model: one of the members, whose data and kind of task the merged model has.
      params: parameters of the merged model.
    """

    candidates: list[Candidate]
    members: list[str]
    model: TrainedModel
    params: Any = dataclasses.field(repr=False)

    def save(self, model_dir: str | Path) -> Path:
        """Write the merged model to a new MODEL_DIR; see `TrainedModel.save`."""
        return self.model.save(model_dir, self.params)


def load_members(runs: Sequence[str | Path], trust_modules: Sequence[str] = ()) -> list[TrainedModel]:
    """Load models that can be merged; what they share of their base is loaded once.

    Raises:
      UserError: they have different architectures, vocabularies or labels, or one cannot be merged into its kernels.
    """
    known: dict[Path, Any] = {}
    models = [load_with(run, [], known=known, trust_modules=trust_modules) for run in runs]
    if len(models) < 2:
        raise UserError('Name at least two runs to merge.')
    first = models[0]
    shapes = [{path: leaf.shape for path, leaf in leaves_by_path(model.merged()).items()} for model in models]
    for run, model, of_model in zip(runs, models, shapes, strict=True):
        differ = [
            (model.data.vocabulary.fingerprint != first.data.vocabulary.fingerprint, 'another vocabulary'),
            (model.data.labels != first.data.labels, 'other labels'),
            (_labels_of(model) != _labels_of(first), 'another kind of label'),
            (of_model != shapes[0], 'another architecture'),
        ]
        if found := [what for is_other, what in differ if is_other]:
            raise UserError(f'{run} has {" and ".join(found)} than {runs[0]}; they cannot be merged.')
    return models


def _labels_of(model: TrainedModel) -> Any:
    """Return what the scores of a head that labels texts mean; None for other models."""
    predictor = model.predictor
    return (predictor.label_kind, predictor.reads_pairs(model)) if isinstance(predictor, LabelPredictor) else None


def fuse(names: Sequence[str], models: Sequence[TrainedModel], merge: Merge, greedy: str | None = None) -> Fusion:
    """Merge models, and compare members, ensemble and merged model on the held-out part of the first.

    Args:
      names: name of each model.
      models: models, see `load_members`.
      merge: way to merge.
      greedy: metric by which members are added one after another, the best first, as long as it does not get worse
        (greedy soup of arXiv 2203.05482); None merges all.

    Raises:
      UserError: a model has no base, or there is no such metric.
    """
    members = [dataclasses.replace(_plain(model), data=models[0].data, run=models[0].run) for model in models]
    base = _base(models[0], members[0].params) if merge.needs_base else None
    scores: list[Scored] = []
    candidates = [_measured(name, member, scores) for name, member in zip(names, members, strict=True)]
    chosen = list(range(len(members)))
    if greedy is not None:
        chosen = _greedily(candidates, members, base, merge, greedy)
    params = merge(base, [members[i].params for i in chosen])
    if len(scores) == len(members) and getattr(models[0].run['reporter'], 'kind', None) is not None:
        candidates.append(_ensemble(members[0], scores, candidates))
    merged = dataclasses.replace(members[0], params=params)
    candidates.append(_measured(f'merged: {type(merge).__name__}', merged))
    return Fusion(candidates, [names[i] for i in chosen], models[0], params)


def _plain(model: TrainedModel) -> TrainedModel:
    """Return a model with its methods merged into the kernels."""
    return dataclasses.replace(model, params=model.merged(), model=dataclasses.replace(model.model, methods=()))


def _base(model: TrainedModel, merged: Any) -> Any:
    """Return the parameters of a model's base, without those that the base lacks."""
    path = model.run.get('initial_checkpoint')
    if path is None or model.checkpoint is None or find_checkpoint(path) == find_checkpoint(model.checkpoint):
        raise UserError(
            f'{model.config.parent} has no base that it was fine-tuned from, so that there is no task vector. '
            'Merge with --method=soup, which needs none.'
        )
    missing = tuple(path for path in leaves_by_path(merged) if path.startswith('head/'))
    ours = CheckpointMetadata(model.data.vocabulary.fingerprint)
    whole = restore_params(find_checkpoint(path), merged, ours, missing)
    return {name: branch for name, branch in whole.items() if name != 'head'}


def _measured(name: str, model: TrainedModel, scores: list[Scored] | None = None) -> Candidate:
    start = time.perf_counter()
    found = evaluation.on_held_out(model, None if scores is None else scores.append)
    return Candidate(name, dict(found['metrics']), time.perf_counter() - start)


def _ensemble(model: TrainedModel, scores: Sequence[Scored], candidates: Sequence[Candidate]) -> Candidate:
    """Return the metrics of the mean of the members' predictions."""
    kind = model.run['reporter'].kind
    of_members = [np.stack(scored.scores).astype(np.float64) for scored in scores]
    labels = np.stack(scores[0].labels)
    metrics = kind.evaluate(kind.combine(of_members), labels, model.data.labels).metrics
    seconds = sum(candidate.seconds for candidate in candidates)
    return Candidate('ensemble', dict(metrics), seconds, len(scores))


def _greedily(
    candidates: Sequence[Candidate], members: Sequence[TrainedModel], base: Any, merge: Merge, metric: str
) -> list[int]:
    """Return the numbers of the members of a greedy soup."""
    known = candidates[0].metrics
    if metric not in known:
        raise UserError(f'--greedy={metric}: no such metric.{closest(metric, known)} There are {", ".join(known)}.')
    sign = -1 if is_smaller_better(metric) else 1
    value = lambda candidate: -math.inf if math.isnan(x := candidate.metrics[metric]) else sign * x  # noqa: E731
    order = sorted(range(len(members)), key=lambda i: -value(candidates[i]))
    chosen, best = order[:1], value(candidates[order[0]])
    for i in order[1:]:
        params = merge(base, [members[j].params for j in (*chosen, i)])
        found = value(_measured('', dataclasses.replace(members[0], params=params)))
        is_kept = found >= best
        _LOGGER.info(
            '%s with %s: %.4f, %s', metric, candidates[i].name, sign * found, 'kept' if is_kept else 'left out'
        )
        if is_kept:
            chosen, best = [*chosen, i], found
    return chosen
