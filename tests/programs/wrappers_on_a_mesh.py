"""A training step inside loss wrappers on one device and on a mesh of two: the same metrics and parameters.

python -m tests.programs.wrappers_on_a_mesh
"""

import jax
import numpy as np

from palm_jax import partitioning
from palm_jax.partitioning import MeshLayout
from palm_jax.training.loss_wrappers.freelb import FreeLB
from palm_jax.training.loss_wrappers.r_drop import RDrop
from palm_jax.training.loss_wrappers.supcon import SupCon
from tests.support.wrapped import features, train_step

CASES = {'all at once': (SupCon(), RDrop(), FreeLB(steps=2))}
PART = {'methods': (), 'trainable': ('final_norm/.*', 'head/.*')}


def main():
    assert jax.device_count() == 2
    layout = MeshLayout()
    mesh = layout.mesh(jax.devices())
    for name, wrappers in CASES.items():
        take, begin = train_step('class', wrappers, **PART)
        one = take(begin, features('class'), jax.random.key(1))
        with layout.on(mesh):
            take, begin = train_step('class', wrappers, on=2, **PART)
            batch = partitioning.shard_batch(features('class'), mesh)
            two = take(begin, batch, jax.random.key(1))
        near = lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-3, atol=2e-5)  # noqa: E731
        jax.tree.map(near, jax.device_get(one[0].params), jax.device_get(two[0].params))
        near(one[1]['gradient_norm'].value(), two[1]['gradient_norm'].value())
        assert len(batch['labels'].sharding.device_set) == 2, name
    print('equal')


if __name__ == '__main__':
    main()
