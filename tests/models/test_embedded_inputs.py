"""Embedded inputs that are changed, and their gradient."""

import jax
import jax.numpy as jnp
import numpy as np

from palm_jax.models.embedded_inputs import WithEmbeddedInputs
from palm_jax.models.masks import Mask
from palm_jax.peft.lora import LoRA
from palm_jax.peft.method import AdaptedModel
from tests.support.models import initial, shaken


def test_a_change_is_seen_by_the_blocks_and_has_a_gradient(micro, tokens):
    model = AdaptedModel(micro(num_layers=1)[0], (LoRA(rank=2),))
    params = shaken(initial(model))
    delta = 0.1 * jax.random.normal(jax.random.key(0), (*tokens.shape, model.arch.d_model))

    def changed(delta):
        return WithEmbeddedInputs(model, lambda x: x + delta).apply({'params': params}, tokens, method='features')

    def by_hand(delta):
        x = params['embed']['embedding'][tokens] + delta
        positions = jnp.arange(tokens.shape[1])[None]
        return model.apply({'params': params}, x, positions, Mask(None, None), method='transform')

    both = [jax.jit(jax.value_and_grad(lambda d, f=f: jnp.sin(f(d)).sum()))(delta) for f in (changed, by_hand)]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), *both)
    top = WithEmbeddedInputs(model, lambda x: x + delta).clone(frozen_layers=1)
    assert top.model.model.frozen_layers == 1 and top.arch == model.arch and top.methods == model.methods
