"""The train step: accumulation, determinism, learning."""

import functools

import jax
import numpy as np
import pytest

from palm_jax.errors import UserError
from palm_jax.training import losses, optimizers, schedules, state, step


def setup(micro, microbatches=1, **changes):
    model, params = micro(**({'num_layers': 2} | changes))
    optimizer = optimizers.adafactor(schedules.constant(1e-2))
    fn = functools.partial(
        step.train_step,
        model=model,
        loss=losses.LanguageModelLoss(chunk_length=16),
        optimizer=optimizer,
        microbatches=microbatches,
    )
    return jax.jit(fn), state.TrainState(np.int32(0), params, optimizer.init(params))


@pytest.mark.parametrize('microbatches, packed', [(2, False), (3, True)])
def test_accumulation_changes_nothing_however_unevenly_targets_are_spread(micro, microbatches, packed):
    rng = np.random.default_rng(microbatches)
    shape = (6, 20)
    tokens = rng.integers(3, 61, shape).astype(np.int32)
    weights = (rng.random(shape) < rng.random((6, 1)) ** 3).astype(np.int32)  # rows from empty to full
    batch = {'decoder_input_tokens': tokens, 'decoder_target_tokens': tokens[:, ::-1], 'decoder_loss_weights': weights}
    if packed:
        batch['decoder_segment_ids'] = np.sort(rng.integers(1, 4, shape), axis=1).astype(np.int32)
    outcomes = []
    for parts in (1, microbatches):
        fn, initial = setup(micro, parts)
        outcomes.append(fn(initial, batch, jax.random.key(0)))
    (whole, whole_metrics), (split, split_metrics) = outcomes
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=1e-6), whole.params, split.params)
    for name in whole_metrics:
        np.testing.assert_allclose(whole_metrics[name].value(), split_metrics[name].value(), rtol=1e-4)


def test_microbatches_must_divide(micro, batch):
    fn, initial = setup(micro, 3)
    with pytest.raises(UserError, match='MICROBATCHES = 3'):
        fn(initial, batch, jax.random.key(0))


def test_a_step_is_a_function_of_state_batch_and_seed(micro, batch):
    fn, initial = setup(micro, dropout_rate=0.3)
    one, two = (fn(initial, batch, jax.random.key(5))[0] for _ in range(2))
    jax.tree.map(np.testing.assert_array_equal, one, two)
    other = fn(initial, batch, jax.random.key(6))[0]
    later = fn(initial.replace(step=np.int32(1)), batch, jax.random.key(5))[0]
    for changed in (other, later):  # another seed, another step: another dropout
        assert np.abs(changed.params['embed']['embedding'] - one.params['embed']['embedding']).max() > 1e-6


def test_it_learns_a_batch_by_heart(micro, batch):
    fn, current = setup(micro)
    values = []
    for _ in range(60):
        current, metrics = fn(current, batch, jax.random.key(0))
        values.append(metrics['loss'].value())
    assert values[0] > 3.5 and values[-1] < 0.5 * values[0]
    assert int(current.step) == 60


def test_a_batch_counts_as_its_mean_however_small_its_weights_are(micro, batch):
    fn, initial = setup(micro)
    one, small, nothing = (
        fn(
            initial,
            batch | {'decoder_loss_weights': batch['decoder_loss_weights'] * np.float32(scale)},
            jax.random.key(0),
        )
        for scale in (1.0, 1e-4, 0.0)
    )
    assert small[1]['loss'].count < 1
    np.testing.assert_allclose(small[1]['gradient_norm'].value(), one[1]['gradient_norm'].value(), rtol=1e-4)
    assert nothing[1]['gradient_norm'].value() == 0


@pytest.mark.parametrize('microbatches', [1, 3])
def test_linear_maps_are_cast_once_a_step(micro, microbatches):
    """The rounded weights are those of the forward pass; gradients are added in float32."""
    fn, initial = setup(micro, microbatches, dtype='bfloat16', unroll_layers=0)
    tokens = np.random.default_rng(0).integers(3, 61, (6, 20)).astype(np.int32)
    batch = {f'decoder_{name}': tokens for name in ('input_tokens', 'target_tokens')}
    batch['decoder_loss_weights'] = np.ones_like(tokens)
    lowered = fn.lower(initial, batch, jax.random.key(0)).as_text()
    kernel = initial.params['stack']['mlp']['in']['gate']
    stacked = 'x'.join(map(str, kernel.shape))
    casts = [line for line in lowered.splitlines() if f'(tensor<{stacked}xf32>) -> tensor<{stacked}xbf16>' in line]
    assert len(casts) == 2, casts  # gate and up have one shape
    one = 'x'.join(map(str, kernel.shape[1:]))
    assert f'(tensor<{one}xf32>) -> tensor<{one}xbf16>' not in lowered
    assert {x.dtype.name for x in jax.tree.leaves(fn(initial, batch, jax.random.key(0))[0].params)} == {'float32'}
