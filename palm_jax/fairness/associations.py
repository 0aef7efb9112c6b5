"""Which words a language model associates with which group: likelihoods of texts that differ only in the group.

Of a word w that groups share, such as an occupation, the association with a group g is the mean log-likelihood of the
texts with w and g, relative to the other words and groups: L(w, g) − L(w, ·) − L(·, g) + L(·, ·). It is 0 if the group
changes the likelihood of all words alike, as a frequent name does.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from palm_jax.fairness.templates import Filled


@dataclasses.dataclass(frozen=True)
class Association:
    """The association of a shared word with the groups.

    Attributes:
      slot: slot of the word.
      word: the word.
      by_group: association with each group in nats; they sum to 0.
    """

    slot: str
    word: str
    by_group: Mapping[str, float]

    @property
    def spread(self) -> float:
        """Difference of the groups that are farthest apart, in nats."""
        return max(self.by_group.values()) - min(self.by_group.values())


@dataclasses.dataclass(frozen=True)
class Associations:
    """What was found about a set of templates.

    Attributes:
      name: name of the set.
      counts: number of texts by group.
      means: mean log-likelihood by group, in nats; the mean over contexts of the mean over their texts.
      words: associations of the shared words, the strongest first.
    """

    name: str
    counts: Mapping[str, int]
    means: Mapping[str, float]
    words: tuple[Association, ...]


def associate(name: str, filled: Sequence[Filled], log_likelihoods: Sequence[float]) -> Associations:
    """Return the associations of the shared words with the groups.

    Args:
      name: name of the set.
      filled: texts of the set.
      log_likelihoods: log-likelihood of each text, in nats.
    """
    groups = list(dict.fromkeys(text.group for text in filled))
    of_group = np.array([text.group for text in filled])
    of_context, values = np.array([text.context for text in filled]), np.asarray(log_likelihoods, float)

    def mean(chosen: np.ndarray) -> float:
        contexts = np.unique(of_context[chosen])
        return float(np.mean([values[chosen & (of_context == context)].mean() for context in contexts]))

    found = []
    for slot in dict.fromkeys(slot for text in filled for slot, _ in text.shared):
        of_slot = np.array([dict(text.shared).get(slot, '') for text in filled])
        words = [word for word in dict.fromkeys(of_slot.tolist()) if word]
        table_WG = np.array([[mean((of_slot == w) & (of_group == g)) for g in groups] for w in words])
        centred = table_WG - table_WG.mean(0) - table_WG.mean(1, keepdims=True) + table_WG.mean()
        found += [
            Association(slot, word, dict(zip(groups, row.tolist(), strict=True)))
            for word, row in zip(words, centred, strict=True)
        ]
    means = {group: mean(of_group == group) for group in groups}
    counts = {group: int((of_group == group).sum()) for group in groups}
    return Associations(name, counts, means, tuple(sorted(found, key=lambda word: -word.spread)))
