"""Completions that share a prompt have the likelihoods that they have alone."""

import numpy as np
import pytest

from palm_jax.inference import scoring
from palm_jax.inference.decoding import unstack_layers
from palm_jax.inference.scoring import likelihoods
from tests.support.models import applied
from tests.support.slots import adapted

PROMPTS = [[0, 5, 9, 4, 7, 8, 6, 3, 11], [0, 30, 31, 32, 33, 34, 35, 36], [0]]
CHOICES = [[4], [5, 6, 7], [8, 3, 10, 12, 9], []]
CHANGES = [{}, {'num_kv_heads': 2, 'window': 5, 'global_layers': (1,), 'shared_embedding': False}]


def every_pair(prompts, choices):
    return [(prompt, choice) for choice in choices for prompt in prompts]


def numbers(found):
    return [x for likelihood in found for x in likelihood.logprobs]


def alone(model, params, pairs):
    return [likelihoods(model, params, [pair], 32)[0] for pair in pairs]


def check(model, params, pairs=None, **options):
    pairs = every_pair(PROMPTS, CHOICES) if pairs is None else pairs
    found, expected = likelihoods(model, params, pairs, 32, **options), alone(model, params, pairs)
    assert [len(x.logprobs) for x in found] == [len(completion) for _, completion in pairs]
    np.testing.assert_allclose(numbers(found), numbers(expected), atol=2e-5)
    assert [x.is_greedy for x in found] == [x.is_greedy for x in expected]


@pytest.mark.parametrize('changes', CHANGES, ids=str)
@pytest.mark.parametrize('stacked', [True, False])
def test_choices_of_a_question_equal_each_alone(micro, changes, stacked):
    model, params = micro(**changes)
    check(*((model, params) if stacked else unstack_layers(model, params)), batch_size=2)


def test_with_every_kind_of_method(micro):
    """A soft prompt and a prefix are in the cache before the text."""
    check(*adapted(micro()[0]))


def test_against_the_logits_of_the_whole_text(micro):
    model, params = micro()
    found = likelihoods(model, params, every_pair(PROMPTS[:1], CHOICES[:3]), 32)
    for completion, likelihood in zip(CHOICES, found, strict=False):
        ids = np.array([*PROMPTS[0], *completion])
        logits = np.asarray(applied(model, params, ids[None, :-1]), np.float64)[0]
        logprobs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
        expected = [logprobs[t - 1, ids[t]] for t in range(len(PROMPTS[0]), len(ids))]
        np.testing.assert_allclose(likelihood.logprobs, expected, atol=2e-5)


def test_a_prompt_is_read_once_where_that_saves_half(monkeypatch, micro):
    model, params = micro()
    read, read_once = [], scoring._read
    monkeypatch.setattr(scoring, '_read', lambda *args: read.append(args[2].shape) or read_once(*args))
    likelihoods(model, params, [([0, 5, 9, 4], [3]), ([0, 5, 9, 5], [3])], 32)
    assert not read  # other prompts
    likelihoods(model, params, [([0, 5, 9, 4], [3]), ([0, 5, 9, 4], [6])], 4)
    assert not read  # too long: the beginning is left out of the pairs
    pairs = [(PROMPTS[0], [i]) for i in range(3, 9)]
    likelihoods(model, params, pairs, 32)
    assert read == [(1, 16)]
    shared, rest = scoring._by_prompt([*pairs, ([0, 7], [8])], 32)
    assert shared == {tuple(PROMPTS[0]): [0, 1, 2, 3, 4, 5]} and rest == [6]
