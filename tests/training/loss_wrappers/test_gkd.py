"""On-policy distillation against its formula in NumPy, on the batch and on the student's own samples."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import log_softmax, rel_entr

from palm_jax.checkpoint_metadata import CheckpointMetadata
from palm_jax.errors import UserError
from palm_jax.inference.rollout import Rollout
from palm_jax.models.architecture import Architecture
from palm_jax.models.kernels.divergence import generalized_jsd
from palm_jax.models.palm import PaLM
from palm_jax.partitioning import MeshLayout
from palm_jax.run_directory import RunDirectory
from palm_jax.training import optimizers, schedules
from palm_jax.training.checkpoints import Checkpoints
from palm_jax.training.loss_wrappers.gkd import GKD
from palm_jax.training.loss_wrappers.wrapper import wrap
from palm_jax.training.pretrained import architecture
from palm_jax.training.setup import Setup
from palm_jax.training.state import TrainState
from palm_jax.training.teachers import Teacher, fingerprint_of
from tests.support.models import applied
from tests.support.wrapped import (
    KEY,
    LOSSES,
    MICRO,
    build,
    features,
    inputs_of,
    outcome,
    teachers_of,
    trained_for,
    write_teacher,
)

ALPHA, T = 0.3, 1.5
OF_TEACHER = CheckpointMetadata.of_model(Architecture(**MICRO), 'micro')


@pytest.fixture(scope='module')
def teacher(tmp_path_factory):
    """A smaller model with more rows in its embedding than there are ids in the vocabulary."""
    return Teacher(write_teacher(tmp_path_factory.mktemp('teacher'), vocab_size=64))


def divergence(p, q, beta):
    """JSD_β of each position (arXiv 2306.13649, equation 1), with TRL's ends."""
    if beta in (0, 1):
        return rel_entr(*((p, q) if beta == 0 else (q, p))).sum(axis=-1)
    m = beta * p + (1 - beta) * q
    return beta * rel_entr(p, m).sum(axis=-1) + (1 - beta) * rel_entr(q, m).sum(axis=-1)


def expected(teacher, batch, beta):
    """The mean divergence over the targets of a batch."""
    model, _, params = build('words')
    dropout = {'deterministic': False, 'rngs': {'dropout': KEY}}
    student = jax.jit(lambda p: model.apply({'params': p}, batch['decoder_input_tokens'], **dropout))(params)
    (params,) = teachers_of((GKD(teacher=teacher, share=0.0),)).values()
    taught = applied(PaLM(architecture(teacher.path)), params, batch['decoder_input_tokens'])[..., :61]
    p, q = (np.exp(log_softmax(np.float64(x) / T, axis=-1)) for x in (taught, student))
    weights = np.asarray(batch['decoder_loss_weights'])
    return (divergence(p, q, beta) * weights).sum() / weights.sum()


@pytest.mark.parametrize('beta', [0.0, 0.3, 1.0])
def test_the_divergence(beta):
    rng = np.random.default_rng(2)
    h, other = rng.normal(size=(2, 7, 4)).astype(np.float32), rng.normal(size=(2, 7, 6)).astype(np.float32)
    e, f = rng.normal(size=(9, 4)).astype(np.float32), rng.normal(size=(9, 6)).astype(np.float32)
    weights = (rng.random((2, 7)) < 0.6).astype(np.float32)
    value = jax.jit(lambda: generalized_jsd(h, e, other, f, weights, beta, (0.5, 2.0), chunk_length=3))()
    p, q = np.exp(log_softmax(0.5 * np.float64(h) @ e.T, -1)), np.exp(log_softmax(2 * np.float64(other) @ f.T, -1))
    np.testing.assert_allclose(value, (weights * divergence(p, q, beta)).sum(), rtol=1e-5)


@pytest.mark.parametrize('beta', [0.3, pytest.param(1.0, marks=pytest.mark.slow)])
def test_the_formula_on_the_batch(teacher, beta):
    batch = features('words')
    method = GKD(ALPHA, 0.0, beta, T, teacher)
    value, metrics, gradient = outcome('words', (method,), batch)
    plain, before, _ = outcome('words', (), batch)
    mean = expected(teacher, batch, beta)
    np.testing.assert_allclose(value, (1 - ALPHA) * plain + ALPHA * mean * before['loss'].count, rtol=1e-4)
    np.testing.assert_allclose(metrics['teacher_divergence'].value(), mean, rtol=1e-4)
    assert metrics['on_policy'].value() == 0 and metrics['loss'].value() == pytest.approx(before['loss'].value())
    assert all(np.isfinite(g).all() for g in jax.tree.leaves(gradient))


def test_the_formula_on_samples_of_the_student(teacher):
    sampler = Rollout(max_tokens=5)
    model, _, params = build('words')
    inputs = inputs_of(model, params, features('words'))
    rng = jax.random.split(jax.random.fold_in(KEY, 3))[1]
    batch = jax.jit(lambda: sampler(model, params, inputs.batch, rng))()
    value, metrics, gradient = outcome('words', (GKD(1.0, 1.0, 0.3, T, teacher, sampler),), features('words'))
    mean = expected(teacher, batch, 0.3)
    np.testing.assert_allclose(value, mean * features('words')['decoder_loss_weights'].sum(), rtol=1e-4)
    assert (
        metrics['on_policy'].value() == 1 and metrics['teacher_divergence'].count == batch['decoder_loss_weights'].sum()
    )
    assert any(np.any(g) for g in jax.tree.leaves(gradient))


def test_a_share_of_steps_is_on_policy_and_they_continue_bit_for_bit(teacher):
    wrappers = (GKD(0.5, 0.5, teacher=teacher, sampler=Rollout(max_tokens=3)),)
    whole, metrics = trained_for(4, 'words', wrappers)
    current, shares = None, []
    for _ in range(4):
        current, last = trained_for(1, 'words', wrappers, jax.tree.map(np.asarray, current) if current else None)
        shares.append(float(last['on_policy'].value()))
    jax.tree.map(np.testing.assert_array_equal, (whole, metrics), (current, last))
    assert set(shares) == {0.0, 1.0}


@pytest.mark.slow
def test_the_student_approaches_the_teacher(teacher):
    wrappers = (GKD(1.0, 1.0, 0.5, teacher=teacher, sampler=Rollout(max_tokens=6)),)
    options = {'methods': (), 'trainable': ('.*',), 'dropout_rate': 0.0}
    current, first = trained_for(1, 'words', wrappers, **options)
    _, last = trained_for(40, 'words', wrappers, current, **options)
    assert last['teacher_divergence'].value() < 0.5 * first['teacher_divergence'].value()


def test_what_cannot_teach_is_refused(teacher):
    model, _, params = build('words')
    with pytest.raises(UserError, match=r'GKD is for models that generate text.*gin/methods/distil\.gin'):
        GKD().check(build('class')[0])
    with pytest.raises(UserError, match=r'include gin/methods/gkd\.gin'):
        GKD().check(model)
    with pytest.raises(UserError, match=r'TEACHER_CHECKPOINT_PATH is not set.*=runs/large'):
        teachers_of((GKD(),))
    with pytest.raises(UserError, match=r'has the vocabulary micro, but this run has bytes.*palm-jax infer'):
        teachers_of((GKD(teacher=teacher),), vocabulary='bytes')
    with pytest.raises(UserError, match="TEACHER_CHECKPOINT_PATH = 'nowhere' is not a checkpoint"):
        teachers_of((GKD(teacher=Teacher('nowhere')),))
    packed = features('words')
    packed['decoder_segment_ids'] = np.ones_like(packed['decoder_input_tokens'])
    method = GKD(share=1.0, teacher=teacher, sampler=Rollout())
    inputs = inputs_of(model, params, packed, teachers=teachers_of((method,)))
    with pytest.raises(UserError, match='leave PACK out'):
        jax.eval_shape(lambda: wrap(LOSSES['words'], (method,))(inputs))


def test_a_teacher_is_checked_before_it_is_loaded(teacher, tmp_path):
    """What `--explain` refuses: an adapter without its base, and another vocabulary."""
    adapter = Checkpoints(RunDirectory(tmp_path).checkpoints, 1, dataclasses.replace(OF_TEACHER, base='of another run'))
    adapter.save(TrainState(jnp.zeros((), jnp.int32), {'adapter': jnp.ones(3)}, {}), 0)
    adapter.close()
    model, selection, _ = build('words')
    of_run = model, selection, optimizers.adamw(schedules.constant(1e-2)), MeshLayout(), 1, 4, 12, 10, 'stored'
    run = CheckpointMetadata('micro')
    Setup.of(*of_run, (GKD(teacher=teacher),)).check_teachers(run)
    with pytest.raises(UserError, match='has the vocabulary micro, but this run has bytes'):
        Setup.of(*of_run, (GKD(teacher=teacher),)).check_teachers(CheckpointMetadata('bytes'))
    with pytest.raises(UserError, match='holds only the trained parameters'):
        Setup.of(*of_run, (GKD(teacher=Teacher(str(tmp_path))),)).check_teachers(run)


def test_a_run_knows_its_teacher(teacher, tmp_path):
    """Its memory is counted, and checkpoints, which leave it out, keep its fingerprint."""
    model, selection, _ = build('words')
    wrappers = (GKD(teacher=teacher),)
    optimizer = optimizers.adamw(schedules.constant(1e-2))
    plan = Setup.of(model, selection, optimizer, MeshLayout(), 1, 4, 12, 10, 'stored', wrappers).plan
    (params,) = teachers_of(wrappers).values()
    assert plan.memory()['teacher'] == sum(x.nbytes for x in jax.tree.leaves(params))
    plain = Setup.of(model, selection, optimizer, MeshLayout(), 1, 4, 12, 10, 'stored', (GKD(weight=0.0),)).plan
    assert 'teacher' not in plain.memory()
    found = fingerprint_of(teachers_of(wrappers))
    saved = CheckpointMetadata('micro', teacher=found)
    assert CheckpointMetadata.from_json(saved.to_json()) == saved and fingerprint_of({}) is None
    saved.check_compatible(dataclasses.replace(saved), tmp_path)
    with pytest.raises(UserError, match=f'learned from the teacher {found}, but TEACHER_CHECKPOINT_PATH holds None'):
        saved.check_compatible(CheckpointMetadata('micro'), tmp_path)
