"""Sampling: greedy is the argmax, nuclei hold what they should, seeds repeat."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from palm_jax.errors import UserError
from palm_jax.inference.generate import Sampler


class Letters:
    """Token i is chr(i)."""

    def encode(self, text):
        return [ord(c) - 60 for c in text]

    def decode(self, ids):
        return ''.join(chr(i + 60) for i in ids)


def test_greedy_is_the_argmax_a_token_at_a_time(micro):
    model, params = micro()
    prompts = ['ABCDE', 'XY']
    whole = jax.jit(lambda ids: model.apply({'params': params}, ids))
    texts = Sampler(max_tokens=6, temperature=0)(model, params, Letters(), prompts, 16)
    for prompt, text in zip(prompts, texts, strict=True):
        ids = [0, *Letters().encode(prompt)]
        for _ in range(6):
            padded = np.pad(ids, (0, 16 - len(ids)))[None]
            token = int(jnp.argmax(whole(padded)[0, len(ids) - 1]))
            if token == 1:
                break
            ids.append(token)
        assert text == Letters().decode(ids[1 + len(prompt) :])


def test_the_seed_decides_and_batch_mates_do_not_shorten(micro):
    model, params = micro()

    def sample(seed, prompts):
        return Sampler(max_tokens=8, temperature=1.5, top_p=1.0, seed=seed)(model, params, Letters(), prompts, 20)

    assert sample(1, ['ABC']) == sample(1, ['ABC'])
    assert sample(1, ['ABC']) != sample(2, ['ABC'])
    assert len(sample(1, ['ABC', 'ABCDEFGHIJKLMNOP'])[1]) <= 3  # the length's end


def test_the_nucleus_is_the_smallest_set_that_reaches_p():
    logits = jnp.log(jnp.array([[0.5, 0.3, 0.15, 0.05]]))
    sampler = Sampler(temperature=1.0, top_p=0.75)
    keys = jax.random.split(jax.random.key(0), 4000)
    drawn = jax.vmap(lambda key: sampler.choose(logits, key[None])[0])(keys)
    share = np.bincount(drawn, minlength=4) / 4000
    np.testing.assert_allclose(share, [0.625, 0.375, 0, 0], atol=0.03)


def test_a_prompt_without_room_is_refused(micro):
    model, params = micro()
    with pytest.raises(UserError, match='has 9 tokens; the model reads 8'):
        Sampler()(model, params, Letters(), ['ABCDEFGHI'], 8)


CHANGES = [{}, {'num_kv_heads': 2}, {'parallel': False, 'qk_norm': True}, {'unroll_layers': 0}]


@pytest.mark.parametrize('changes', CHANGES, ids=str)
def test_what_the_cache_gives_is_what_the_whole_sequence_gives(micro, changes):
    """Ragged prompts in one padded batch, against the model without a cache, a prompt alone at a time."""
    model, params = micro(**changes)
    rng = np.random.default_rng(0)
    prompts = [[0, *rng.integers(3, 61, n).tolist()] for n in (1, 7, 16, 23)]
    sampler = Sampler(max_tokens=6, temperature=0)
    whole = jax.jit(lambda ids, prefix: model.apply({'params': params}, ids, None, None, prefix))
    for bidirectional in (False, True):
        written = sampler.continue_ids(model, params, prompts, 64, bidirectional)
        for prompt, ours in zip(prompts, written, strict=True):
            ids, prefix = np.zeros((2, 1, 32), np.int32)
            ids[0, : len(prompt)], prefix[0, : len(prompt)] = prompt, bidirectional
            end = len(prompt)
            while end < len(prompt) + 6 and (token := int(jnp.argmax(whole(ids, prefix)[0, end - 1]))) != 1:
                ids[0, end] = token
                end += 1
            assert ours == ids[0, len(prompt) : end].tolist()


def test_batch_mates_and_batch_sizes_change_nothing(micro):
    model, params = micro()
    prompts = [[0, *range(3, 3 + n)] for n in (4, 20, 9, 11, 5)]
    drawn = [
        Sampler(max_tokens=8, temperature=1.2, seed=3, batch_size=size).continue_ids(model, params, prompts, 64)
        for size in (1, 2, 8)
    ]
    assert drawn[0] == drawn[1] == drawn[2] and len({tuple(ids) for ids in drawn[0]}) > 1


def test_top_k_keeps_k():
    logits = jnp.log(jnp.array([[0.1, 0.4, 0.2, 0.3]]))
    sampler = Sampler(temperature=1.0, top_p=1.0, top_k=2)
    drawn = jax.vmap(lambda key: sampler.choose(logits, key[None])[0])(jax.random.split(jax.random.key(0), 2000))
    np.testing.assert_allclose(np.bincount(drawn, minlength=4) / 2000, [0, 4 / 7, 0, 3 / 7], atol=0.04)
