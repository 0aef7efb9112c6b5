"""Eight devices compute what one computes, and the mesh is used."""

import subprocess
import sys
import textwrap
from pathlib import Path

import jax
import numpy as np
import pytest

from palm_jax import partitioning
from palm_jax.errors import UserError
from palm_jax.models.palm import Architecture, PaLM
from palm_jax.training import state
from tests.peft.test_methods import METHODS

EIGHT_DEVICES = """
    import functools
    import flax.linen as nn, jax, jax.numpy as jnp, numpy as np
    from palm_jax import partitioning
    from palm_jax.models.palm import Architecture, PaLM
    from palm_jax.training import losses, optimizers, schedules, setup, state, step
    from tests.peft.test_methods import METHODS

    assert jax.device_count() == 8
    tokens = np.random.default_rng(0).integers(0, 64, (16, 32)).astype(np.int32)
    batch = {{f'decoder_{{n}}': tokens for n in ('input_tokens', 'target_tokens')}}
    batch['decoder_loss_weights'] = (tokens % 4 == 0).astype(np.int32) if {skip} else np.ones_like(tokens)

    def remembering(optimizer):
        # the same updates; the state also holds the last gradient
        def update(grads, state, params):
            updates, new = optimizer.update(grads, state[0], params)
            return updates, (new, grads)

        return optimizer._replace(init=lambda p: (optimizer.init(p), jax.tree.map(jnp.zeros_like, p)), update=update)

    def run(devices, layout, unroll=1, microbatches=1):
        arch = Architecture(
            vocab_size=64, num_layers=2, d_model=32, num_heads=4, head_dim=8, num_kv_heads={kv}, unroll_layers=unroll
        )
        model, selection = setup.adapt(PaLM(arch), **{adaptation})
        model = model.freeze_layers(arch.num_layers - (selection.top_layers or arch.num_layers))
        optimizer = remembering(model.wrap(optimizers.{optimizer}(schedules.constant(1e-2){settings})))
        loss = model.penalized(losses.LanguageModelLoss(chunk_length=16, skip_unweighted={skip}))
        mesh = layout.mesh(devices)
        with jax.set_mesh(mesh), nn.logical_axis_rules(layout.rules):
            init = functools.partial(state.init_state, model, optimizer, trainable=selection)
            boxed = jax.eval_shape(init, jax.random.key(0))
            shardings = layout.shardings(boxed, mesh)
            current = jax.jit(lambda r: state.unbox(init(r)), out_shardings=shardings)(jax.random.key(0))
            fn = functools.partial(
                step.train_step, model=model, loss=loss, optimizer=optimizer, microbatches=microbatches
            )
            sharded = partitioning.shard_batch(batch, mesh)
            jaxpr = str(jax.make_jaxpr(fn)(current, sharded, jax.random.key(1)))
            assert jaxpr.count('sharding_constraint') >= 3, 'the logical constraints are gone'
            fn = jax.jit(fn, out_shardings=(shardings, None))
            for _ in range(3):
                current, metrics = fn(current, sharded, jax.random.key(1))
        return current, metrics['loss'].value(), selection

    def assert_near(one, eight):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-3, atol=2e-5), one, eight)

    one, one_loss, selection = run(jax.devices()[:1], partitioning.Layout())
    for unroll, microbatches in {variants}:
        eight, eight_loss, _ = run(None, partitioning.Layout({layout}), unroll, microbatches)
        gate = eight.all_params['stack']['mlp']['in']['gate']
        local = gate.addressable_shards[0].data.size
        assert gate.size // local == {split}, (gate.size, local)
        for moment in [x for x in jax.tree.leaves(eight.opt_state) if x.shape == gate.shape]:
            assert selection.patterns == ('.*',) and moment.size // moment.addressable_shards[0].data.size == {split}
        np.testing.assert_allclose(one_loss, eight_loss, rtol=1e-5)
        assert_near(one.opt_state[1], eight.opt_state[1])
        assert_near(one.params, eight.params)
    print('equal')
"""


MESHES = {
    'replicated': ('rules=partitioning.data_parallel()', 1),
    'sharded': ('', 8),
    'sharded twice': ('model=2', 8),
    'tensor': ('model=4, rules=partitioning.data_parallel()', 4),
    'two-dimensional': ('model=4, rules=partitioning.two_dimensional()', 8),
    'sequence': ('model=4, rules=partitioning.sequence()', 8),
}


def assert_eight_equal_one(
    mesh, kv=1, optimizer='adafactor', settings='', adaptation='{}', variants=((1, 1),), skip=False
):
    layout, split = MESHES[mesh]
    code = textwrap.dedent(EIGHT_DEVICES).format(
        layout=layout, split=split, kv=kv, optimizer=optimizer, settings=settings, adaptation=adaptation,
        variants=variants, skip=skip,
    )  # fmt: skip
    assert on_eight_devices(code).endswith('equal')


@pytest.mark.parametrize(
    'mesh, kv, optimizer, variant',
    [
        ('replicated', 1, 'adafactor', (1, 1)),
        ('sharded', 1, 'adafactor', (2, 2)),
        ('sharded twice', 1, 'adafactor', (1, 1)),
        ('sharded twice', 4, 'muon', (2, 1)),
        ('tensor', 2, 'adamw', (1, 2)),
        ('two-dimensional', 1, 'adafactor', (1, 1)),
        ('sequence', 1, 'adafactor', (1, 2)),
    ],
)
def test_eight_devices_equal_one(mesh, kv, optimizer, variant):
    assert_eight_equal_one(mesh, kv, optimizer, variants=[variant])


@pytest.mark.parametrize(
    'mesh', [mesh if mesh == 'sequence' else pytest.param(mesh, marks=pytest.mark.slow) for mesh in MESHES]
)
def test_positions_without_weight_are_skipped_on_eight_devices_as_on_one(mesh):
    assert_eight_equal_one(mesh, skip=True)


@pytest.mark.slow
@pytest.mark.parametrize('mesh', MESHES)
def test_every_mesh_scanned_and_unrolled_accumulating_and_not(mesh):
    assert_eight_equal_one(mesh, variants=[(unroll, microbatches) for unroll in (1, 2) for microbatches in (1, 2)])


@pytest.mark.parametrize(
    'method', [name if name == 'dora' else pytest.param(name, marks=pytest.mark.slow) for name in METHODS]
)
def test_methods_on_eight_devices_equal_one(method):
    top = ', "trainable_layers": 1' if method == 'dora' else ''
    adaptation = f'{{"methods": METHODS["{method}"]{top}}}'
    # Methods begin with gradients that are all but 0, whose rounding Adam would make a part of a step of.
    assert_eight_equal_one('sharded twice', optimizer='adamw', settings=', epsilon=1e-6', adaptation=adaptation)


def on_eight_devices(code):
    """What a program prints that sees eight devices."""
    environment = {
        'XLA_FLAGS': '--xla_force_host_platform_device_count=8',
        'JAX_PLATFORMS': 'cpu',
        'PATH': '/usr/bin:/bin',
    }
    result = subprocess.run(
        [sys.executable, '-c', code],
        capture_output=True,
        text=True,
        env=environment,
        cwd=Path(__file__).parents[1],
        check=False,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    return result.stdout.strip()


WRITING = """
    import jax, numpy as np
    from palm_jax import trained
    from palm_jax.inference.beam import BeamSearch
    from palm_jax.inference.generate import Sampler
    from palm_jax.models.palm import Architecture, PaLM
    from palm_jax.partitioning import Layout
    from tests.inference.test_generate import Numbers
    assert jax.device_count() == 8
    model = PaLM(Architecture(vocab_size=64, num_layers=2, d_model=32, num_heads=4, head_dim=8))
    split = trained._in_place(model, Layout(model=2))
    assert split['stack']['attn']['qkv']['q'].addressable_shards[0].data.shape == (2, 8, 2, 8)
    whole = jax.tree.map(np.asarray, split)
    prompts = [[0, *range(3, 3 + n)] for n in (2, 9, 4)]
    beam = BeamSearch(beams=2, max_tokens=5)
    for writer in (Sampler(max_tokens=8, temperature=0), Sampler(max_tokens=8, seed=3), beam):
        one, eight = (writer.write(model, params, Numbers(), prompts, 32) for params in (whole, split))
        assert [c.ids for of in one for c in of] == [c.ids for of in eight for c in of]
    print('equal')
"""


def test_text_is_written_on_eight_devices_as_on_one():
    assert on_eight_devices(textwrap.dedent(WRITING)).endswith('equal')


def boxed(**changes):
    arch = {'vocab_size': 64, 'num_layers': 2, 'd_model': 32, 'num_heads': 4, 'head_dim': 8} | changes
    return jax.eval_shape(lambda rng: state.init_params(PaLM(Architecture(**arch)), rng), jax.random.key(0))


def test_what_a_mesh_does_not_divide_is_named():
    layout = partitioning.Layout(model=3)
    with pytest.raises(UserError, match='vocab` has size 64, which model = 3'):
        layout.check(boxed(), layout.axis_sizes(3))
    with pytest.raises(UserError, match='does not fit 8 device'):
        layout.axis_sizes(8)


def test_bytes_per_device_follow_the_split():
    tree, layout = boxed(), partitioning.Layout(model=2)
    whole = partitioning.bytes_per_device(tree, layout, {'data': 1, 'model': 1})
    assert whole == sum(4 * np.prod(x.shape) for x in jax.tree.leaves(tree))
    assert whole / 16 < partitioning.bytes_per_device(tree, layout, {'data': 8, 'model': 2}) < whole / 8


def test_an_axis_without_a_rule_is_an_error():
    with pytest.raises(UserError, match='No rule'):
        partitioning.Layout(rules=(('act_batch', 'data'),)).check(boxed(), {'data': 1, 'model': 1})


COLLECTIVES = """
    import functools, flax.linen as nn, jax, jax.numpy as jnp, re
    from palm_jax import partitioning
    from palm_jax.models.palm import Architecture, PaLM
    from palm_jax.partitioning import Layout
    from palm_jax.training import losses, optimizers, schedules, state
    from palm_jax.training.step import train_step
    from tools.collectives import collectives_of

    B, L, D, H, K, F, V, N = 8, 24, 128, 8, 16, 512, 256, 3
    arch = Architecture(vocab_size=V, num_layers=N, d_model=D, num_heads=H, head_dim=K, mlp_dim=F)
    model, optimizer = PaLM(arch), optimizers.adamw(schedules.constant(1e-3))

    def step_collectives(layout, chunk_length=0):
        mesh = layout.mesh()
        with jax.set_mesh(mesh), nn.logical_axis_rules(layout.rules):
            init = functools.partial(state.init_state, model, optimizer)
            boxed = jax.eval_shape(init, jax.random.key(0))
            places = layout.shardings(boxed, mesh)
            shapes = jax.tree.map(
                lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), state.unbox(boxed), places
            )
            by_batch = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec('data'))
            batch = {
                f'decoder_{name}': jax.ShapeDtypeStruct((B, L), jnp.int32, sharding=by_batch)
                for name in ('input_tokens', 'target_tokens', 'loss_weights')
            }
            loss = losses.LanguageModelLoss(chunk_length=chunk_length)
            step = functools.partial(train_step, model=model, loss=loss, optimizer=optimizer)
            traced = jax.jit(step, donate_argnums=0, out_shardings=(places, None)).trace(
                shapes, batch, jax.random.key(0)
            )
            # With the matmuls of GPUs: the orientation of weights' gradients on a CPU gathers activations.
            compiled = traced.lower(lowering_platforms=('cuda',)).compile()
        return collectives_of(compiled.as_text())

    def of(kind, found):
        return [name for name in found if name.startswith(kind)]

    def gathers_activations(found):
        large = [name for name in of('all-gather', found) if found[name][1] > 4096]  # not ids, nor a number a token
        return [name for name in large if re.search(rf'[\\[,]({L}|{B * L})[,\\]]', name)]

    found = step_collectives(Layout(rules=partitioning.data_parallel()))
    assert of('all-reduce', found) and not of('all-gather', found), found
    found = step_collectives(Layout())
    assert of('all-gather', found) and not gathers_activations(found), found
    found = step_collectives(Layout(model=2))
    assert of('all-gather', found) and of('all-reduce', found) and not gathers_activations(found), found
    for layout in (Layout(), Layout(model=2)):  # chunks of the loss share what devices tell each other
        whole, chunked = (sum(n * size for n, size in step_collectives(layout, c).values()) for c in (0, 4))
        assert chunked < 1.05 * whole, (whole, chunked)
    print('as expected')
"""


def test_a_step_has_the_collectives_that_its_layout_needs_and_gathers_no_activation():
    assert on_eight_devices(textwrap.dedent(COLLECTIVES)).endswith('as expected')


MOVING = """
    import functools, flax.linen as nn, jax, numpy as np, sys
    from pathlib import Path
    from palm_jax import partitioning
    from palm_jax.models.palm import Architecture, PaLM
    from palm_jax.partitioning import Layout
    from palm_jax.training import optimizers, schedules, state
    from palm_jax.training.checkpoints import Checkpoints

    model = PaLM(Architecture(vocab_size=64, num_layers=2, d_model=32, num_heads=4, head_dim=8))
    optimizer = optimizers.adafactor(schedules.constant(1e-2))
    init = functools.partial(state.init_state, model, optimizer)
    boxed = jax.eval_shape(init, jax.random.key(0))
    meshes = {
        'one': (Layout(), jax.devices()[:1]),
        'replicated': (Layout(rules=partitioning.data_parallel()), None),
        'sharded': (Layout(), None),
        'two by four': (Layout(model=4), None),
        'four by two': (Layout(model=2, rules=partitioning.sequence()), None),
        'half': (Layout(model=2), jax.devices()[4:]),
    }
    places = {name: layout.shardings(boxed, layout.mesh(devices)) for name, (layout, devices) in meshes.items()}
    original = jax.jit(lambda rng: state.unbox(init(rng)))(jax.random.key(5))
    for source, there in places.items():
        folder = Path(sys.argv[1]) / source
        checkpoints = Checkpoints(folder, 1, {'vocabulary': 'bytes'})
        checkpoints.save(jax.device_put(original, there), 1)
        checkpoints.wait()
        for here in places.values():
            target = jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), original, here)
            moved, _ = checkpoints.restore(target)
            for a, b, sharding in zip(*map(jax.tree.leaves, (moved, original, here)), strict=True):
                assert a.sharding == sharding
                np.testing.assert_array_equal(a, b)
        checkpoints.close()
    print('moved')
"""


def test_checkpoints_move_between_any_two_meshes(tmp_path):
    code = textwrap.dedent(MOVING).replace('sys.argv[1]', repr(str(tmp_path)))
    assert on_eight_devices(code).endswith('moved')
