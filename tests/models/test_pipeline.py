"""The schedule of a pipeline: its bubble, what it refuses, and when a model is computed without it."""

import jax.numpy as jnp
import numpy as np
import pytest

from palm_jax import partitioning
from palm_jax.errors import UserError
from palm_jax.models import pipeline
from palm_jax.models.palm import Architecture, PaLM
from palm_jax.models.pipeline import Schedule
from palm_jax.partitioning import MeshLayout
from palm_jax.training import optimizers, schedules, setup
from palm_jax.training.batch_sizes import BatchSizes
from palm_jax.training.checks import check_batches
from palm_jax.training.setup import Setup
from tests.support.architectures import MICRO


def busy(stages, microbatches, repeats):
    """For every (iteration, stage) whether the stage has a microbatch, followed through one by one."""
    starts, table = {}, set()
    for repeat in range(repeats):
        for microbatch in range(microbatches):
            ready = starts[repeat - 1, microbatch] + stages if repeat else microbatch
            before = (repeat, microbatch - 1) if microbatch else (repeat - 1, microbatches - 1)
            start = max(ready, starts.get(before, -1) + 1)
            starts[repeat, microbatch] = start
            for stage in range(stages):
                assert (start + stage, stage) not in table  # two at once
                table.add((start + stage, stage))
    return table


@pytest.mark.parametrize('stages, microbatches, repeats', [(2, 2, 1), (4, 2, 1), (4, 4, 3), (4, 10, 2), (8, 32, 4)])
def test_the_bubble_is_what_stages_wait(stages, microbatches, repeats):
    schedule = Schedule(stages, microbatches, repeats)
    table = busy(stages, microbatches, repeats)
    iterations = 1 + max(iteration for iteration, _ in table)
    assert schedule.iterations == iterations
    np.testing.assert_allclose(schedule.bubble, 1 - len(table) / (iterations * stages))
    np.testing.assert_allclose(schedule.bubble, (stages - 1) / (microbatches * repeats + stages - 1))


def test_what_cannot_be_divided_is_named():
    with pytest.raises(UserError, match=r'less than MESH_STAGE = 4.*--gin.PIPELINE_MICROBATCHES=4 or a multiple'):
        Schedule(4, 3, 2)
    assert Schedule(4, 4, 2).layers_at_once(24) == 3
    with pytest.raises(UserError, match=r'NUM_LAYERS = 12 does .* = 4 × PIPELINE_REPEATS = 2.*: 1, 2, 3, 6'):
        Schedule(4, 4, 2).layers_at_once(12)
    with pytest.raises(UserError, match=r'NUM_LAYERS = 9 does not divide into PIPELINE_REPEATS = 2. Possible: 1, 3, 9'):
        Schedule(4, 4, 2).layers_at_once(9)
    with pytest.raises(UserError, match=r'MICROBATCHES = 2 × PIPELINE_MICROBATCHES = 4 × data = 3 devices; 24 or 48'):
        check_batches(BatchSizes.of(32), None, 3, 2, Schedule(4, 4))
    check_batches(BatchSizes.of(48), None, 3, 2, Schedule(4, 4))


def plan(layout, devices, **changes):
    model, selection = setup.adapt(PaLM(Architecture(**(MICRO | {'vocab_size': 64} | changes))))
    optimizer = optimizers.adamw(schedules.constant(1e-3))
    return Setup.of(model, selection, optimizer, layout, devices, 32, 64, 10).plan


def test_a_plan_prints_the_bubble_and_counts_the_layers_of_a_stage():
    rules = partitioning.pipeline()
    layout = MeshLayout(stage=4, rules=rules, pipeline_microbatches=8, pipeline_repeats=2)
    made, whole = (plan(x, devices, num_layers=8) for x, devices in ((layout, 4), (MeshLayout(rules=rules), 1)))
    shown = made.summary(None)
    assert 'mesh       stage = 4 × data = 1 × model = 1\n' in shown and 'pipeline' not in whole.summary(None)
    assert 'pipeline   4 stages × 2 repeats of 1 layer, 8 microbatches: the bubble is 15.8% of a step' in shown
    assert '3 / 19' in shown
    parameters = 'trained parameters'
    assert made.memory()[parameters] < 0.26 * whole.memory()[parameters]
    assert made.memory()['activations (estimate)'] < 0.4 * whole.memory()['activations (estimate)']
    with pytest.raises(UserError, match='NUM_LAYERS = 6 does not divide into MESH_STAGE = 4'):
        plan(MeshLayout(stage=4, rules=rules), 4, num_layers=6)


def test_calls_that_cannot_be_piped_are_computed_layer_by_layer():
    """A cache, the initialization, rows or layers that cannot be divided; without a schedule nothing is asked."""
    model = PaLM(Architecture(**(MICRO | {'num_layers': 4})))
    tokens = jnp.zeros((4, 8), jnp.int32)

    def asked(schedule, tokens=tokens, **options):
        found = []
        with pipeline.scheduled(schedule):
            model.apply({}, tokens, method=lambda m, x: found.append(pipeline.schedule_for(m, len(x))), **options)
        return found[0]

    schedule = Schedule(2, 4)
    assert asked(schedule) == schedule and asked(None) is None
    assert asked(schedule, tokens[:3]) is None and asked(Schedule(3, 4)) is None
    assert asked(schedule, mutable=['cache']) is None and asked(schedule, mutable=['intermediates']) is None
