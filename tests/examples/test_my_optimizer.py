"""examples/my_optimizer: the same numbers as optax's Lion, and a whole run of its gin file."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import optax

from examples.my_optimizer.my_optimizer import lion
from tests.support.examples import MICRO, run


def test_it_computes_what_optax_computes():
    schedule = optax.schedules.linear_schedule(0.1, 0.0, 10)
    ours, theirs = lion(schedule, 0.9, 0.99, 0.1), optax.lion(schedule, 0.9, 0.99, weight_decay=0.1)
    params = {'a': jnp.arange(6.0).reshape(2, 3), 'b': jnp.ones(4)}
    states, both = [ours.init(params), theirs.init(params)], [params, params]
    for number in range(5):
        keys = iter(jax.random.split(jax.random.key(number), 2))
        grads = jax.tree.map(lambda p, keys=keys: jax.random.normal(next(keys), p.shape), params)
        for i, optimizer in enumerate((ours, theirs)):
            updates, states[i] = optimizer.update(grads, states[i], both[i])
            both[i] = optax.apply_updates(both[i], updates)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), *both)


def test_the_gin_file_trains(text, tmp_path):
    bindings = (*MICRO, f'TRAIN_FILES={text}', 'TRAIN_STEPS=2', 'MAX_NEW_TOKENS=4')
    run('examples/my_optimizer/my_optimizer.gin', tmp_path, *bindings)
    assert json.loads((tmp_path / 'summary.json').read_text())['bits_per_byte'] > 0
    records = [json.loads(line) for line in (tmp_path / 'metrics.jsonl').read_text().splitlines()]
    assert [r['step'] for r in records if 'train/loss' in r] == [1, 2]
