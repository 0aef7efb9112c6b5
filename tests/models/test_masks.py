"""The attention mask against its rules, query by query and key by key."""

import itertools

import numpy as np
import pytest

from palm_jax.models.masks import Mask

LENGTH = 7
SEGMENTS = np.array([[1, 1, 1, 2, 2, 2, 0], [1, 1, 1, 1, 1, 1, 1]])
PREFIX = np.array([[1, 1, 0, 1, 0, 0, 0], [1, 1, 1, 1, 0, 0, 0]])


def by_rules(segments, prefix, window, num_prefix):
    """[B, L, P + L]"""
    allowed = np.zeros((2, LENGTH, LENGTH), bool)
    for b, query, key in itertools.product(range(2), range(LENGTH), range(LENGTH)):
        seen = key <= query or (prefix is not None and prefix[b, query] and prefix[b, key])
        seen = seen and (segments is None or segments[b, query] == segments[b, key])
        allowed[b, query, key] = seen and (window is None or abs(query - key) < window)
    return np.concatenate([np.ones((2, LENGTH, num_prefix), bool), allowed], axis=2)


@pytest.mark.parametrize('segments', [None, SEGMENTS])
@pytest.mark.parametrize('prefix', [None, PREFIX])
@pytest.mark.parametrize('window', [None, 1, 3])
@pytest.mark.parametrize('num_prefix', [0, 2])
def test_all_rules_apply_together(segments, prefix, window, num_prefix):
    mask = Mask(segments, prefix, window=window, num_prefix=num_prefix)
    expected = by_rules(segments, prefix, window, num_prefix)
    whole = np.broadcast_to(mask.allowed(LENGTH + num_prefix), expected.shape)
    np.testing.assert_array_equal(whole, expected)
    some = np.broadcast_to(mask.allowed(LENGTH + num_prefix, 2, 5), expected[:, 2:5].shape)
    np.testing.assert_array_equal(some, expected[:, 2:5])
    assert mask.only_causal == (segments is None and prefix is None and window is None and num_prefix == 0)
    assert not expected[:, :5, mask.keys_needed(5, LENGTH + num_prefix) :].any()


def test_queries_in_a_cache_are_where_their_positions_say():
    positions = np.array([[4], [2]])
    allowed = np.asarray(Mask(query_positions=positions).allowed(LENGTH))
    np.testing.assert_array_equal(allowed, np.arange(LENGTH) <= positions[:, :, None])
