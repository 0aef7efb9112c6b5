"""Batches with rules about labels, and all labels that rows of them can have, for tests of what rules do."""

import itertools

import numpy as np

from tests.support.wrapped import C, L, features

STRENGTH = 1.5


def ruled(kind, rows=4):
    """The batch of `features`, with random penalties of which a third are 0; each row can keep all rules."""
    rng, batch = np.random.default_rng(5), features(kind, rows)

    def penalties(*shape):
        return (rng.exponential(size=shape) * (rng.random(shape) < 2 / 3)).astype(np.float32)

    if kind == 'tokens':
        words = (rng.random((rows, L)) < 0.4).astype(np.int32)
        words[:, 0], words[-1] = 1, 0
        words[-1, 4] = 1  # a single word
        of_words = penalties(rows, L, C)
        transitions = np.tile(penalties(C + 1, C), (rows, 1, 1))
        of_words[..., 1] = transitions[:, :, 1] = 0
        weights = batch['label_weights'] * words
        return batch | {
            'label_weights': weights,
            'rule_words': words,
            'rule_penalties': of_words,
            'rule_transitions': transitions,
        }
    if kind == 'labels':
        found = penalties(rows, 4)
        found[:, 2] = 0
        return batch | {'rule_penalties': found, 'rule_labels': np.tile(np.int32([0, 2]), (rows, 1))}
    found = penalties(rows, C)
    found[:, 1] = 0
    return batch | {'rule_penalties': found}


def every_state(kind, batch, row):
    """Yield (labels, penalty) of everything that a row's labels can be."""
    penalties = batch.get('rule_penalties')
    if kind == 'tokens':
        places, transitions = np.flatnonzero(batch['rule_words'][row]), batch['rule_transitions'][row]
        for tags in itertools.product(range(C), repeat=len(places)):
            pairs = zip((C, *tags), tags, strict=False)
            words = sum(penalties[row, at, tag] for at, tag in zip(places, tags, strict=True))
            yield tags, words + sum(transitions[pair] for pair in pairs)
    elif kind == 'labels':
        for has in itertools.product((0, 1), repeat=C):
            yield has, penalties[row, has[0] + 2 * has[2]]
    else:
        yield from (((c,), penalties[row, c]) for c in range(C))


def probability(kind, scores, batch, row, labels):
    """p(labels) of a row in NumPy, from the scores of all rows."""
    scores = np.float64(scores[row])
    if kind == 'labels':
        return np.prod(1 / (1 + np.exp(np.where(labels, -1, 1) * scores)))
    at = np.flatnonzero(batch['rule_words'][row]) if kind == 'tokens' else [()]
    chosen = [np.exp(scores[i] - np.log(np.exp(scores[i]).sum())) for i in at]
    return np.prod([p[c] for p, c in zip(chosen, labels, strict=True)])
