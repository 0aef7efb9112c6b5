"""A training step inside loss wrappers on one device and on a mesh of two: the same metrics and parameters.

python -m tests.programs.wrappers_on_a_mesh CASE...
"""

import os
import sys
import tempfile
from pathlib import Path

import jax
import numpy as np

from palm_jax import partitioning
from palm_jax.partitioning import MeshLayout
from tests.support.every_wrapper import CASES, KINDS, PART, batch_of
from tests.support.wrapped import train_step, write_fisher, write_teacher

METRICS = {
    *('drift', 'ewc_penalty', 'unlabelled_loss', 'teacher_divergence', 'relation_divergence', 'unlikelihood'),
    *('rule_divergence', 'semantic_loss', 'transe_loss', 'counterfactual_gap', 'group_loss_1_a', 'group_weight_2_b'),
}


def main(cases):
    assert jax.device_count() == 2
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        write_fisher('fisher.npz', **PART)  # where EWC looks for it
        write_teacher(Path('teacher'))
        compare(cases)
    print('equal')


def compare(cases):
    """Take two steps of each of the cases on one device and on two."""
    layout = MeshLayout()
    mesh = layout.mesh(jax.devices())
    for name in cases:
        kind, batch = KINDS.get(name, 'class'), batch_of(name)
        options = PART if kind == 'class' else {}
        take, begin = train_step(kind, CASES[name], **options)
        one = take(begin, batch, jax.random.key(1))
        one = take(one[0], batch, jax.random.key(1))
        with layout.on(mesh):
            take, begin = train_step(kind, CASES[name], on=2, **options)
            batch = partitioning.shard_batch(batch, mesh)
            two = take(begin, batch, jax.random.key(1))
            two = take(two[0], batch, jax.random.key(1))
        near = lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-3, atol=2e-5)  # noqa: E731
        for part in ('params', 'wrapper_state'):
            jax.tree.map(near, *(jax.device_get(getattr(state, part)) for state, _ in (one, two)))
        near(one[1]['gradient_norm'].value(), two[1]['gradient_norm'].value())
        for metric in sorted(METRICS & one[1].keys()):
            near(one[1][metric].value(), two[1][metric].value())
            assert one[1][metric].value() > 0, (name, metric)
        assert len(batch['decoder_input_tokens'].sharding.device_set) == 2, name


if __name__ == '__main__':
    main(sys.argv[1:])
