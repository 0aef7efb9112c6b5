"""What a plan counts of methods that read the rows of a batch several times, beside the products of a traced step."""

import dataclasses
import functools

import jax
import numpy as np
import pytest

from palm_jax.compilation.matmul_flops import _dot_flops
from palm_jax.peft.trainable import join
from palm_jax.training.loss_wrappers.clp import CLP
from palm_jax.training.loss_wrappers.fgm import FGM
from palm_jax.training.loss_wrappers.fixmatch import FixMatch
from palm_jax.training.loss_wrappers.freelb import FreeLB
from palm_jax.training.loss_wrappers.lwf import LwF
from palm_jax.training.loss_wrappers.r_drop import RDrop
from palm_jax.training.loss_wrappers.supcon import SupCon
from palm_jax.training.loss_wrappers.wrapper import Rows, rows_of, wrap
from palm_jax.training.losses import LanguageModelLoss
from tests.support.wrapped import LOSSES, L, build, features, inputs_of

TEXTS = {'unlabelled': 2, 'unlabelled_strong': 2, 'counterfactual': 3}  # beside each row


def batch_of(wrappers):
    """The features that wrappers ask for."""
    batch, rng = features('class'), np.random.default_rng(5)
    asked = [FixMatch, FixMatch, CLP]
    for (name, count), wrapper in zip(TEXTS.items(), asked, strict=True):
        if any(isinstance(w, wrapper) for w in wrappers):
            batch[f'{name}_tokens'] = rng.integers(3, 61, (4, count, L)).astype(np.int32)
            batch[f'{name}_segment_ids'] = np.ones((4, count, L), np.int32)
            batch[f'{name}_{"weights" if wrapper is CLP else "labels"}'] = np.zeros((4, count), np.int32)
    return batch


@functools.cache
def products(wrappers):
    """FLOPs of the matrix products of a step that trains everything, forward and backward."""
    model, selection, params = build('class', methods=())
    trained, frozen = selection.split(params)
    loss, inputs = wrap(LOSSES['class'], wrappers), inputs_of(model, params, batch_of(wrappers))

    def value(trained):
        return loss(dataclasses.replace(inputs, params=join(trained, frozen), start=params))[0]

    return sum(_dot_flops(jax.make_jaxpr(jax.grad(value))(trained).jaxpr))


@pytest.mark.parametrize(
    'wrappers, rows',
    [
        ((RDrop(),), Rows(2, 2)),
        ((CLP(),), Rows(4, 4)),
        ((FixMatch(),), Rows(5, 5)),
        ((FreeLB(steps=3),), Rows(1, 3)),
        ((RDrop(), FGM()), Rows(2, 4)),
        ((RDrop(), FixMatch()), Rows(6, 6)),
        ((LwF(),), Rows(1, 1, 1)),
        ((SupCon(),), Rows()),
        ((RDrop(alpha=0), FGM(weight=0), FixMatch(weight=0)), Rows()),
    ],
    ids=lambda given: '+'.join(type(w).__name__ for w in given) if isinstance(given, tuple) else '',
)
def test_rows_that_are_read_several_times_are_counted(wrappers, rows):
    row = {name: x[0] for name, x in batch_of(wrappers).items()}
    assert rows_of(wrappers, row) == rows
    np.testing.assert_allclose(products(wrappers) / products(()), rows.passes, rtol=0.03)


def test_a_plan_multiplies_flops_and_activations(setup):
    plain = setup()
    assert plain.around(LanguageModelLoss()).plan == plain.plan and 'passes' not in plain.plan.summary(None)
    adversarial = dataclasses.replace(plain, wrappers=(FGM(),)).around(LanguageModelLoss()).plan
    assert adversarial.rows == Rows(1, 2)
    plan = dataclasses.replace(plain.plan, rows=rows_of((RDrop(), FGM()), {}))
    assert plan.step_flops_per_token == 4 * plain.plan.step_flops_per_token == 4 * plan.flops_per_token
    assert plan.share_of_full_flops == pytest.approx(4 * plain.plan.share_of_full_flops)
    assert plan.computed_flops_per_token(8) == pytest.approx(4 * plain.plan.computed_flops_per_token(8))
    activations = 'activations (estimate)'
    assert plan.memory() == plain.plan.memory() | {activations: 2 * plain.plan.memory()[activations]}
    assert 'in total; a step takes 4 passes over its rows, 2 of them at once' in plan.summary(None)
