"""What tests of a run's parts share: a set-up of a micro model, without data."""

import jax
import pytest

from palm_jax.models.palm import Architecture, PaLM
from palm_jax.partitioning import MeshLayout
from palm_jax.training import optimizers, schedules
from palm_jax.training.setup import Setup, adapt


@pytest.fixture(scope='module')
def mesh():
    return MeshLayout().mesh(jax.devices()[:1])


@pytest.fixture(scope='module')
def setup():
    """Sets up a run of 20 steps of a micro model; `trainable` restricts what is trained."""

    def build(trainable=None):
        model = PaLM(Architecture(vocab_size=13, num_layers=1, d_model=8, num_heads=2, head_dim=4))
        optimizer = optimizers.adamw(schedules.constant(1e-3))
        return Setup.of(*adapt(model, (), trainable), optimizer, MeshLayout(), 1, 4, 16, 20)

    return build
