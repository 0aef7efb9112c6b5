"""Samples inside a step of training: those of the project's decoding, in the place of the last learned turn."""

import jax
import numpy as np
import pytest

from palm_jax.inference.generate import Sampler
from palm_jax.inference.rollout import Rollout
from palm_jax.special_ids import EOS_ID
from tests.support.models import shaken

L = 12
# Weights of the targets: an input with a target, a dialogue with two replies, no target, plain text.
WEIGHTS = np.array([[0] * 4 + [1] * 5 + [0] * 3, [0, 0, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0], [0] * L, [1] * L], np.int32)
STARTS = (4, 6, None, 0)


class Ids:
    """A vocabulary in which a text is its ids."""

    def decode(self, ids):
        return ' '.join(map(str, ids))


@pytest.fixture(scope='module')
def batch():
    tokens = np.random.default_rng(1).integers(3, 61, (4, L)).astype(np.int32)
    inputs = np.pad(tokens, [(0, 0), (1, 0)])[:, :-1]
    return {'decoder_input_tokens': inputs, 'decoder_target_tokens': tokens, 'decoder_loss_weights': WEIGHTS}


def rolled(model, params, batch, **options):
    features = jax.tree.map(jax.numpy.asarray, batch)
    return jax.device_get(jax.jit(lambda: Rollout(**options)(model, params, features, jax.random.key(2)))())


@pytest.mark.parametrize('bidirectional', [False, True])
def test_greedy_samples_are_those_of_generation(micro, batch, bidirectional):
    model, params = micro()
    params = shaken(params)
    if bidirectional:
        batch = batch | {'decoder_causal_attention': (np.cumsum(WEIGHTS, axis=1) == 0).astype(np.int32)}
    result = rolled(model, params, batch, max_tokens=6, temperature=0.0)
    for row, start in enumerate(STARTS):
        if start is None:
            assert not result['decoder_loss_weights'][row].any()
            continue
        prompt = batch['decoder_input_tokens'][row, : start + 1].tolist()
        sampler = Sampler(max_tokens=min(6, L - start), temperature=0.0)
        ((best,),) = sampler.generate(model, params, Ids(), [prompt], L + 1, bidirectional)
        ids = [*best.ids, *[EOS_ID] * (best.finish_reason == 'stop')]
        end = start + len(ids)
        assert result['decoder_target_tokens'][row, start:end].tolist() == ids
        assert np.flatnonzero(result['decoder_loss_weights'][row]).tolist() == list(range(start, end))
        assert not result['decoder_target_tokens'][row, end:].any()
        inputs = [*prompt, *ids[:-1]]
        assert result['decoder_input_tokens'][row, : len(inputs)].tolist() == inputs
        assert not result['decoder_input_tokens'][row, len(inputs) + 1 :].any()


def test_samples_end_at_eos_and_follow_the_models_probabilities(micro):
    model, params = micro(vocab_size=4, num_layers=1)
    params = shaken(params)
    rows = 600
    batch = {
        'decoder_input_tokens': np.zeros((rows, 3), np.int32),
        'decoder_target_tokens': np.full((rows, 3), 3, np.int32),
        'decoder_loss_weights': np.ones((rows, 3), np.int32),
    }
    result = rolled(model, params, batch, max_tokens=3, temperature=0.7)
    logits = np.float64(model.apply({'params': params}, batch['decoder_input_tokens'][:1, :1]))[0, 0] / 0.7
    p = np.exp(logits[1:]) / np.exp(logits[1:]).sum()  # padding is not a token
    share = np.bincount(result['decoder_target_tokens'][:, 0], minlength=4)[1:] / rows
    np.testing.assert_allclose(share, p, atol=4 * np.sqrt(0.25 / rows))
    ended = result['decoder_target_tokens'][:, 0] == EOS_ID
    assert ended.any() and (result['decoder_loss_weights'][ended].sum(axis=1) == 1).all()
    assert len({tuple(row) for row in result['decoder_target_tokens'].tolist()}) > 5
