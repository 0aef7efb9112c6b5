"""Group-DRO: weights and loss against NumPy by the paper's algorithm, its state in checkpoints, and resumption."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import log_softmax

from palm_jax.checkpoint_metadata import CheckpointMetadata
from palm_jax.errors import UserError
from palm_jax.training import checkpoints
from palm_jax.training.loss_wrappers.group_dro import GroupDRO
from palm_jax.training.loss_wrappers.r_drop import RDrop
from palm_jax.training.loss_wrappers.wrapper import wrap
from tests.support.wrapped import LOSSES, build, features, inputs_of, train_step

SIZES = {'a': 100, 'b': 25, 'c': 4}
GROUPS = np.array([1, 2, 1, 0, 2, 1, 1, 0], np.int32)  # none of c; two without a group
OPTIONS = {'dropout_rate': 0.0}
STATE = {'group_log_weights': np.log(np.array([0.2, 0.5, 0.3], np.float32))}


def batch_of(groups=GROUPS):
    return features('class', rows=len(groups)) | {'groups': groups}


@pytest.mark.parametrize('weight', [pytest.param(1.0, marks=pytest.mark.slow), 0.4])
def test_the_loss_and_the_weights_are_those_of_the_algorithm(weight):
    model, _, params = build('class', **OPTIONS)
    batch, wrapper = batch_of(), GroupDRO(weight=weight, step_size=0.7, adjustment=2.0, sizes=SIZES)
    inputs = inputs_of(model, params, batch).replace(wrapper_state=STATE)
    value, metrics = jax.jit(lambda: wrap(LOSSES['class'], (wrapper,))(inputs))()
    scores = np.float64(LOSSES['class'].predict(model, params, batch).scores)
    losses = -log_softmax(scores, axis=-1)[np.arange(8), batch['labels']]
    rows = [(g == GROUPS) & (batch['label_weights'] > 0) for g in range(4)]
    of_group = np.array([losses[r].mean() if r.any() else 0.0 for r in rows])
    q = np.array([0.2, 0.5, 0.3])
    moved = q * np.exp([0.7 * (of_group[1] + 2 / 10), 0.7 * (of_group[2] + 2 / 5), 0.0])
    moved /= moved.sum()
    grouped = sum(r.sum() for r in rows[1:])
    robust = grouped * (moved * of_group[1:]).sum() + losses[rows[0]].sum()
    plain = losses[batch['label_weights'] > 0].sum()
    assert float(value) == pytest.approx((1 - weight) * plain + weight * robust, rel=1e-4)
    after = wrapper.next_state(STATE, metrics)
    np.testing.assert_allclose(np.exp(after['group_log_weights']), moved, rtol=1e-5)
    assert metrics['group_loss_2_b'].value() == pytest.approx(of_group[2], rel=1e-4)
    assert metrics['group_weight_1_a'].value() == pytest.approx(moved[0], rel=1e-5)
    assert metrics['loss'].value() == pytest.approx(plain / (batch['label_weights'] > 0).sum(), rel=1e-4)


def test_the_gradient_takes_the_weights_as_constants():
    model, _, params = build('class', **OPTIONS)
    batch, wrapper = batch_of(), GroupDRO(step_size=0.7, sizes=SIZES)
    inputs = inputs_of(model, params, batch).replace(wrapper_state=STATE)
    _, metrics = wrap(LOSSES['class'], (wrapper,))(inputs)
    q = np.array([metrics[f'group_weight_{n}'].value() for n in ('1_a', '2_b', '3_c')])
    weights_B = jnp.asarray(batch['label_weights'])
    counts = np.array([(weights_B * (g == GROUPS)).sum() for g in range(4)])
    factor = np.concatenate([[1.0], counts[1:].sum() * q / np.maximum(counts[1:], 1)])[GROUPS]
    of_head = lambda loss: jax.grad(lambda head: loss(params | {'head': head}))(params['head'])  # noqa: E731
    of_head = jax.jit(of_head, static_argnums=0)
    found = of_head(lambda p: wrap(LOSSES['class'], (wrapper,))(inputs.replace(params=p))[0])
    reweighted = inputs.batch | {'label_weights': weights_B * factor}
    expected = of_head(lambda p: wrap(LOSSES['class'])(inputs.replace(params=p, batch=reweighted))[0])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-3, atol=1e-6), found, expected)


@pytest.fixture(scope='module')
def step():
    take, begin = train_step.__wrapped__('class', (GroupDRO(step_size=0.5, sizes=SIZES),), **OPTIONS)
    return lambda state: take(state, batch_of(), jax.random.key(1)), begin


def test_weights_move_to_the_worst_group_and_are_resumed_from_a_checkpoint(step, tmp_path):
    take, begin = step
    np.testing.assert_allclose(np.exp(begin.wrapper_state['group_log_weights']), 1 / 3, rtol=1e-6)
    states, losses = [begin], []
    for _ in range(3):
        state, metrics = take(states[-1])
        states.append(state)
        losses.append([metrics[f'group_loss_{n}'].value() for n in ('1_a', '2_b')])
    q = np.exp(states[1].wrapper_state['group_log_weights'])
    assert (q[0] > q[1]) == (losses[0][0] > losses[0][1]) and q[2] < min(q[:2]) and q.sum() == pytest.approx(1)
    metadata = CheckpointMetadata.of_model(build('class', **OPTIONS)[0].arch, 'bytes')
    kept = checkpoints.Checkpoints(tmp_path, 1, metadata)
    kept.save(jax.tree.map(jnp.asarray, states[1]), 1)
    kept.wait()
    shapes = jax.tree.map(lambda x: jax.device_put(jnp.zeros_like(jnp.asarray(x))), states[1])
    restored, _ = kept.restore(shapes)
    kept.close()
    jax.tree.map(np.testing.assert_array_equal, restored, states[1])
    for state in states[2:]:
        restored, _ = take(restored)
        jax.tree.map(np.testing.assert_array_equal, restored, state)


@pytest.mark.slow
def test_it_works_inside_r_drop_and_with_microbatches():
    wrappers = (GroupDRO(step_size=0.5, sizes=SIZES), RDrop())
    take, begin = train_step.__wrapped__('class', wrappers, microbatches=2, dropout_rate=0.3)
    state, metrics = take(begin, batch_of(), jax.random.key(1))
    assert {'divergence', 'group_loss_1_a', 'group_weight_3_c'} <= metrics.keys()
    sums = np.array([metrics[f'group_loss_{n}'].value() for n in ('1_a', '2_b')])
    moved = np.append(np.exp(0.5 * sums), 1.0) / 3
    np.testing.assert_allclose(np.exp(state.wrapper_state['group_log_weights']), moved / moved.sum(), rtol=1e-5)


def test_what_it_cannot_train_is_refused():
    words, _, _ = build('words')
    classes, _, params = build('class')
    with pytest.raises(UserError, match='GroupDRO needs a class per text'):
        GroupDRO(sizes=SIZES).check(words)
    with pytest.raises(UserError, match=r"needs two groups, and GROUP_COLUMN has 'a' alone"):
        GroupDRO(sizes={'a': 3}).check(classes)
    with pytest.raises(UserError, match=r'GROUP_COLUMN is not set: name a column'):
        GroupDRO().check(classes)
    inputs = inputs_of(classes, params, features('class')).replace(wrapper_state=STATE)
    with pytest.raises(UserError, match=r'include gin/methods/group_dro.gin'):
        wrap(LOSSES['class'], (GroupDRO(sizes=SIZES),))(inputs)
    assert GroupDRO(weight=0.0, sizes=SIZES).initial_state() == {}
