"""Programs as they are lowered for a platform that is not present."""

import jax


def lowered_for(platform, function, *args):
    """StableHLO of a function, for `cpu`, `cuda` or `tpu`."""
    return jax.jit(function).trace(*args).lower(lowering_platforms=(platform,))


def as_on_a_gpu(function, *args):
    """What a function returns with the variants of a GPU, computed on this machine's device."""
    return lowered_for('cuda', function, *args).compile()(*args)
