"""A batch with what every loss wrapper reads, and batches as no paper has them."""

import numpy as np

from palm_jax.inference.rollout import Rollout
from palm_jax.peft.relations import RelationVectors
from palm_jax.training.loss_wrappers.clp import CLP
from palm_jax.training.loss_wrappers.distillation import Distillation
from palm_jax.training.loss_wrappers.ewc import EWC
from palm_jax.training.loss_wrappers.fgm import FGM
from palm_jax.training.loss_wrappers.fixmatch import FixMatch
from palm_jax.training.loss_wrappers.freelb import FreeLB
from palm_jax.training.loss_wrappers.gkd import GKD
from palm_jax.training.loss_wrappers.group_dro import GroupDRO
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
from palm_jax.training.loss_wrappers.unlikelihood import Unlikelihood
from palm_jax.training.teachers import Teacher
from tests.support.ruled import ruled
from tests.support.triples import RELATIONS, triple_features
from tests.support.wrapped import C, features

# The wrappers of a case work together; EWC and the teachers read files of the working directory.
CASES = {
    'all at once': (
        *(SupCon(), GroupDRO(step_size=0.5, sizes={'a': 3, 'b': 1})),
        *(PosteriorRegularization(decay=0.0), SemanticLoss(), RDrop(), FreeLB(steps=2)),
    ),
    'earlier models': (Distillation(), LwF(), EWC(file='fisher.npz'), CLP(), FGM(), TransE()),
    'unlabelled texts': (PGD(steps=2), FixMatch(threshold=0.2)),
    'pseudo-labels': (PseudoLabel(threshold=0.2, begin=0.0, end=0.5, total_steps=2),),
    'UDA': (UDA(threshold=0.2),),
    'embeddings': (),
    'generated text': (
        Unlikelihood(phrases=((7,), (9, 11)), repeat_window=3),
        MiniLM(relations=('qq', 'vv'), teacher=Teacher('teacher')),
        GKD(weight=0.5, share=1.0, teacher=Teacher('teacher'), sampler=Rollout(max_tokens=6)),
    ),
}
KINDS = {'generated text': 'words', 'embeddings': 'texts'}  # of the others, `class`
PART = {'methods': (RelationVectors(RELATIONS),), 'trainable': ('final_norm/.*', 'head/.*')}


def batch_of(case, rows=4):
    """A batch with what the wrappers of a case read."""
    if case in KINDS:
        return features(KINDS[case], rows)
    batch, rng = features('class', rows), np.random.default_rng(4)
    batch |= {'groups': np.arange(rows, dtype=np.int32) % 3, 'rule_penalties': ruled('class', rows)['rule_penalties']}
    if case == 'earlier models':
        scores = rng.normal(size=(rows, C)).astype(np.float32)
        batch |= triple_features(rows) | {'teacher_scores': scores, 'teacher_weights': np.ones(rows, np.float32)}
        batch['counterfactual_tokens'] = batch['decoder_input_tokens'][:, None, ::-1]
        batch['counterfactual_segment_ids'] = np.ones_like(batch['counterfactual_tokens'])
        batch['counterfactual_weights'] = np.ones((rows, 1), np.float32)
    if case in ('unlabelled texts', 'pseudo-labels', 'UDA'):
        tokens = np.stack([batch['decoder_input_tokens'][::-1]] * 2, axis=1)
        for view, step in (('', 1), ('_strong', -1)):
            batch[f'unlabelled{view}_tokens'] = tokens[:, :, ::step]
            batch[f'unlabelled{view}_segment_ids'] = np.ones_like(tokens)
        batch['unlabelled_labels'] = np.zeros((rows, 2), np.int32)
    return batch


def unusual(batch):
    """Batches of the same shapes: texts of one token, rows of one class, of padding alone, and without any weight."""
    segments = {name: x for name, x in batch.items() if name.endswith('segment_ids')}
    one = {name: x * (np.arange(x.shape[-1]) == 0) for name, x in segments.items()}
    none = {name: 0 * x for name, x in segments.items()}
    weights = {name: 0 * x for name, x in batch.items() if name.endswith('weights')}
    found = {'one token': one, 'padding': none, 'no weight': weights}
    if 'decoder_loss_weights' in batch:
        only = batch['decoder_loss_weights'] * (np.arange(batch['decoder_loss_weights'].shape[1]) == 0)
        found = {'one token': {'decoder_loss_weights': only}, 'no weight': weights}
    if 'labels' in batch:
        found |= {'one class': {'labels': 0 * batch['labels']}, 'no group': {'groups': 0 * batch['groups']}}
    return {name: batch | changes for name, changes in found.items()}
