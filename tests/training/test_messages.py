"""The estimate of a run's time: of what the run computes, at the length that its batches have."""

import dataclasses
import logging
import types

import numpy as np
import pytest

from palm_jax.models.heads import Head
from palm_jax.training import flops, messages

LENGTHS = [4, 8, 12, 16]


def data(group=None, num_sequences=32):
    """Rows of 16 tokens; in groups of 8 of a length of four to sixteen."""

    def batch(first, size):
        return {'decoder_input_tokens': np.zeros((size, LENGTHS[first // 8 % 4]))}

    return types.SimpleNamespace(length=16, group=group, num_sequences=num_sequences, batch=batch)


@pytest.fixture
def say(monkeypatch, caplog):
    """Returns what is logged about a plan on a CPU of 10⁶ FLOP/s."""
    monkeypatch.setattr(flops, 'measured_speed', lambda: 1e6 / 0.6)
    caplog.set_level(logging.INFO)

    def of(plan, data=data(), first_step=0, is_from_scratch=True):
        caplog.clear()
        messages.warn_if_slow(plan, data, first_step, is_from_scratch)
        return caplog.text

    return of


def longer(plan, steps):
    return dataclasses.replace(plan, total_steps=steps)


def test_the_time_is_that_of_the_steps_left_and_of_the_trained_part(setup, say):
    whole, part = setup().plan, setup(['final_norm/.*']).plan
    seconds = whole.flops_per_token * whole.total_tokens / 1e6
    assert f'about {flops.duration(seconds)} on this CPU' in say(whole) and 'for the 20 steps left' in say(whole)
    last = say(whole, first_step=19)
    assert f'about {flops.duration(seconds / 20)} on' in last and '1 step left' in last
    assert part.computed_flops_per_token(16) == pytest.approx(part.flops_per_token * part.share_of_full_flops)
    assert part.computed_flops_per_token(16) < 0.4 * whole.computed_flops_per_token(16)
    assert say(whole, first_step=20) == ''


def test_the_length_is_that_of_the_batches(setup, say):
    plan = setup().plan
    assert messages.mean_length(data(), 4) == 16 and messages.mean_length(data(group=8), 4) == 10
    assert messages.mean_length(data(group=8, num_sequences=17), 4) == 6  # two groups are whole
    assert plan.computed_flops_per_token(10) < plan.computed_flops_per_token(16)
    assert plan.computed_flops_per_token(16) == pytest.approx(plan.flops_per_token, rel=0.01)
    assert 'rows of 10 tokens on average' in say(plan, data(group=8))


def test_the_embedding_is_no_matmul_under_a_head(setup):
    plan = setup().plan
    with_head = dataclasses.replace(
        plan, model=dataclasses.replace(plan.model, model=plan.model.model.clone(head=Head(2)))
    )
    arch = plan.model.arch
    expected = flops.per_token(plan.num_params - arch.vocab_size * arch.d_model, arch, 16)
    assert with_head.computed_flops_per_token(16) == pytest.approx(expected, rel=0.01)


def test_advice_fits_the_run(setup, say, monkeypatch):
    plan = longer(setup().plan, 10**6)
    text = say(plan, is_from_scratch=False)
    assert 'pretrain_tiny' not in text and 'GROUP_BY_LENGTH=%BATCH_SIZE help' in text
    steps = int(text.partition('--gin.TRAIN_STEPS=')[2].partition(';')[0])
    assert flops.duration(plan.computed_flops_per_token(16) * 4 * 16 * steps / 1e6) in ('60 min', '1 h')
    assert 'GROUP_BY_LENGTH' not in say(plan, data(group=8), is_from_scratch=False)
    assert 'pretrain_tiny' not in say(plan) and 'TRAIN_STEPS' in say(plan)  # it is smaller than tiny already
    monkeypatch.setattr(messages, '_TINY', 10)
    assert 'pretrain_tiny' in say(plan) and 'TRAIN_STEPS' not in say(setup().plan)
