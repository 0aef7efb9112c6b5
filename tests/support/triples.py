"""Triples beside the rows of a batch, for tests of losses that read them."""

import numpy as np

K, LENGTH, RELATIONS = 2, 6, 4


def triple_features(rows):
    """Features of random triples: names of two to six tokens, and four relations."""
    rng = np.random.default_rng(4)
    tokens = rng.integers(3, 60, (rows, K, 3, LENGTH)).astype(np.int32)
    tokens[..., 0] = 0
    segments = (np.arange(LENGTH) < rng.integers(2, LENGTH + 1, (rows, K, 3))[..., None]).astype(np.int32)
    return {
        'triple_tokens': tokens * segments,
        'triple_segment_ids': segments,
        'triple_relations': rng.integers(0, RELATIONS, (rows, K)).astype(np.int32),
        'triple_corrupts_tail': rng.integers(0, 2, (rows, K)).astype(np.int32),
    }
