"""The memory of devices: estimate and measurement side by side, and advice that can be followed."""

import re

import jax
import jax.numpy as jnp
import pytest

from palm_jax.errors import UserError
from palm_jax.models.palm import Architecture, PaLM
from palm_jax.partitioning import MeshLayout
from palm_jax.peft.lora import LoRA
from palm_jax.training import device_memory, optimizers, schedules, setup
from tests.support.architectures import MICRO


def plan(batch=8, devices=1, length=64, methods=(), layout=MeshLayout(), **changes):
    model, selection = setup.adapt(PaLM(Architecture(**(MICRO | changes))), methods)
    optimizer = optimizers.adamw(schedules.constant(1e-3))
    return setup.Setup.of(model, selection, optimizer, layout, devices, batch, length, 10).plan


def test_estimate_and_measurement_are_in_one_line():
    made = plan()
    estimate = sum(made.memory().values())
    stats = {'peak_bytes_in_use': 3 * estimate, 'bytes_in_use': 3 * 2**20, 'bytes_limit': 80 * 2**30}
    line = device_memory.compare(made, stats)
    assert '(3.00 ×)' in line and 'of 80.00 GiB' in line and '3.0 MiB measured' in line
    assert device_memory.compare(made, {}) == ''
    if jax.default_backend() == 'cpu':
        assert device_memory.compare(made) == ''  # it does not measure


def advice(made, microbatches=1):
    """The bindings that a real error of the device leads to."""
    with pytest.raises(UserError) as raised, device_memory.advice_when_full(made, microbatches):
        jax.block_until_ready(jnp.zeros((1 << 50,), jnp.int8))
    message = str(raised.value)
    assert 'RESOURCE_EXHAUSTED' in message and 'activations (estimate)' in message
    return re.findall(r'^  (--\S+)', message, re.MULTILINE)


def test_a_full_device_says_what_helps():
    assert advice(plan(length=4096)) == [
        '--gin.MICROBATCHES=2',
        '--gin.REMAT=minimal',
        '--gin.COMPUTE_DTYPE=bfloat16',
        '--gin.BATCH_SIZE=4',
    ]
    assert advice(plan(length=4096, remat='full', dtype='bfloat16'), 8) == ['--gin.BATCH_SIZE=4']
    assert '--gin_file=gin/peft/lora.gin' in advice(plan(batch=1, length=1, d_model=256))
    assert '--gin.BASE_WEIGHTS=int8' in advice(plan(batch=1, length=1, methods=(LoRA(),)))
    assert '--gin.MESH_MODEL=4' in advice(plan(devices=8, length=8, layout=MeshLayout(model=2), vocab_size=64))


def test_other_errors_pass():
    with pytest.raises(ZeroDivisionError), device_memory.advice_when_full(plan()):
        raise ZeroDivisionError
