"""What every loss wrapper keeps: off, it changes no bit; on, a step is a function of state, batch and key."""

import os

import jax
import numpy as np
import pytest

from palm_jax.errors import UserError
from palm_jax.parameters import leaves_by_path
from palm_jax.training.head_losses import ClassLoss
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
from palm_jax.training.loss_wrappers.wrapper import wrap
from tests.support.every_wrapper import CASES, KINDS, PART, batch_of, unusual
from tests.support.programs import run_script
from tests.support.wrapped import build, features, inputs_of, train_step, trained_for, write_fisher, write_teacher

OFF = {
    'r_drop': RDrop(alpha=0.0),
    'fgm': FGM(weight=0.0),
    'pgd': PGD(weight=0.0),
    'supcon': SupCon(weight=0.0),
    'distillation': Distillation(weight=0.0),
    'fixmatch': FixMatch(weight=0.0),
    'pseudo_label': PseudoLabel(weight=0.0),
    'uda': UDA(weight=0.0),
    'freelb': FreeLB(step_size=0.0, magnitude=0.0),
    'lwf': LwF(weight=0.0),
    'ewc': EWC(weight=0.0),
    'gkd': GKD(weight=0.0),
    'minilm': MiniLM(weight=0.0),
    'posterior_regularization': PosteriorRegularization(weight=0.0),
    'semantic_loss': SemanticLoss(weight=0.0),
    'transe': TransE(weight=0.0),
    'group_dro': GroupDRO(weight=0.0),
    'clp': CLP(weight=0.0),
    'unlikelihood': Unlikelihood(weight=0.0),
}
ON = (SupCon(), RDrop(), FreeLB(steps=2))


def assert_same(one, two):
    jax.tree.map(np.testing.assert_array_equal, one, two)


@pytest.mark.parametrize('wrapper', OFF.values(), ids=OFF)
def test_what_is_off_is_the_loss_itself(wrapper):
    model, _, params = build('class')
    result = object()
    assert wrapper(lambda inputs: result, inputs_of(model, params, features('class'))) is result


def test_what_is_off_changes_no_bit():
    plain = trained_for(2, 'class', ())
    together = [OFF[name] for name in ('supcon', 'lwf', 'ewc', 'semantic_loss', 'r_drop', 'freelb', 'uda')]
    assert_same(plain, trained_for(2, 'class', tuple(together)))


def test_a_step_is_a_function_of_state_batch_and_key():
    """So that a run that was killed continues bit for bit."""
    whole, metrics = trained_for(3, 'class', ON)
    part, _ = trained_for(1, 'class', ON)
    again, same = trained_for(2, 'class', ON, jax.tree.map(np.asarray, part))
    assert_same((whole, metrics), (again, same))
    plain, _ = trained_for(3, 'class', ())
    assert np.abs(plain.params['head']['kernel'] - whole.params['head']['kernel']).max() > 1e-6


@pytest.mark.parametrize('microbatches', [1, pytest.param(2, marks=pytest.mark.slow)])
def test_wrappers_work_together_and_in_microbatches(microbatches):
    _, metrics = trained_for(1, 'class', ON, microbatches=microbatches)
    assert {'loss', 'accuracy', 'divergence', 'contrastive_loss', 'adversarial_loss', 'perturbation'} <= metrics.keys()
    assert metrics['loss'].count == 3 and np.isfinite(metrics['divergence'].value())


def test_a_wrong_order_is_refused():
    with pytest.raises(UserError, match='RDrop cannot be around FreeLB; list them as SupCon, RDrop, FreeLB'):
        wrap(ClassLoss(), ON[::-1])
    with pytest.raises(UserError, match='PGD cannot be around FreeLB; keep one of the two'):
        wrap(ClassLoss(), (FreeLB(), PGD()))


def test_a_loss_that_cannot_be_divided_is_refused():
    def mine(model, params, batch, dropout_rng=None):
        return ClassLoss()(model, params, batch, dropout_rng)

    model, _, params = build('class')
    inputs = inputs_of(model, params, features('class'))
    jax.eval_shape(lambda: wrap(mine, (FGM(),))(inputs))  # which needs no part of it

    with pytest.raises(UserError, match='has no `predict`'):
        wrap(mine, (RDrop(),))(inputs)


@pytest.mark.parametrize(
    'case', [case if case == 'all at once' else pytest.param(case, marks=pytest.mark.slow) for case in CASES]
)
def test_batches_as_no_paper_has_them_are_learned_from(case, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    kind = KINDS.get(case, 'class')
    if kind == 'class':
        write_fisher('fisher.npz', **PART)  # where EWC looks for it
    if kind == 'words':
        write_teacher(tmp_path / 'teacher')
    take, begin = train_step(kind, CASES[case], **(PART if kind == 'class' else {}))
    batches = unusual(batch_of(case)) | {'a single row': batch_of(case, rows=1)}
    for name, batch in batches.items():
        state, metrics = take(begin, batch, jax.random.key(1))
        for path, leaf in leaves_by_path((state.params, state.opt_state, metrics)).items():
            assert np.isfinite(leaf).all(), (name, path)
        if name in ('no weight', 'one class'):  # of others, such as a single text to contrast, there may be none
            assert (metrics['gradient_norm'].value() == 0) == (name == 'no weight'), name


@pytest.mark.parametrize(
    'cases',
    [
        ['all at once', 'embeddings'],
        *(
            pytest.param([case], marks=pytest.mark.slow)
            for case in ('earlier models', 'unlabelled texts', 'pseudo-labels', 'UDA', 'generated text')
        ),
    ],
    ids=', '.join,
)
def test_two_devices_compute_what_one_does(cases):
    flags = f'--xla_force_host_platform_device_count=2 {os.environ["XLA_FLAGS"]}'
    result = run_script('wrappers_on_a_mesh', *cases, XLA_FLAGS=flags, JAX_PLATFORMS='cpu')
    assert result.returncode == 0, result.stderr[-3000:]
    assert result.stdout.strip().endswith('equal')
