"""How well a model predicts held-out triples: hits@k and MRR over all entities."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from typing import Annotated, Any

import jax
import numpy as np

from palm_jax.bounds import AtLeast, checked
from palm_jax.metrics import link_prediction
from palm_jax.partitioning import shard_batch
from palm_jax.reports.extended import ExtendedReporter
from palm_jax.reports.report import Measurements
from palm_jax.training.loss_wrappers.transe import Norm, distance, entity_vectors
from palm_jax.training.result import EvaluationInput


@checked
@dataclasses.dataclass(frozen=True)
class LinkPrediction(ExtendedReporter):
    """The report of a task, with the ranks of the right entities of held-out triples by TransE's distance.

    Of every held-out triple, the tail is predicted from head and relation, and the head from relation and tail, among
    all entities; other right answers, of either split, are left out of the ranking.

    Attributes:
      reporter: reporter of the task.
      norm: 1 or 2, the norm of the distance.
      max_triples: number of held-out triples that are ranked, from the first.
    """

    norm: Norm = 2
    max_triples: Annotated[int, AtLeast(1)] = 1000

    def metric_names(self, data: Any) -> Collection[str] | None:
        """Return the names of the task's metrics, hits@k and MRR."""
        names = self.reporter.metric_names(data)
        return None if names is None else [*names, *link_prediction.scores([])]

    def measure(self, inputs: EvaluationInput) -> Measurements:
        """Measure the task, and rank the entities of held-out triples."""
        measured = self.reporter.measure(inputs)
        if 'relations' not in inputs.params:
            return measured
        ranks = self.ranks(inputs)
        sides = {side: link_prediction.scores(of_side) for side, of_side in ranks.items()}
        both = link_prediction.scores([rank for of_side in ranks.values() for rank in of_side])
        chance = link_prediction.by_chance(len(inputs.data.entities))
        rows = [('both', both), *sides.items(), ('by chance', chance)]
        header = ('predicted', *(name.replace('_at_', '@') for name in both))
        table = [header, *((name, *(f'{value:.4f}' for value in values.values())) for name, values in rows)]
        count, entities = len(ranks['tail']), len(inputs.data.entities)
        line = ', '.join(
            f'{name.replace("_at_", "@")} {value:.4f} (by chance {chance[name]:.4f})' for name, value in both.items()
        )
        details = {'held_out_triples': count, 'entities': entities, **sides, 'by_chance': chance}
        return dataclasses.replace(
            measured,
            metrics={**measured.metrics, **both},
            details={**measured.details, 'link_prediction': details},
            lines=[*measured.lines, f'{"held-out triples":<16} {line}; {count:,} triples, {entities:,} entities'],
            tables={**measured.tables, 'Held-out triples': table},
        )

    def ranks(self, inputs: EvaluationInput) -> dict[str, list[float]]:
        """Return the ranks of the right tails and of the right heads of the held-out triples."""
        data, vectors_ED = inputs.data, self._vectors(inputs)
        relations_RD = np.asarray(jax.device_get(inputs.params['relations']['embedding']), np.float32)
        tails, heads = data.known_answers()
        found: dict[str, list[float]] = {'tail': [], 'head': []}
        of = jax.jit(distance, static_argnums=3)
        for head, relation, tail in data.facts('validation')[: self.max_triples]:
            r_D = relations_RD[relation]
            for side, right, others, to_all in (
                ('tail', tail, tails[head, relation], of(vectors_ED[head], r_D, vectors_ED, self.norm)),
                ('head', head, heads[relation, tail], of(vectors_ED, r_D, vectors_ED[tail], self.norm)),
            ):
                found[side].append(link_prediction.rank(np.asarray(to_all), right, others))
        return found

    def _vectors(self, inputs: EvaluationInput) -> np.ndarray:
        """The vectors of all entities, float32 [E, D]."""
        data, size = inputs.data, inputs.batch_size
        count = len(data.entities)
        embed = jax.jit(lambda params, batch: entity_vectors(inputs.model, params, batch))
        parts = []
        for first in range(0, count, size):
            names = data.names(min(i, count - 1) for i in range(first, first + size))
            parts.append(np.asarray(jax.device_get(embed(inputs.params, shard_batch(names, inputs.mesh)))))
        return np.concatenate(parts)[:count]
