"""Every method on every kind of model: where it starts, what it moves, what it merges to."""

import dataclasses
import functools
import re

import jax
import numpy as np
import pytest

from palm_jax.errors import UserError
from palm_jax.inference.generate import Sampler
from palm_jax.models.heads import Head
from palm_jax.models.kernels.rope import rotate
from palm_jax.models.palm import Architecture, PaLM
from palm_jax.parameters import path_name
from palm_jax.peft.adalora import AdaLoRA
from palm_jax.peft.adapter import Adapter
from palm_jax.peft.lora import LoRA
from palm_jax.peft.prefix import Prefix
from palm_jax.peft.prompt import SoftPrompt
from palm_jax.training import head_losses, losses, optimizers, schedules, setup, state, step
from tests.support.methods import METHODS
from tests.support.models import applied, initial, shaken
from tests.support.vocabularies import Numbers

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
VARIANTS = ('rslora', 'wide_prefix', 'norms_only', 'embeddings_only', 'lora_in_the_top_layers')  # of others
MERGED = ('lora', 'rslora', 'dora', 'ia3', 'adalora')
WITH_MORE_TO_SEE = ('prefix', 'wide_prefix', 'prompt', 'several')  # these do not promise to start as the base
ALL_AT_ONCE_OR_EACH = (
    'several',
    *(pytest.param(name, marks=pytest.mark.slow) for name in METHODS if name != 'several'),
)


def build(head='class', unroll=1, **adaptation):
    arch = Architecture(vocab_size=61, num_layers=3, d_model=24, num_heads=4, head_dim=8, unroll_layers=unroll)
    return setup.adapt(PaLM(arch, head=HEADS[head]), **adaptation)


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


@functools.lru_cache(maxsize=64)
def start(model, selection):
    """A state as a run that starts from a base has it: the methods' own start is made."""
    optimizer = model.wrap_optimizer(optimizers.adamw(schedules.constant(3e-2)))
    init = jax.jit(lambda rng: state.unbox(state.init_state(model, optimizer, rng, selection)))
    fresh = init(jax.random.key(0))
    params, frozen = selection.split(model.init_from_base(fresh.all_params))
    return dataclasses.replace(fresh, params=params, frozen=frozen), optimizer


def base_params(model):
    return initial(model.model)


def outputs(model, params, batch, head):
    inputs = (batch['decoder_input_tokens'], None, batch.get('decoder_segment_ids'))
    method = '__call__' if head == 'words' else 'scores'
    return np.asarray(_outputs(model, params, inputs, method))


@functools.partial(jax.jit, static_argnums=(0, 3))
def _outputs(model, params, inputs, method):
    return model.apply({'params': params}, *inputs, method=method)


def paths(tree):
    return {path_name(path): np.asarray(leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


@pytest.mark.parametrize(
    'name', [pytest.param(name, marks=pytest.mark.slow) if name in VARIANTS else name for name in METHODS]
)
@pytest.mark.parametrize('head', ['class', pytest.param('words', marks=pytest.mark.slow)])
def test_the_start_equals_the_base(name, head):
    model, selection = build(head, methods=METHODS[name])
    current, _ = start(model, selection)
    base = base_params(model)
    ours, theirs = paths(current.all_params), paths(base)
    for path, value in theirs.items():  # a method's weights do not disturb the base's initialisation
        np.testing.assert_array_equal(ours[path], value, err_msg=path)
    new = ours.keys() - theirs.keys()
    assert new and all(re.fullmatch('|'.join(f'(.*/)?{m.name}/.*' for m in METHODS[name]), path) for path in new)
    batch = features(head)
    with_methods, without = (
        outputs(model, current.all_params, batch, head),
        outputs(model.model, base, batch, head),
    )
    if name in WITH_MORE_TO_SEE:
        assert np.abs(with_methods - without).max() > 1e-4
    else:
        np.testing.assert_allclose(with_methods, without, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ('head', 'unroll'),
    [
        ('class', 1),
        *(pytest.param(*pair, marks=pytest.mark.slow) for pair in (('words', 1), ('tokens', 1), ('class', 0))),
    ],
)
@pytest.mark.parametrize(
    'part', [pytest.param(part, marks=pytest.mark.slow) if part in VARIANTS else part for part in PARTS]
)
def test_only_what_is_named_moves_and_the_loss_falls(part, head, unroll):
    model, selection = build(head, unroll, **PARTS[part])
    if head == 'words' and part == 'head_only':
        with pytest.raises(UserError, match='nothing is trained'):
            start(model, selection)
        return
    current, optimizer = start(model, selection)
    model = model.freeze_layers(selection.frozen_layers(current.params, 3))
    loss = losses.LanguageModelLoss() if head == 'words' else head_losses.ClassLoss()
    settings = {'model': model, 'loss': loss, 'optimizer': optimizer, 'penalty': model.penalty}
    fn = jax.jit(lambda s, b: step.train_step(s, b, jax.random.key(1), **settings))
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
    # The optimizer holds two moments of the trained leaves and counters, nothing else; AdaLoRA's two averages more
    # of its own leaves, and which entries of E it keeps.
    moments = sum(x.size for x in jax.tree.leaves(current.opt_state) if x.ndim)
    own = {path: x.size for path, x in after.items() if '/adalora/' in path}
    kept = sum(size for path, size in own.items() if path.endswith('_e'))
    assert moments == 2 * sum(x.size for x in after.values()) + 2 * sum(own.values()) + kept


@pytest.mark.parametrize('name', ALL_AT_ONCE_OR_EACH)
def test_scanned_and_unrolled_layers_are_the_same_model(name):
    scanned, selection = build(unroll=1, methods=METHODS[name])
    unrolled, _ = build(unroll=0, methods=METHODS[name])
    params = shaken(start(scanned, selection)[0].all_params)
    batch = features('class')
    np.testing.assert_allclose(
        outputs(scanned, params, batch, 'class'), outputs(unrolled, params, batch, 'class'), rtol=1e-5, atol=1e-5
    )


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


@pytest.mark.parametrize('name', ['bitfit', 'adapter', 'prefix', 'prompt'])
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


@pytest.mark.parametrize('name', ALL_AT_ONCE_OR_EACH)
def test_what_is_written_over_the_cache_is_what_whole_passes_say(name):
    model, selection = build('words', methods=METHODS[name])
    params = shaken(start(model, selection)[0].all_params)
    prompts = [[0, 7, 5], [0, 9, 4, 3, 8, 2]]
    sampler = Sampler(max_tokens=6, temperature=0.0)
    written = [list(best.ids) for (best,) in sampler.generate(model, params, Numbers(), prompts, 32)]
    whole = [ids + continuation for ids, continuation in zip(prompts, written, strict=True)]
    tokens = np.array([ids + [0] * (12 - len(ids)) for ids in whole], np.int32)
    logits = outputs(model, params, {'decoder_input_tokens': tokens}, 'words')
    for row, (ids, continuation) in enumerate(zip(prompts, written, strict=True)):
        for at, token in enumerate(continuation, len(ids) - 1):
            assert logits[row, at].max() - logits[row, at, token] < 1e-4
    assert any(written)


def test_a_prompt_begins_as_the_tokens_it_is_given():
    rng = np.random.default_rng(0)
    embedding = rng.normal(size=(20, 4)).astype(np.float32)
    beside, own = {'embed': {'embedding': embedding}}, {'embedding': np.zeros((3, 4), np.float32)}
    prompt = SoftPrompt(length=3, initial_ids=[[4, 7], [5]]).init_from_base(beside, own)['embedding']
    np.testing.assert_allclose(prompt[0], embedding[[4, 7]].mean(axis=0), rtol=1e-6)
    np.testing.assert_array_equal(prompt[1], embedding[5])
    assert any(np.array_equal(prompt[2], row) for row in embedding)


def test_a_prompt_gives_what_its_tokens_in_the_text_would():
    model, _ = build('words', methods=(SoftPrompt(length=3, initial_ids=[[4], [5], [6]]),))
    base = base_params(model)
    params = model.init_from_base(initial(model))
    text = np.array([[0, 9, 8, 7]], np.int32)
    whole = np.concatenate([np.array([[4, 5, 6]], np.int32), text], axis=1)
    expected = np.asarray(applied(model.model, base, whole))[:, 3:]
    np.testing.assert_allclose(applied(model, params, text), expected, rtol=1e-5, atol=1e-5)


def test_a_prefix_is_what_a_cache_of_tokens_before_the_text_would_be():
    """Keys and values of tokens at positions 0 to 2 as the prefix: the text then reads as if they preceded it."""
    model, _ = build('words', methods=(Prefix(length=3),))
    base = base_params(model)
    text = np.array([[9, 8, 7, 30]], np.int32)
    whole = np.concatenate([np.array([[4, 5, 6]], np.int32), text], axis=1)
    _, memory = model.model.apply({'params': base}, whole, mutable=['cache'])
    cached = memory['cache']['stack']['attn']['memory']
    params = initial(model)
    # The cache holds keys turned by their positions 0, 1, 2; a prefix turns its own by -3, -2, -1.
    keys = jax.vmap(lambda k: rotate(k, np.arange(0, -3, -1)[None], model.arch.rope_theta))(cached['k'][:, :, :3])
    own = {'k': keys[:, 0], 'v': cached['v'][:, 0, :3]}
    params['stack']['attn']['memory'] = {'prefix': own}
    expected = np.asarray(applied(model.model, base, whole))[:, 3:]
    np.testing.assert_allclose(applied(model, params, text), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ('make', 'message'),
    [
        (lambda: LoRA(rank=0), 'LoRA.rank is 0'),
        (lambda: AdaLoRA(rank=4, target_rank=2, dropout_rate=1.0), 'dropout_rate is 1.0'),
        (lambda: Adapter(bottleneck_dim=0), 'Adapter.bottleneck_dim is 0'),
        (lambda: Prefix(length=0), 'Prefix.length is 0; it must be at least 1'),
    ],
)
def test_a_size_that_cannot_be_is_refused(make, message):
    with pytest.raises(UserError, match=message):
        make()
