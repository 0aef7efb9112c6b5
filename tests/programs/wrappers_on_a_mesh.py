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
from palm_jax.inference.rollout import Rollout
from palm_jax.partitioning import MeshLayout
from palm_jax.peft.relations import RelationVectors
from palm_jax.training.loss_wrappers.distillation import Distillation
from palm_jax.training.loss_wrappers.ewc import EWC
from palm_jax.training.loss_wrappers.fgm import FGM
from palm_jax.training.loss_wrappers.fixmatch import FixMatch
from palm_jax.training.loss_wrappers.freelb import FreeLB
from palm_jax.training.loss_wrappers.gkd import GKD
from palm_jax.training.loss_wrappers.lwf import LwF
from palm_jax.training.loss_wrappers.minilm import MiniLM
from palm_jax.training.loss_wrappers.pgd import PGD
from palm_jax.training.loss_wrappers.posterior_regularization import PosteriorRegularization
from palm_jax.training.loss_wrappers.pseudo_label import PseudoLabel
from palm_jax.training.loss_wrappers.r_drop import RDrop
from palm_jax.training.loss_wrappers.semantic_loss import SemanticLoss
from palm_jax.training.loss_wrappers.supcon import SupCon
from palm_jax.training.loss_wrappers.transe import TransE
from palm_jax.training.loss_wrappers.uda import UDA
from palm_jax.training.teachers import Teacher
from tests.support.ruled import ruled
from tests.support.triples import RELATIONS, triple_features
from tests.support.wrapped import C, features, train_step, write_fisher, write_teacher

CASES = {
    'all at once': (SupCon(), PosteriorRegularization(decay=0.0), SemanticLoss(), RDrop(), FreeLB(steps=2)),
    'earlier models': (Distillation(), LwF(), EWC(file='fisher.npz'), FGM(), TransE()),
    'unlabelled texts': (PGD(steps=2), FixMatch(threshold=0.2)),
    'pseudo-labels': (PseudoLabel(threshold=0.2, begin=0.0, end=0.5, total_steps=2),),
    'UDA': (UDA(threshold=0.2),),
    'embeddings': (),
    'generated text': (
        MiniLM(relations=('qq', 'vv'), teacher=Teacher('teacher')),
        GKD(weight=0.5, share=1.0, teacher=Teacher('teacher'), sampler=Rollout(max_tokens=6)),
    ),
}
METRICS = {
    *('drift', 'ewc_penalty', 'unlabelled_loss', 'teacher_divergence', 'relation_divergence'),
    *('rule_divergence', 'semantic_loss', 'transe_loss'),
}
PART = {'methods': (RelationVectors(RELATIONS),), 'trainable': ('final_norm/.*', 'head/.*')}


def batch_of_all():
    """A batch with what all wrappers read: a teacher's scores, and two views of texts without labels."""
    batch, rng = features('class'), np.random.default_rng(4)
    tokens = np.stack([batch['decoder_input_tokens'][::-1]] * 2, axis=1)
    views = {f'unlabelled{view}_tokens': tokens[:, :, ::step] for view, step in (('', 1), ('_strong', -1))}
    segments = {f'unlabelled{view}_segment_ids': np.ones_like(tokens) for view in ('', '_strong')}
    teacher = {'teacher_scores': rng.normal(size=(4, C)).astype(np.float32), 'teacher_weights': np.ones(4, np.float32)}
    batch |= triple_features(4) | {'rule_penalties': ruled('class')['rule_penalties']}
    return batch | teacher | views | segments | {'unlabelled_labels': np.zeros((4, 2), np.int32)}


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
        kind = {'generated text': 'words', 'embeddings': 'texts'}.get(name, 'class')
        options = PART if kind == 'class' else {}
        take, begin = train_step(kind, CASES[name], **options)
        batch = batch_of_all() if kind == 'class' else features(kind)
        if name not in ('unlabelled texts', 'pseudo-labels', 'UDA'):
            batch = {feature: x for feature, x in batch.items() if not feature.startswith('unlabelled')}
        one = take(begin, batch, jax.random.key(1))
        one = take(one[0], batch, jax.random.key(1))
        with layout.on(mesh):
            take, begin = train_step(kind, CASES[name], on=2, **options)
            batch = partitioning.shard_batch(batch, mesh)
            two = take(begin, batch, jax.random.key(1))
            two = take(two[0], batch, jax.random.key(1))
        near = lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-3, atol=2e-5)  # noqa: E731
        jax.tree.map(near, jax.device_get(one[0].params), jax.device_get(two[0].params))
        near(one[1]['gradient_norm'].value(), two[1]['gradient_norm'].value())
        for metric in sorted(METRICS & one[1].keys()):
            near(one[1][metric].value(), two[1][metric].value())
            assert one[1][metric].value() > 0, (name, metric)
        assert len(batch['decoder_input_tokens'].sharding.device_set) == 2, name


if __name__ == '__main__':
    main(sys.argv[1:])
