"""Checkpoints move between any two meshes: python -m tests.programs.move_checkpoints FOLDER."""

import functools
import sys
from pathlib import Path

import jax
import numpy as np

from palm_jax import partitioning
from palm_jax.checkpoint_metadata import CheckpointMetadata
from palm_jax.models.palm import Architecture, PaLM
from palm_jax.partitioning import MeshLayout
from palm_jax.training import optimizers, schedules, state
from palm_jax.training.checkpoints import Checkpoints

model = PaLM(Architecture(vocab_size=64, num_layers=2, d_model=32, num_heads=4, head_dim=8))
optimizer = optimizers.adafactor(schedules.constant(1e-2))
init = functools.partial(state.init_state, model, optimizer)
boxed = jax.eval_shape(init, jax.random.key(0))
meshes = {
    'one': (MeshLayout(), jax.devices()[:1]),
    'replicated': (MeshLayout(rules=partitioning.data_parallel()), None),
    'sharded': (MeshLayout(), None),
    'two by four': (MeshLayout(model=4), None),
    'four by two': (MeshLayout(model=2, rules=partitioning.sequence()), None),
    'stages': (MeshLayout(stage=2, model=2, rules=partitioning.pipeline()), None),
    'half': (MeshLayout(model=2), jax.devices()[4:]),
}
places = {name: layout.shardings(boxed, layout.mesh(devices)) for name, (layout, devices) in meshes.items()}
original = jax.jit(lambda rng: state.unbox(init(rng)))(jax.random.key(5))
for source, there in places.items():
    folder = Path(sys.argv[1]) / source
    checkpoints = Checkpoints(folder, 1, CheckpointMetadata(vocabulary='bytes'))
    checkpoints.save(jax.device_put(original, there), 1)
    checkpoints.wait()
    for here in places.values():
        target = jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), original, here)
        moved, _ = checkpoints.restore(target)
        for a, b, sharding in zip(*map(jax.tree.leaves, (moved, original, here)), strict=True):
            assert a.sharding == sharding
            np.testing.assert_array_equal(a, b)
    checkpoints.close()
print('moved')
