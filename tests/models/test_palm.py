"""The model against the paper: its equation, its numbers, what may not leak."""

import dataclasses
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from palm_jax.errors import UserError
from palm_jax.models.masks import Mask
from palm_jax.models.palm import Architecture, Block, PaLM
from palm_jax.training import setup, state
from tests.support import numpy_palm
from tests.support.architectures import MICRO
from tests.support.models import applied, initial

ABLATIONS = {
    'palm': {},
    'heads wider than the model': {'head_dim': 10},
    'grouped heads': {'num_kv_heads': 2},
    'multi-head': {'num_kv_heads': 4},
    'rmsnorm': {'norm': 'rmsnorm'},
    'serial': {'parallel': False},
    'qk-norm': {'qk_norm': True},
    'theta': {'rope_theta': 500.0},
    'mlp size': {'mlp_dim': 40},
    'logit scale': {'logit_scale': 0.125},
    'xpos': {'xpos_scale_base': 16.0},
    'no final norm': {'final_norm': False},
    'output matrix': {'shared_embedding': False},
    'biases': {'qkv_bias': True, 'num_kv_heads': 2},
    'geglu': {'mlp_gate': 'gelu'},
    'embedding scale': {'embedding_scale': 24**0.5},
    'linear rope': {'rope_scaling': 'linear', 'rope_factor': 4.0},
    'llama 3 rope': {'rope_scaling': 'llama3', 'rope_factor': 8.0, 'rope_original_length': 64, 'rope_theta': 500.0},
    'window': {'window': 6},
    'windows but for a layer without rotation': {'window': 6, 'global_layers': (1,), 'unrotated_layers': (1,)},
}


@pytest.mark.parametrize('changes', ABLATIONS.values(), ids=ABLATIONS)
def test_logits_equal_an_independent_numpy_palm(micro, tokens, changes):
    model, params = micro(**changes)
    params = jax.tree.map(lambda p: p * 1.1 + 0.02, params)  # scales that are not one
    ours = applied(model, params, tokens)
    arrays = jax.tree.map(lambda p: np.asarray(p, np.float64), params)
    for row in range(len(tokens)):
        expected = numpy_palm.logits(arrays, tokens[row], model.arch)
        np.testing.assert_allclose(ours[row], expected, rtol=2e-4, atol=2e-5)


@pytest.mark.parametrize(
    'layers, width, heads, exact',
    [(32, 4096, 16, 8_632_012_800), (64, 8192, 32, 62_495_662_080), (118, 18432, 48, 540_356_474_880)],
    ids=['8B', '62B', '540B'],
)
def test_parameter_counts_of_the_paper_to_the_digit(layers, width, heads, exact):
    model = PaLM(Architecture(vocab_size=256_000, num_layers=layers, d_model=width, num_heads=heads))
    shapes = jax.eval_shape(lambda rng: state.init_params(model, rng), jax.random.key(0))
    assert sum(math.prod(x.shape) for x in jax.tree.leaves(shapes)) == exact


def test_only_kernels_scales_and_one_embedding(micro):
    _, params = micro()
    paths = {'/'.join(k.key for k in path) for path, _ in jax.tree_util.tree_leaves_with_path(params)}
    assert paths == {
        'embed/embedding',
        'final_norm/scale',
        'stack/norm/scale',
        'stack/attn/qkv/q',
        'stack/attn/qkv/k',
        'stack/attn/qkv/v',
        'stack/attn/out/kernel',
        'stack/mlp/in/gate',
        'stack/mlp/in/up',
        'stack/mlp/out/kernel',
    }


def test_initialization_is_the_papers(micro):
    _, params = micro(vocab_size=500, d_model=64, num_heads=4, head_dim=32, num_layers=4)
    stack = params['stack']
    fan_in = {
        ('attn', 'qkv', 'q'): 64,
        ('attn', 'out', 'kernel'): 128,
        ('mlp', 'in', 'gate'): 64,
        ('mlp', 'out', 'kernel'): 256,
    }
    for (a, b, c), fan in fan_in.items():
        np.testing.assert_allclose(np.std(stack[a][b][c]), fan**-0.5, rtol=0.03)
    np.testing.assert_allclose(np.std(params['embed']['embedding']), 1.0, rtol=0.03)
    assert np.all(np.asarray(stack['norm']['scale']) == 1)
    assert not np.array_equal(stack['mlp']['in']['gate'][0], stack['mlp']['in']['gate'][1])  # a key a layer


def test_block_is_x_plus_mlp_and_attention_of_one_norm(micro):
    """y = x + MLP(LN(x)) + Attn(LN(x)): silencing either branch leaves the other's contribution unchanged."""
    model, params = micro()
    x = jax.random.normal(jax.random.key(1), (1, 10, 24))

    def block(*silent):
        layer = jax.tree.map(lambda p: p[1], params['stack'])
        for branch in silent:
            layer[branch]['out']['kernel'] = jnp.zeros_like(layer[branch]['out']['kernel'])
        return Block(model.arch).apply({'params': layer}, x, jnp.arange(10)[None], Mask())[0]

    np.testing.assert_array_equal(block('attn', 'mlp'), x)
    np.testing.assert_allclose(block() - x, (block('mlp') - x) + (block('attn') - x), atol=1e-5)
    assert np.abs(block('mlp') - x).max() > 1e-2 and np.abs(block('attn') - x).max() > 1e-2


@pytest.mark.parametrize('attention', ['blocks', 'xla'])
def test_a_changed_token_moves_no_earlier_logit(micro, tokens, attention):
    model, params = micro(attention=attention)
    changed = tokens.copy()
    changed[:, 25] = (changed[:, 25] + 5) % 61
    before, after = (applied(model, params, t) for t in (tokens, changed))
    np.testing.assert_array_equal(before[:, :25], after[:, :25])
    assert np.abs(before[:, 25:] - after[:, 25:]).max() > 1e-3


@pytest.mark.parametrize('attention', ['blocks', 'xla'])
def test_a_changed_token_moves_no_logit_of_another_segment(micro, tokens, attention):
    model, params = micro(attention=attention)
    segments = np.repeat([[1] * 17 + [2] * 23], 2, axis=0).astype(np.int32)
    positions = np.repeat([[*range(17), *range(23)]], 2, axis=0).astype(np.int32)
    changed = tokens.copy()
    changed[:, 3] = (changed[:, 3] + 5) % 61
    before, after = (applied(model, params, t, positions, segments) for t in (tokens, changed))
    np.testing.assert_array_equal(before[:, 17:], after[:, 17:])
    alone = applied(model, params, tokens[:, 17:])
    np.testing.assert_allclose(before[:, 17:], alone, atol=1e-5)  # packed is as if alone


def test_a_prefix_is_bidirectional_and_nothing_else(micro, tokens):
    model, params = micro()
    prefix = np.zeros_like(tokens)
    prefix[:, :10] = 1
    changed = tokens.copy()
    changed[:, 8] = (changed[:, 8] + 5) % 61
    before, after = (applied(model, params, t, causal_attention_BL=prefix) for t in (tokens, changed))
    assert np.abs(before[:, 0] - after[:, 0]).max() > 1e-4  # the first token sees the ninth
    changed = tokens.copy()
    changed[:, 12] = (changed[:, 12] + 5) % 61
    after = applied(model, params, changed, causal_attention_BL=prefix)
    np.testing.assert_array_equal(before[:, :12], after[:, :12])


@pytest.mark.parametrize(
    'changes',
    [{'unroll_layers': 0}, {'unroll_layers': 2}, {'remat': 'minimal'}, {'remat': 'full'}, {'fuse_projections': False}],
    ids=str,
)
def test_how_it_is_computed_changes_neither_values_nor_the_layout(micro, tokens, changes):
    model, params = micro()
    other, other_params = micro(**changes)
    jax.tree.map(np.testing.assert_array_equal, params, other_params)

    def loss(m, p):
        return jnp.sum(jnp.sin(m.apply({'params': p}, tokens)))

    value, grads = jax.jit(jax.value_and_grad(lambda p: loss(model, p)))(params)
    other_value, other_grads = jax.jit(jax.value_and_grad(lambda p: loss(other, p)))(params)
    np.testing.assert_allclose(value, other_value, rtol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4), grads, other_grads)


def test_half_precision_computes_in_it_and_keeps_float32_parameters(micro, tokens):
    model, params = micro(dtype='bfloat16')
    assert {p.dtype.name for p in jax.tree.leaves(params)} == {'float32'}
    assert model.apply({'params': params}, tokens, method='features').dtype == jnp.bfloat16
    full, _ = micro()
    exact, rounded = (np.asarray(applied(m, params, tokens)) for m in (full, model))
    assert rounded.dtype == np.float32
    np.testing.assert_allclose(rounded, exact, atol=0.15)


def test_dropout_needs_and_uses_its_key(micro, tokens):
    model, params = micro(dropout_rate=0.5)

    def run(key):
        return model.apply({'params': params}, tokens, deterministic=False, rngs={'dropout': jax.random.key(key)})

    np.testing.assert_array_equal(run(1), run(1))
    assert np.abs(run(1) - run(2)).max() > 1e-3
    dry, _ = micro()
    np.testing.assert_array_equal(model.apply({'params': params}, tokens), dry.apply({'params': params}, tokens))


@pytest.mark.parametrize(
    'changes, message',
    [
        ({'num_kv_heads': 3}, 'Possible: 1, 2, 4'),
        ({'head_dim': 7}, 'even'),
        ({'num_layers': 0}, 'at least 1'),
        ({'dropout_rate': 1.0}, 'must be at least 0 and below 1'),
    ],
)
def test_impossible_architectures_say_what_is_possible(micro, changes, message):
    with pytest.raises(UserError, match=message):
        micro(**changes)


@pytest.mark.parametrize(
    'platform, num_layers, unrolled, fused',
    [('cpu', 3, 3, True), ('cpu', 32, 1, True), ('gpu', 32, 32, False), ('gpu', 33, 1, False), ('tpu', 3, 1, True)],
)
def test_auto_is_the_fastest_of_the_platform(platform, num_layers, unrolled, fused):
    arch = Architecture(vocab_size=61, num_layers=num_layers, d_model=24, num_heads=4)
    assert arch.scan_unroll == 1 and arch.fuse_projections  # unless a run resolves it
    resolved = setup.adapt(PaLM(arch), platform=platform)[0].arch
    assert resolved.scan_unroll == unrolled and resolved.fuse_projections is fused
    chosen = dataclasses.replace(arch, unroll_layers=2, fuse_projections=not fused)
    assert setup.adapt(PaLM(chosen), platform=platform)[0].arch == chosen


def test_initialization_of_an_unrolled_model_traces_one_layer():
    def num_equations(layers):
        model = PaLM(Architecture(vocab_size=61, num_layers=layers, d_model=24, num_heads=4, unroll_layers=0))
        return str(jax.make_jaxpr(lambda rng: state.unbox(state.init_params(model, rng)))(jax.random.key(0))).count('=')

    assert num_equations(8) == num_equations(2)


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ({'global_layers': (0, 3)}, 'global_layers names layer 3; the layers are 0 to 2'),
        ({'unrotated_layers': (-1,)}, r'unrotated_layers is \(-1,\); each item must be at least 0'),
        ({'rope_high_frequency_factor': 1.0}, 'must be above rope_low_frequency_factor = 1.0'),
        ({'window': 0}, 'window is 0; it must be'),
        ({'embedding_scale': 0.0}, 'embedding_scale is 0.0; it must be'),
        ({'unrotated_layers': [2, 3]}, 'unrotated_layers names layer 3'),
        ({'rope_factor': 0.5}, 'rope_factor is 0.5; it must be'),
    ],
)
def test_fields_outside_their_bounds_are_refused(changes, message):
    with pytest.raises(UserError, match=message):
        Architecture(**(MICRO | changes))


@pytest.mark.parametrize('attention', ['blocks', 'xla'])
@pytest.mark.parametrize('remat', ['none', 'full'])
def test_a_window_and_its_exceptions_hold_with_every_kernel_packed_and_with_frozen_layers(
    micro, tokens, attention, remat
):
    pattern = {'window': 6, 'global_layers': (2,), 'unrotated_layers': (2,), 'attention': attention, 'remat': remat}
    model, params = micro(**pattern)
    segments = np.repeat([[1] * 17 + [2] * 23], 2, axis=0).astype(np.int32)
    positions = np.repeat([[*range(17), *range(23)]], 2, axis=0).astype(np.int32)
    packed = applied(model.clone(frozen_layers=2), params, tokens, positions, segments)
    alone = applied(model, params, tokens[:, 17:])
    np.testing.assert_allclose(packed[:, 17:], alone, atol=1e-4)
    changed = tokens.copy()
    changed[:, 0] = (changed[:, 0] + 5) % 61
    limited, params = micro(window=4, attention=attention)  # 3 layers of 4 keys reach 10 tokens, the token itself one
    before, after = (applied(limited, params, t) for t in (tokens, changed))
    np.testing.assert_allclose(before[:, 10:], after[:, 10:], atol=1e-6)
    assert np.abs(before[:, 9] - after[:, 9]).max() > 1e-7


@pytest.mark.parametrize('fuse_projections', [True, False])
@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
def test_a_loop_over_the_layers_keeps_no_copy_of_the_weights(fuse_projections, dtype, capsys):
    arch = Architecture(
        **(MICRO | {'num_layers': 3, 'unroll_layers': 1, 'fuse_projections': fuse_projections, 'dtype': dtype})
    )
    model = PaLM(arch)
    params, tokens = initial(model), jnp.zeros((1, 1), jnp.int32)  # one token: no activation is as large as a weight
    jax.ad_checkpoint.print_saved_residuals(lambda params: model.apply({'params': params}, tokens).sum(), params)
    kept = [line for line in capsys.readouterr().out.splitlines() if 'from the argument' not in line]
    sizes = [math.prod(map(int, shape.split(','))) for shape in re.findall(r'\[(3,[\d,]+)\]', '\n'.join(kept))]
    assert sizes, kept  # the activations of the loop
    assert max(sizes) < min(leaf.size for leaf in jax.tree.leaves(params['stack']) if leaf.ndim > 2)


def test_minimal_rematerialization_is_between_none_and_full(micro):
    """Between the passes `none` keeps all, `minimal` the outputs of linear maps, `full` the inputs of blocks."""
    flops, memory = {}, {}
    tokens = np.zeros((4, 128), np.int32)
    for remat in ('none', 'minimal', 'full'):
        for unroll in (0, 1):  # FLOPs of a loop are counted once, and unrolled code shares memory between layers
            model, params = micro(d_model=64, num_layers=3, remat=remat, unroll_layers=unroll)
            loss = lambda params, model=model: jnp.sum(model.apply({'params': params}, tokens) ** 2)  # noqa: E731
            compiled = jax.jit(jax.grad(loss)).lower(params).compile()
            flops[remat, unroll] = compiled.cost_analysis()['flops']
            memory[remat, unroll] = compiled.memory_analysis().temp_size_in_bytes
    assert flops['none', 0] < flops['minimal', 0] < flops['full', 0]
    assert memory['none', 1] > memory['minimal', 1] > memory['full', 1]
