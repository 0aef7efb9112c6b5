"""Parameters and outputs of small models.

Each is compiled as a whole, which is faster than one operation at a time, and once for equal models.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from palm_jax.training import losses, state


def initial(model, seed=0):
    """Initial parameters of a model, unboxed, in a tree of their own."""
    return jax.tree.map(lambda x: x, _initial(model, seed))


@functools.lru_cache(maxsize=64)
def _initial(model, seed):
    return jax.jit(lambda rng: state.unbox(state.init_params(model, rng)))(jax.random.key(seed))


@jax.jit
def shaken(params):
    """Adds normal noise of deviation 0.1 to every leaf, so that a method of fine-tuning has an effect."""
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(5), len(leaves))
    return tree.unflatten([x + 0.1 * jax.random.normal(k, x.shape) for x, k in zip(leaves, keys, strict=True)])


def applied(model, params, *inputs, **options):
    """Outputs of a model; `inputs` and `options` are the arguments of its call."""
    return _applied(model, params, inputs, options)


@functools.partial(jax.jit, static_argnums=0)
def _applied(model, params, inputs, options):
    return model.apply({'params': params}, *inputs, **options)


def loss_and_gradients(model, params, tokens):
    """Mean loss of every token but the first from those before it, and its gradients, as Transformers has them."""
    weights = np.ones_like(tokens)
    weights[:, -1] = 0
    batch = {
        'decoder_input_tokens': tokens,
        'decoder_target_tokens': np.roll(tokens, -1, axis=1),
        'decoder_loss_weights': weights,
    }

    def loss(params):
        total, metrics = losses.LanguageModelLoss(z_loss=0.0, chunk_length=16)(model, params, batch)
        return total / metrics['loss'].count

    value, gradients = jax.jit(jax.value_and_grad(loss))(jax.tree.map(jnp.asarray, params))
    return float(value), jax.tree.map(np.asarray, gradients)
