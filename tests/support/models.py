"""Parameters and outputs of small models.

Each is compiled as a whole, which is faster than one operation at a time.
"""

import jax

from palm_jax.training import state


def initial(model, seed=0):
    """Initial parameters of a model, unboxed."""
    return jax.jit(lambda rng: state.unbox(state.init_params(model, rng)))(jax.random.key(seed))


@jax.jit
def shaken(params):
    """Adds normal noise of deviation 0.1 to every leaf, so that a method of fine-tuning has an effect."""
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(5), len(leaves))
    return tree.unflatten([x + 0.1 * jax.random.normal(k, x.shape) for x, k in zip(leaves, keys, strict=True)])


def applied(model, params, *inputs, **options):
    """Outputs of a model; `inputs` and `options` are the arguments of its call."""
    return jax.jit(lambda params, inputs, options: model.apply({'params': params}, *inputs, **options))(
        params, inputs, options
    )
