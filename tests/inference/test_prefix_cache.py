"""Beginnings of prompts that are read once: what is written after them is what would have been written anyway."""

import functools
import random

import jax
import numpy as np
import pytest

from palm_jax.inference import decoding, slots
from palm_jax.inference.prefix_cache import PrefixCache
from palm_jax.inference.slots import Slots
from tests.support.slots import adapted, written
from tests.support.vocabularies import Numbers

LENGTH, BLOCK = 64, 4
SHARED = tuple([0, *(5 + (7 * i) % 50 for i in range(20))])  # five blocks and a token
ARRIVALS = (  # prompts that arrive together, and how many of their tokens are known then
    ([(*SHARED, 9, 8)], [0]),
    ([(*SHARED, 30), (0, 4, 4), (*SHARED, 31, 9, 7, 7)], [20, 0, 20]),
    ([SHARED[:20]], [16]),  # at least the last token is read
    ([SHARED[::-1], SHARED[::-1], (*SHARED[::-1][:13], 9)], [0, 20, 12]),  # what they share is read with the first
)
CASES = {
    'int8 weights': (lambda micro: micro(), 'int8'),
    'windows': (lambda micro: micro(window=6, global_layers=(1,), num_kv_heads=2), 'stored'),
    'methods': (lambda micro: adapted(micro()[0]), 'stored'),
}


@pytest.mark.parametrize(
    'case', [pytest.param(case, marks=pytest.mark.slow) if case == 'int8 weights' else case for case in CASES]
)
def test_answers_are_those_without_it(micro, case, monkeypatch):
    monkeypatch.setattr(slots, 'PrefixCache', functools.partial(PrefixCache, block=BLOCK))
    build, weights = CASES[case]
    model, params = decoding.unstack_layers(*build(micro), weights)
    plain, keeping = (Slots(model, params, Numbers(), LENGTH, False, 4) for _ in range(2))
    plain.keep_prefixes(0)
    keeping.keep_prefixes(1 << 20)
    assert plain.prefixes is None
    for prompts, known in ARRIVALS:
        (expected, none), (answers, found) = written(plain, prompts), written(keeping, prompts)
        assert found == known and not any(none)
        for one, other in zip(answers, expected, strict=True):
            assert [token.id for token in one] == [token.id for token in other]
            np.testing.assert_allclose([t.logprob for t in one], [t.logprob for t in other], atol=2e-5)
    assert keeping.prefixes.num_tokens == 20 + 4 + 20


def test_prompts_that_are_read_in_both_directions_are_read_whole(micro):
    model, params = decoding.unstack_layers(*micro())
    prefix_lm = Slots(model, params, Numbers(), LENGTH, True, 2)
    prefix_lm.keep_prefixes(1 << 20)
    assert prefix_lm.prefixes is None


def test_a_failed_batch_forgets_what_was_kept(micro, monkeypatch):
    monkeypatch.setattr(slots, 'PrefixCache', functools.partial(PrefixCache, block=BLOCK))
    found = Slots(*decoding.unstack_layers(*micro()), Numbers(), LENGTH, False, 4)
    found.keep_prefixes(1 << 20)
    expected, _ = written(found, [SHARED])
    decode = decoding.decode

    def failing(*arguments, **options):
        monkeypatch.setattr(decoding, 'decode', decode)
        raise RuntimeError('out of memory')

    monkeypatch.setattr(decoding, 'decode', failing)
    written(found, [SHARED])
    assert found.prefixes.num_tokens == 0
    assert written(found, [SHARED]) == (expected, [0])


def keys_of(prompt):
    """Values that differ wherever the tokens up to there do, as keys and values of a layer, [M, G, K]."""
    sums = np.cumsum([(token + 1) * 3**position for position, token in enumerate(prompt)], dtype=np.float64)
    return np.float32(sums % 9973)[:, None, None]


@pytest.mark.parametrize('start', [0, 2])  # slots before the first token
def test_the_least_recently_used_is_forgotten(start):
    dice, width, most = random.Random(start), 12, 20
    kept = PrefixCache(1 << 20, max_tokens=most, block=2)
    first = np.full((start, 1, 1), -1, np.float32)
    num_known = 0
    for _ in range(150):
        prompts = [tuple(dice.choices(range(2), k=dice.randint(1, width))) for _ in range(dice.randint(1, 2))]
        found = kept.match(prompts, 2, width)
        for row, prompt in enumerate(prompts if found is not None else ()):
            length = int(found.length[row])
            assert length < len(prompt) and length % 2 == 0 and len(prompt) - length <= found.num_new
            whole = np.concatenate([first, keys_of(prompt)])
            np.testing.assert_array_equal(found.cache['k'][row, : start + length], whole[: start + length])
            num_known += length
        read = np.zeros((2, start + width, 1, 1), np.float32)
        for row, prompt in enumerate(prompts):
            read[row, : start + len(prompt)] = np.concatenate([first, keys_of(prompt)])
        kept.add(prompts, {'k': jax.numpy.asarray(read)}, width)
        again = kept.match(prompts[-1:], 2, width)
        if len(prompts) == 1 or len(prompts[0]) + len(prompts[1]) <= most:
            assert (0 if again is None else int(again.length[0])) == (len(prompts[-1]) - 1) // 2 * 2
        assert kept.num_tokens <= most
    assert num_known > 200 and kept.num_tokens == most
    small = PrefixCache(3, max_tokens=most, block=2)  # bytes, less than a block has
    small.add([(0, 1, 0)], {'k': jax.numpy.asarray(read)}, width)
    assert small.num_tokens == 0 and small.match([(0, 1, 0)], 2, width) is None
