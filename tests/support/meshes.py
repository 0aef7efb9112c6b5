"""Layouts of eight devices, and into how many parts each splits the gate of the MLP."""

from palm_jax import partitioning
from palm_jax.partitioning import MeshLayout

MESHES = {
    'replicated': (MeshLayout(rules=partitioning.data_parallel()), 1),
    'sharded': (MeshLayout(), 8),
    'sharded twice': (MeshLayout(model=2), 8),
    'two slices': (MeshLayout(model=2, slices=2), 8),
    'tensor': (MeshLayout(model=4, rules=partitioning.data_parallel()), 4),
    'two-dimensional': (MeshLayout(model=4, rules=partitioning.two_dimensional()), 8),
    'sequence': (MeshLayout(model=4, rules=partitioning.sequence()), 8),
    'pipeline': (MeshLayout(stage=2, model=2, rules=partitioning.pipeline()), 4),
}
