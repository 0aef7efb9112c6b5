"""Eight devices compute what one computes, and the mesh is used."""

import dataclasses
import json
import os

import jax
import numpy as np
import pytest

from palm_jax import partitioning
from palm_jax.errors import UserError
from palm_jax.models.palm import Architecture, PaLM
from palm_jax.training import state
from tests.support.interpreter import Interpreter
from tests.support.meshes import MESHES
from tests.support.methods import METHODS
from tests.support.runs import arguments, losses


@pytest.fixture(scope='module')
def eight_devices():
    """A process in which JAX sees eight devices."""
    flags = f'--xla_force_host_platform_device_count=8 {os.environ["XLA_FLAGS"]}'
    with Interpreter(XLA_FLAGS=flags, JAX_PLATFORMS='cpu') as interpreter:
        yield interpreter


@pytest.fixture(scope='module')
def on_eight_devices(eight_devices):
    """Runs a module of tests/programs where JAX sees eight devices, and returns what it prints."""

    def run(program, *arguments):
        result = eight_devices.run_script(program, *arguments)
        assert result.returncode == 0, result.stderr[-3000:]
        return result.stdout.strip()

    return run


@pytest.fixture
def assert_eight_equal_one(on_eight_devices):
    """Trains on one device and on a mesh of eight; the keywords are fields of `train_on_a_mesh.Case`."""

    def check(mesh, **case):
        assert on_eight_devices('train_on_a_mesh', json.dumps({'mesh': mesh} | case)).endswith('equal')

    return check


@pytest.mark.parametrize(
    'mesh, kv, optimizer, variant',
    [
        pytest.param('replicated', 1, 'adafactor', (1, 1), marks=pytest.mark.slow),
        ('sharded', 1, 'adafactor', (2, 2)),
        pytest.param('sharded twice', 1, 'adafactor', (1, 1), marks=pytest.mark.slow),
        ('sharded twice', 4, 'muon', (2, 1)),
        ('tensor', 2, 'adamw', (1, 2)),
        pytest.param('two slices', 1, 'adafactor', (1, 1), marks=pytest.mark.slow),
        ('two-dimensional', 1, 'adafactor', (1, 1)),
        ('sequence', 1, 'adafactor', (1, 2)),
        pytest.param('pipeline', 1, 'adafactor', (1, 2), marks=pytest.mark.slow),
    ],
)
def test_eight_devices_equal_one(assert_eight_equal_one, mesh, kv, optimizer, variant):
    assert_eight_equal_one(mesh, num_kv_heads=kv, optimizer=optimizer, variants=[variant])


@pytest.mark.parametrize('mesh', ['sharded', pytest.param('two slices', marks=pytest.mark.slow)])
def test_gradients_that_are_added_in_bfloat16_are_near_those_of_one_device(assert_eight_equal_one, mesh):
    assert_eight_equal_one(mesh, reduce_dtype='bfloat16')


@pytest.mark.parametrize(
    'mesh', [mesh if mesh == 'sequence' else pytest.param(mesh, marks=pytest.mark.slow) for mesh in MESHES]
)
def test_positions_without_weight_are_skipped_on_eight_devices_as_on_one(assert_eight_equal_one, mesh):
    assert_eight_equal_one(mesh, skip=True)


PIPELINES = ('three axes', 'circular')
MORE_PIPELINES = (
    'circular with a queue',
    'frozen layers',
    'deep',
    'few microbatches',
    'methods',
    'quantized',
    'fully sharded',
    'sequence',
)


@pytest.mark.parametrize('cases', [PIPELINES, pytest.param(MORE_PIPELINES, marks=pytest.mark.slow)])
def test_a_pipeline_on_eight_devices_equals_one_device(on_eight_devices, cases):
    assert on_eight_devices('pipeline_on_a_mesh', *cases).endswith('equal')


@pytest.mark.slow
@pytest.mark.parametrize('mesh', MESHES)
def test_every_mesh_scanned_and_unrolled_accumulating_and_not(assert_eight_equal_one, mesh):
    assert_eight_equal_one(mesh, variants=[(unroll, microbatches) for unroll in (1, 2) for microbatches in (1, 2)])


@pytest.mark.parametrize(
    'method', [name if name == 'dora' else pytest.param(name, marks=pytest.mark.slow) for name in METHODS]
)
def test_methods_on_eight_devices_equal_one(assert_eight_equal_one, method):
    # Methods begin with gradients that are all but 0, whose rounding Adam would make a part of a step of.
    settings = {'optimizer': 'adamw', 'settings': {'epsilon': 1e-5}}
    assert_eight_equal_one('sharded twice', method=method, top_layers=1 if method == 'dora' else None, **settings)


def test_text_is_written_on_eight_devices_as_on_one(on_eight_devices):
    assert on_eight_devices('generate_on_a_mesh').endswith('equal')


def boxed(**changes):
    arch = {'vocab_size': 64, 'num_layers': 2, 'd_model': 32, 'num_heads': 4, 'head_dim': 8} | changes
    return jax.eval_shape(lambda rng: state.init_params(PaLM(Architecture(**arch)), rng), jax.random.key(0))


def test_what_a_mesh_does_not_divide_is_named():
    layout = partitioning.MeshLayout(model=3)
    with pytest.raises(UserError, match='vocab` has size 64, which is not divisible by model = 3'):
        layout.check(boxed(), layout.axis_sizes(3))
    with pytest.raises(UserError, match='does not fit 8 device'):
        layout.axis_sizes(8)
    with pytest.raises(UserError, match='MESH_SLICES = 3 does not divide data = 4'):
        partitioning.MeshLayout(model=2, slices=3).axis_sizes(8)


def test_stages_need_rules_and_devices():
    with pytest.raises(UserError, match=r'MESH_STAGE = 2, but the rules split nothing over `stage`.*pipeline.gin'):
        partitioning.MeshLayout(stage=2).axis_sizes(8)
    layout = partitioning.MeshLayout(stage=2, model=2, rules=partitioning.pipeline())
    assert layout.axis_sizes(8) == {'stage': 2, 'data': 2, 'model': 2}
    with pytest.raises(UserError, match='stage = 2 × data = -1 × model = 2 does not fit 6 devices'):
        layout.axis_sizes(6)
    with pytest.raises(UserError, match='axis `layers` has size 3, which is not divisible by stage = 2'):
        layout.check(boxed(num_layers=3), layout.axis_sizes(8))
    alone = partitioning.MeshLayout(rules=partitioning.pipeline())  # one stage holds all layers
    assert alone.axis_sizes(8) == {'stage': 1, 'data': 8, 'model': 1} and alone.schedule is None
    whole = partitioning.bytes_per_device(boxed(), alone, {'stage': 1, 'data': 8, 'model': 1})
    assert partitioning.bytes_per_device(boxed(), layout, {'stage': 2, 'data': 4, 'model': 1}) < 0.51 * whole


@dataclasses.dataclass(frozen=True)
class Device:
    """What a mesh asks of a device."""

    id: int
    process_index: int
    slice_index: int = 0
    platform: str = 'gpu'
    device_kind: str = 'a device'
    core_on_chip: int = 0

    @property
    def coords(self):
        """Place in a slice of 4 × 2 chips."""
        return self.id % 4, self.id % 8 // 4, 0


def sixteen(platform, per_slice):
    """Devices in a random order, two of each process; `slice_index` is the slice of a TPU, and the node of a GPU."""
    devices = [Device(i, i // 2, i // per_slice, platform) for i in range(16)]
    return [devices[i] for i in np.random.default_rng(0).permutation(16)]


@pytest.mark.parametrize('platform, per_slice', [('tpu', 8), ('gpu', 8), ('gpu', 4), ('gpu', 16), ('cpu', 16)])
def test_model_stays_within_a_slice_and_data_runs_over_slices(platform, per_slice):
    devices = sixteen(platform, per_slice)
    placed = partitioning.MeshLayout(model=2, slices=2)._over_slices(devices, (4, 2))
    assert placed.shape == (8, 2) and len(set(placed.flat)) == 16
    slice_of = np.vectorize(lambda device: device.id // 8)(placed)
    assert (slice_of == np.repeat([0, 1], 4)[:, None]).all()
    stages = partitioning.MeshLayout(model=2, slices=2)._over_slices(devices, (2, 2, 2))  # each of them on both slices
    assert stages.shape == (2, 4, 2) and len(set(stages.flat)) == 16
    slice_of = np.vectorize(lambda device: device.id // 8)(stages)
    assert (slice_of == np.repeat([0, 1], 2)[:, None]).all()


@pytest.mark.parametrize('slices', [1, 4])
def test_slices_of_tpus_are_as_many_as_the_devices_name(slices):
    with pytest.raises(UserError, match=r'are in 2 slices.*--gin\.MESH_SLICES=2'):
        partitioning.MeshLayout(slices=slices).mesh(sixteen('tpu', 8))


def test_nodes_of_gpus_are_one_mesh():
    placed = partitioning.MeshLayout(model=2).mesh(sixteen('gpu', 8)).devices
    assert placed.shape == (8, 2) and len(set(placed.flat)) == 16


def test_bytes_per_device_follow_the_split():
    tree, layout = boxed(), partitioning.MeshLayout(model=2)
    whole = partitioning.bytes_per_device(tree, layout, {'data': 1, 'model': 1})
    assert whole == sum(4 * np.prod(x.shape) for x in jax.tree.leaves(tree))
    assert whole / 16 < partitioning.bytes_per_device(tree, layout, {'data': 8, 'model': 2}) < whole / 8


def test_an_axis_without_a_rule_is_an_error():
    with pytest.raises(UserError, match='No rule'):
        partitioning.MeshLayout(rules=(('act_batch', 'data'),)).check(boxed(), {'data': 1, 'model': 1})


def test_a_step_has_the_collectives_that_its_layout_needs_and_gathers_no_activation(on_eight_devices):
    assert on_eight_devices('collectives_of_a_step').endswith('as expected')


def test_checkpoints_move_between_any_two_meshes(on_eight_devices, tmp_path):
    assert on_eight_devices('move_checkpoints', tmp_path).endswith('moved')


@pytest.mark.slow
def test_a_run_continues_with_and_without_stages(eight_devices, tmp_path):
    text = tmp_path / 'text.txt'
    text.write_text('\n'.join(f'the square of {i} is {i * i}.' for i in range(1500)))
    sizes = (
        '--gin.DROPOUT_RATE=0.0',
        '--gin.VOCABULARY_SIZE=264',
        '--gin.BATCH_SIZE=16',
        '--gin_file=gin/schedules/constant.gin',
    )
    stages = '--gin_file=gin/mesh/pipeline.gin', '--gin.MESH_STAGE=2'

    def train(name, steps, *flags):
        flags = *sizes, f'--gin.TRAIN_STEPS={steps}', *flags
        result = eight_devices.run('palm_jax.train', *arguments(text, tmp_path / name, *flags))
        assert result.returncode == 0, result.stderr[-3000:]

    train('whole', 3)
    train('moved', 1, *stages)
    train('moved', 2, '--accept_changes')
    train('moved', 3, *stages, '--accept_changes')
    whole, moved = (dict(losses(tmp_path / name)) for name in ('whole', 'moved'))
    assert whole.keys() == moved.keys() == {1, 2, 3}
    np.testing.assert_allclose(list(moved.values()), list(whole.values()), rtol=1e-4)


def test_kernels_of_one_device_give_the_same_on_eight(on_eight_devices):
    assert on_eight_devices('attention_on_a_mesh').endswith('equal')
