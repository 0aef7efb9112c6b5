"""Every method on every kind of model: where it starts, what it moves, what it merges to."""

import dataclasses
import re

import jax
import numpy as np
import pytest

from palm_jax.errors import UserError
from palm_jax.models.heads import Head
from palm_jax.models.palm import Architecture, PaLM
from palm_jax.parameters import path_name
from palm_jax.peft.adapter import Adapter
from palm_jax.peft.bitfit import BitFit
from palm_jax.peft.ia3 import IA3
from palm_jax.peft.lora import LoRA
from palm_jax.training import head_losses, loop, losses, optimizers, schedules, state, step

METHODS = {
    'lora': (LoRA(rank=2, alpha=4.0),),
    'rslora': (LoRA(rank=2, rank_stabilized=True, targets='stack/attn/qkv/(q|v)'),),
    'dora': (LoRA(rank=2, decomposed=True),),
    'ia3': (IA3(),),
    'bitfit': (BitFit(),),
    'adapter': (Adapter(width=4),),
    'several': (LoRA(rank=2), BitFit(), Adapter(width=4), IA3()),
}
PARTS = {
    'full': {'trainable': ['.*']},
    'head_only': {'trainable': []},
    'norms_only': {'trainable': ['.*norm/scale']},
    'embeddings_only': {'trainable': ['embed/.*']},
    'top_layer': {'trainable': ['stack/.*', 'final_norm/.*'], 'trainable_layers': 1},
    'lora_and_norms': {'methods': METHODS['lora'], 'trainable': ['final_norm/scale']},
    'lora_in_the_top_layers': {'methods': METHODS['lora'], 'trainable_layers': 2},
    **{name: {'methods': methods} for name, methods in METHODS.items()},
}
HEADS = {'words': None, 'class': Head(3, dropout_rate=0.0), 'tokens': Head(3, pooling='none')}
MERGED = ('lora', 'rslora', 'dora', 'ia3')


def build(head='class', unroll=1, **adaptation):
    arch = Architecture(vocab_size=61, num_layers=3, d_model=24, num_heads=4, head_dim=8, unroll_layers=unroll)
    return loop.adapt(PaLM(arch, head=HEADS[head]), **adaptation)


def features(head):
    rng = np.random.default_rng(3)
    tokens = rng.integers(3, 61, (4, 12)).astype(np.int32)
    inputs = np.pad(tokens, [(0, 0), (1, 0)])[:, :-1]
    if head == 'words':
        return {
            'decoder_input_tokens': inputs,
            'decoder_target_tokens': tokens,
            'decoder_loss_weights': np.ones_like(tokens),
        }
    shape = (4, 12) if head == 'tokens' else (4,)
    segments = np.ones_like(tokens)
    segments[1, 7:] = 0
    return {
        'decoder_input_tokens': inputs,
        'decoder_segment_ids': segments,
        'labels': rng.integers(0, 3, shape).astype(np.int32),
        'label_weights': np.ones(shape, np.float32),
    }


def start(model, selection, seed=0):
    """A state as a run that starts from a base has it: the methods' own start is made."""
    optimizer = optimizers.adamw(schedules.constant(3e-2))
    fresh = state.unbox(state.init_state(model, optimizer, jax.random.key(seed), selection))
    params, frozen = selection.split(model.start(fresh.all_params))
    return dataclasses.replace(fresh, params=params, frozen=frozen), optimizer


def base_params(model):
    return state.unbox(state.init_params(model.model, jax.random.key(0)))


def outputs(model, params, batch, head):
    inputs = (batch['decoder_input_tokens'], None, batch.get('decoder_segment_ids'))
    return np.asarray(model.apply({'params': params}, *inputs, method='__call__' if head == 'words' else 'scores'))


def paths(tree):
    return {path_name(path): np.asarray(leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


@pytest.mark.parametrize('name', METHODS)
@pytest.mark.parametrize('head', ['class', pytest.param('words', marks=pytest.mark.slow)])
def test_the_start_equals_the_base(name, head):
    model, selection = build(head, methods=METHODS[name])
    current, _ = start(model, selection)
    base = base_params(model)
    ours, theirs = paths(current.all_params), paths(base)
    for path, value in theirs.items():  # a method's weights do not disturb the base's initialisation
        np.testing.assert_array_equal(ours[path], value, err_msg=path)
    new = ours.keys() - theirs.keys()
    assert new and all(re.fullmatch('|'.join(f'.*/{m.name}/.*' for m in METHODS[name]), path) for path in new)
    batch = features(head)
    with_methods, without = (
        outputs(model, current.all_params, batch, head),
        outputs(model.model, base, batch, head),
    )
    np.testing.assert_allclose(with_methods, without, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ('head', 'unroll'),
    [
        ('class', 1),
        *(pytest.param(*pair, marks=pytest.mark.slow) for pair in (('words', 1), ('tokens', 1), ('class', 0))),
    ],
)
@pytest.mark.parametrize('part', PARTS)
def test_only_what_is_named_moves_and_the_loss_falls(part, head, unroll):
    model, selection = build(head, unroll, **PARTS[part])
    if head == 'words' and part == 'head_only':
        with pytest.raises(UserError, match='nothing is trained'):
            start(model, selection)
        return
    current, optimizer = start(model, selection)
    model = model.freeze_layers(selection.frozen_layers(current.params, 3))
    loss = losses.LanguageModelLoss() if head == 'words' else head_losses.ClassLoss()
    fn = jax.jit(lambda s, b: step.train_step(s, b, jax.random.key(1), model=model, loss=loss, optimizer=optimizer))
    before, batch = current, features(head)
    history = []
    for _ in range(8):
        current, metrics = fn(current, batch)
        history.append(metrics['loss'].value())
    assert history[-1] < history[0] - 1e-3, history
    for path, value in paths(before.frozen).items():
        np.testing.assert_array_equal(paths(current.frozen)[path], value, err_msg=path)
    after = paths(current.params)
    assert any(not np.array_equal(value, after[path]) for path, value in paths(before.params).items())
    # The optimizer holds two moments of the trained leaves and counters, nothing else.
    moments = sum(x.size for x in jax.tree.leaves(current.opt_state) if x.ndim)
    assert moments == 2 * sum(x.size for x in jax.tree.leaves(current.params))


@pytest.mark.parametrize('name', METHODS)
def test_scanned_and_unrolled_layers_are_the_same_model(name):
    scanned, selection = build(unroll=1, methods=METHODS[name])
    unrolled, _ = build(unroll=0, methods=METHODS[name])
    params = shaken(start(scanned, selection)[0].all_params)
    batch = features('class')
    np.testing.assert_allclose(
        outputs(scanned, params, batch, 'class'), outputs(unrolled, params, batch, 'class'), rtol=1e-5, atol=1e-5
    )


def shaken(params):
    """Parameters away from the start, so that a method does something."""
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(5), len(leaves))
    return tree.unflatten([x + 0.1 * jax.random.normal(k, x.shape) for x, k in zip(leaves, keys, strict=True)])


@pytest.mark.parametrize('name', MERGED)
def test_merged_equals_unmerged(name):
    model, selection = build('words', methods=METHODS[name])
    params = shaken(start(model, selection)[0].all_params)
    merged = model.merge(params)
    base = base_params(model)
    assert paths(merged).keys() == paths(base).keys()
    batch = features('words')
    with_method = outputs(model, params, batch, 'words')
    np.testing.assert_allclose(outputs(model.model, merged, batch, 'words'), with_method, rtol=1e-4, atol=1e-4)
    without = {path: value for path, value in params.items() if path != 'stack'} | {'stack': base['stack']}
    assert np.abs(outputs(model.model, without, batch, 'words') - with_method).max() > 1e-2


@pytest.mark.parametrize('name', ['bitfit', 'adapter'])
def test_what_cannot_be_merged_says_so(name):
    model, selection = build(methods=METHODS[name])
    with pytest.raises(UserError, match='cannot be merged'):
        model.merge(start(model, selection)[0].all_params)


def test_dropout_of_a_method_is_at_work_in_training_only():
    model, selection = build(methods=(LoRA(rank=2, dropout_rate=0.5),))
    assert model.has_dropout
    params, batch = shaken(start(model, selection)[0].all_params), features('class')
    loss = head_losses.ClassLoss()
    values = [float(loss(model, params, batch, key)[0]) for key in (None, None, *jax.random.split(jax.random.key(0)))]
    assert values[0] == values[1] and len(set(values)) == 3
