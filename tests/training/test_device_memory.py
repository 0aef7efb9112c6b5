"""The memory of devices: estimate and measurement side by side, and advice that can be followed."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import pytest

from palm_jax import partitioning
from palm_jax.errors import UserError
from palm_jax.models.palm import Architecture, PaLM
from palm_jax.partitioning import MeshLayout
from palm_jax.peft.lora import LoRA
from palm_jax.training import device_memory, optimizers, schedules, setup
from palm_jax.training.checks import check_batches
from tests.support.architectures import MICRO


def plan(batch=8, devices=1, length=64, methods=(), layout=MeshLayout(), microbatches=1, base='stored', **changes):
    model, selection = setup.adapt(PaLM(Architecture(**(MICRO | changes))), methods)
    of_run = optimizers.adamw(schedules.constant(1e-3)), layout, devices, batch, length, 10, base
    return setup.Setup.of(model, selection, *of_run, microbatches=microbatches).plan


def test_estimate_and_measurement_are_in_one_line():
    made = plan()
    estimate = sum(made.memory().values())
    stats = {'peak_bytes_in_use': 3 * estimate, 'bytes_in_use': 3 * 2**20, 'bytes_limit': 80 * 2**30}
    line = device_memory.compare(made, stats)
    assert '(3.00 ×)' in line and 'of 80.00 GiB' in line and '3.0 MiB measured' in line
    assert device_memory.compare(made, {}) == ''
    if jax.default_backend() == 'cpu':
        assert device_memory.compare(made) == ''  # it does not measure


def advice(made):
    """The bindings that a real error of the device leads to."""
    with pytest.raises(UserError) as raised, device_memory.advice_when_full(made):
        jax.block_until_ready(jnp.zeros((1 << 50,), jnp.int8))
    message = str(raised.value)
    assert 'RESOURCE_EXHAUSTED' in message and 'activations (estimate)' in message
    assert 'TASK_FEATURE_LENGTHS' in message  # which always helps
    return re.findall(r'^  (--\S+)', message, re.MULTILINE)


def test_a_full_device_says_what_helps():
    assert advice(plan(length=4096)) == [
        '--gin.MICROBATCHES=2',
        '--gin.REMAT=minimal',
        '--gin.COMPUTE_DTYPE=bfloat16',
        '--gin.BATCH_SIZE=4',
    ]
    # One row at a time: neither a smaller batch nor more parts help.
    assert advice(plan(length=4096, remat='full', dtype='bfloat16', microbatches=8)) == []
    assert '--gin_file=gin/peft/lora.gin' in advice(plan(batch=1, length=1, d_model=256))
    assert '--gin.BASE_WEIGHTS=int8' in advice(plan(batch=1, length=1, methods=(LoRA(),)))
    rounded = advice(plan(batch=1, length=1, methods=(LoRA(),), base='int8'))
    assert '--gin.BASE_WEIGHTS=nf4' in rounded and '--gin.BASE_WEIGHTS=int8' not in rounded
    whole = MeshLayout(model=2, rules=partitioning.data_parallel())
    of_mesh = {'--gin_file=gin/mesh/fsdp.gin', '--gin.MESH_MODEL=4'}
    assert of_mesh < set(advice(plan(devices=8, length=8, layout=whole, vocab_size=64)))
    # Fully sharded weights are split over all devices already, and half as many would share the batch.
    assert not of_mesh & set(advice(plan(devices=8, length=8, layout=MeshLayout(model=2), vocab_size=64)))
    large = {'batch': 1, 'length': 1, 'd_model': 1024, 'num_layers': 48}
    assert '--gin_file=gin/models/base.gin' in advice(plan(**large))


WHOLE = MeshLayout(rules=partitioning.data_parallel())
STAGES = MeshLayout(stage=2, rules=partitioning.pipeline(), pipeline_microbatches=3)


@pytest.mark.parametrize(
    'run',
    [
        {'batch': 12, 'devices': 4},  # three rows a device
        {'batch': 40, 'devices': 4, 'microbatches': 2},  # five
        {'batch': ((0, 8), (10, 24)), 'devices': 4},  # a ramp
        {'batch': 24, 'devices': 8, 'layout': MeshLayout(slices=2)},
        {'batch': 36, 'devices': 4, 'layout': STAGES, 'vocab_size': 64, 'num_layers': 4},
        {'batch': 3, 'devices': 3},
        {'batch': 16, 'devices': 8, 'num_heads': 3, 'vocab_size': 64},  # heads that two do not divide
        {'batch': 16, 'devices': 8, 'vocab_size': 64, 'd_model': 512, 'layout': WHOLE, 'length': 8},
    ],
)
def test_advice_leaves_a_run_that_its_checks_accept(run):
    run = {'length': 4096, 'layout': MeshLayout()} | run
    changes = {
        'MICROBATCHES': lambda value: {'microbatches': int(value)},
        'BATCH_SIZE': lambda value: {'batch': int(value)},
        'REMAT': lambda value: {'remat': value},
        'COMPUTE_DTYPE': lambda value: {'dtype': value},
        'MESH_MODEL': lambda value: {'layout': dataclasses.replace(run['layout'], model=int(value))},
    }
    made, flags = plan(**run), advice(plan(**run))
    settings = [flag.removeprefix('--gin.').split('=') for flag in flags if flag.startswith('--gin.')]
    assert settings
    for name, value in settings:
        other = plan(**(run | changes[name](value)))
        check_batches(other.batch_sizes, None, other.axis_sizes['data'], other.microbatches, other.layout.schedule)
        assert sum(other.memory().values()) < sum(made.memory().values()), name


def test_parts_of_a_batch_need_less_memory():
    whole, parts = plan().memory(), plan(microbatches=4).memory()
    assert parts['activations (estimate)'] == whole['activations (estimate)'] // 4
    assert parts['gradients'] == 2 * whole['gradients']


def test_other_errors_pass():
    with pytest.raises(ZeroDivisionError), device_memory.advice_when_full(plan()):
        raise ZeroDivisionError
