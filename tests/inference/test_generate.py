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
    texts = Sampler(max_tokens=6, temperature=0)(model, params, Letters(), prompts, 16)
    for prompt, text in zip(prompts, texts, strict=True):
        ids = [0, *Letters().encode(prompt)]
        for _ in range(6):
            token = int(jnp.argmax(model.apply({'params': params}, np.array([ids]))[0, -1]))
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
