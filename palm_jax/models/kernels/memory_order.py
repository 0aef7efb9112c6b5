"""The order of an array's elements in memory."""

import jax
from jax.experimental.layout import Layout, with_layout_constraint


def row_major(x: jax.Array) -> jax.Array:
    """Keep x in memory in row-major order, instead of recomputing or transposing it wherever it is read."""
    return with_layout_constraint(x, Layout(tuple(range(x.ndim))))
