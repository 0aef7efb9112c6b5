"""What is explained of models with a head: labels of texts, tags of words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from palm_jax.explanations.explainable import Explainable, HeadOutput
from palm_jax.explanations.words import Word, words_of
from palm_jax.labels.label_kind import LabelKind, Margin
from palm_jax.metrics import entities


def of_labels(
    kind: LabelKind,
    data: Any,
    features: Mapping[str, np.ndarray],
    scores: Sequence[np.ndarray],
    labels: Sequence[str | None],
) -> list[Explainable]:
    """Return the margin of one label of each of E texts or pairs of texts.

    Args:
      kind: kind of label.
      data: data of the run: `vocabulary`, `labels`.
      features: arrays [E, L] by name.
      scores: scores [S] of each.
      labels: label to explain for each; None is the predicted one.
    """
    rows = []
    for number, (scores_S, label) in enumerate(zip(scores, labels, strict=True)):
        ids, num_bidirectional = _row(features, number)
        margin = kind.margin(scores_S, data.labels, label)
        output = HeadOutput((margin,))
        is_one_of = kind.is_exclusive and len(margin.against) + 1 == len(data.labels) > 1
        known = tuple(data.labels) if is_one_of else ()
        rows.append(Explainable(ids, words_of(ids, data.vocabulary), margin.label, output, num_bidirectional, known))
    return rows


def of_tags(
    data: Any,
    words: Sequence[Sequence[str]],
    features: Mapping[str, np.ndarray],
    ends: Sequence[Sequence[int]],
    scores: Sequence[np.ndarray],
    types: Sequence[str | None],
) -> list[list[Explainable]]:
    """Return the entities found in each of E sentences: the sum of the log-odds of the tags of each one's words.

    Args:
      data: data of the run: `labels`, `separator`.
      words: words of each sentence.
      features: arrays [E, L] by name.
      ends: position of the last token of each word that fits.
      scores: scores [L, C] of each.
      types: type of the entities to explain in each sentence; None is every type.
    """
    rows = []
    for number, (scores_LC, positions) in enumerate(zip(scores, ends, strict=True)):
        ids, num_bidirectional = _row(features, number)
        best = scores_LC[list(positions)].argmax(axis=-1) if positions else np.zeros(0, int)
        starts = [1, *(end + 1 for end in positions[:-1])]
        of_row = tuple(
            Word(word, tuple(range(start, end + 1)))
            for word, start, end in zip(words[number], starts, positions, strict=False)
        )
        found = []
        for entity in entities.decode([data.labels[i] for i in best]):
            inside = range(entity.first, entity.last)
            if types[number] in (None, entity.type):
                margins = tuple(_margin_of_tag(data.labels, int(best[i])) for i in inside)
                name = f'{entity.type}: {data.separator.join(words[number][i] for i in inside)}'
                output = HeadOutput(margins, tuple(positions[i] for i in inside))
                found.append(Explainable(ids, of_row, name, output, num_bidirectional, tuple(data.labels)))
        rows.append(found)
    return rows


def _margin_of_tag(names: Sequence[str], tag: int) -> Margin:
    return Margin(names[tag], tag, tuple(j for j in range(len(names)) if j != tag))


def _row(features: Mapping[str, np.ndarray], number: int) -> tuple[tuple[int, ...], int]:
    """Return the ids of a row without padding, and how many of them attend in both directions."""
    length = int((features['decoder_segment_ids'][number] > 0).sum())
    ids = tuple(features['decoder_input_tokens'][number, :length].tolist())
    return ids, length if 'decoder_causal_attention' in features else 0
