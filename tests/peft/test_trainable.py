"""Parting a tree by name, and what is computed for each part."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from palm_jax.errors import UserError
from palm_jax.models.palm import Architecture, PaLM
from palm_jax.partitioning import MeshLayout
from palm_jax.peft.lora import LoRA
from palm_jax.peft.prefix import Prefix
from palm_jax.peft.trainable import Trainable, join
from palm_jax.training import losses, optimizers, plan, schedules, setup, state
from palm_jax.training.batch_sizes import BatchSizes

NUM_LAYERS, TOKENS = 5, (2, 16)
MODEL = PaLM(Architecture(vocab_size=61, num_layers=NUM_LAYERS, d_model=24, num_heads=4, head_dim=8))


def boxed(selection, model=MODEL):
    init = lambda rng: state.init_state(model, optimizers.adamw(schedules.constant(1e-3)), rng, selection)  # noqa: E731
    return jax.eval_shape(init, jax.random.key(0))


@pytest.mark.parametrize(
    'selection',
    [
        Trainable(),
        Trainable(('stack/attn/.*', 'final_norm/scale')),
        Trainable(('stack/.*',), top_layers=2),
        Trainable(('.*',), top_layers=NUM_LAYERS),
    ],
)
def test_joined_parts_are_the_whole(micro, selection):
    _, params = micro(num_layers=NUM_LAYERS)
    trained, frozen = selection.split(params)
    jax.tree.map(np.testing.assert_array_equal, join(trained, frozen), params)
    sizes = [sum(x.size for x in jax.tree.leaves(tree)) for tree in (trained, frozen, params)]
    assert sizes[0] + sizes[1] == sizes[2]


def test_the_top_layers_are_the_last_ones(micro):
    _, params = micro(num_layers=NUM_LAYERS)
    trained, frozen = Trainable(('stack/.*',), top_layers=2).split(params)
    np.testing.assert_array_equal(trained['stack']['norm']['scale'], params['stack']['norm']['scale'][3:])
    assert trained['stack']['attn']['qkv']['q'].shape[0] == 2 and frozen['stack']['attn']['qkv']['q'].shape[0] == 3


def test_a_pattern_that_matches_nothing_lists_what_exists():
    with pytest.raises(UserError, match=r"(?s)TRAINABLE: 'stack/atn/.\*' matches no parameter.*stack/attn/qkv/q\n"):
        boxed(Trainable(('stack/atn/.*',)))
    with pytest.raises(UserError, match='is not a regular expression'):
        boxed(Trainable(('stack/(',)))
    with pytest.raises(UserError, match='TRAINABLE_LAYERS is 6; it must be at least 1 and at most 5'):
        boxed(Trainable(('stack/.*',), top_layers=6))


def equations(jaxpr, multiplier=1):
    """(primitive's name, output shape, how often it runs) of all equations, inside loops and calls too."""
    for eqn in jaxpr.eqns:
        yield eqn.primitive.name, eqn.outvars[0].aval.shape if eqn.outvars else (), multiplier
        times = multiplier * eqn.params['length'] if eqn.primitive.name == 'scan' else multiplier
        values = list(eqn.params.values())
        if 'branches_platforms' in eqn.params:  # one branch a platform, of which one runs; the last is the plain one
            values = [eqn.params['branches'][-1]]
        for value in values:
            inner = getattr(value, 'jaxpr', value)
            if hasattr(inner, 'eqns'):
                yield from equations(inner, times)


def products(selection, methods=(), train=True):
    """Matmuls that a step computes, dead code removed, as output shapes with their number."""
    model, _ = setup.adapt(MODEL, methods)
    shapes = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), state.unbox(boxed(selection, model)))
    model = model.freeze_layers(selection.frozen_layers(shapes.params, NUM_LAYERS))
    names = ('input_tokens', 'target_tokens', 'loss_weights')
    batch = {f'decoder_{name}': np.ones(TOKENS, np.int32) for name in names}

    def loss(params):
        return losses.LanguageModelLoss(chunk_length=0)(model, join(params, shapes.frozen), batch)[0]

    jaxpr = jax.make_jaxpr(jax.grad(loss) if train else loss)(shapes.params)
    counts: dict = {}
    for name, shape, times in equations(jaxpr.jaxpr):
        if name == 'dot_general':
            counts[shape] = counts.get(shape, 0) + times
    return counts


def test_gradients_of_frozen_leaves_are_never_computed():
    d_gate_and_up, d_embedding = (24, 192), (1, 24, 61)  # [D, 2·F] and, in the cross-entropy, [N, D, V]
    everything = products(Trainable())
    assert everything[d_gate_and_up] == NUM_LAYERS and everything[d_embedding] == 1
    lora = (LoRA(rank=2),)
    adapted = products(Trainable(('.*/lora/.*',)), lora)
    assert d_gate_and_up not in adapted and d_embedding not in adapted
    assert adapted[(24, 2)] >= NUM_LAYERS  # dA


def test_below_the_lowest_trained_layer_there_is_no_backward_pass():
    d_hidden = (*TOKENS, 96)  # the gradient by SwiGLU's hidden activations
    forward = products(Trainable(), train=False).get(d_hidden, 0)
    assert products(Trainable())[d_hidden] - forward == NUM_LAYERS
    for k in (1, 2):
        selection = Trainable(('stack/.*',), top_layers=k)
        assert products(selection)[d_hidden] - forward == k
        assert products(selection)[(24, 192)] == k
    assert products(Trainable(('final_norm/scale',))).get(d_hidden, 0) == forward


def test_the_plan_tells_what_is_trained_and_what_it_costs():
    selection = Trainable(('stack/.*',), top_layers=1)
    shapes = boxed(selection)
    made = plan.Plan(MODEL, shapes, MeshLayout(), {'data': 1, 'model': 1}, BatchSizes.of(2), 16, 10, NUM_LAYERS - 1)
    whole = plan.Plan(MODEL, boxed(Trainable()), MeshLayout(), {'data': 1, 'model': 1}, BatchSizes.of(2), 16, 10)
    assert made.num_params == whole.num_params == whole.num_trained
    np.testing.assert_allclose(whole.share_of_full_flops, 1.0, rtol=1e-3)  # all but the final norm
    layer = (whole.num_params - 61 * 24 - 24) // NUM_LAYERS
    assert made.num_trained == layer
    total = whole.num_params
    np.testing.assert_allclose(made.share_of_full_flops, (total + layer + 61 * 24 + layer) / (3 * total))
    assert f'{layer:,} of {total:,}' in made.summary(None)
    table = made.parameter_table()
    assert 'embed/embedding' in table and table.count(' yes') == table.count('stack/') // 2


def test_the_plan_shows_axes_without_a_name():
    model, selection = setup.adapt(MODEL, methods=(Prefix(length=3, bottleneck_dim=4),))
    made = plan.Plan(model, boxed(selection, model), MeshLayout(), {'data': 1, 'model': 1}, BatchSizes.of(2), 16, 10)
    (row,) = (line for line in made.parameter_table().splitlines() if line.startswith('stack/attn/memory/prefix/w '))
    assert ' - ' in row and row.endswith('yes')
