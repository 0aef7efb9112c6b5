"""examples/my_method: it starts as the base, merges into it, and a whole run of its gin file."""

import json

import jax
import numpy as np

from examples.my_method.my_method import RowsAndColumns
from palm_jax.training import setup, state
from tests.support.examples import run


def logits(model, params, tokens):
    return jax.jit(model.apply)({'params': params}, tokens)


def test_it_starts_as_the_base_and_merges_to_the_same_outputs(micro, tokens):
    base, base_params = micro()
    model, selection = setup.adapt(base, methods=[RowsAndColumns()])
    params = state.unbox(state.init_params(model, jax.random.key(0)))
    start = logits(model, params, tokens)  # equal up to rounding: a multiplication by 1 may be fused with its neighbors
    np.testing.assert_allclose(start, logits(base, base_params, tokens), rtol=0, atol=5e-6)

    trained, frozen = selection.split(params)
    assert set(trained['stack']) == {'attn', 'mlp'} and set(trained['stack']['attn']['qkv']) == {'scales'}
    assert 'scales' not in frozen['stack']['attn']['qkv']

    keys = iter(jax.random.split(jax.random.key(1), 100))
    params = jax.tree.map(lambda p: p + 0.1 * jax.random.normal(next(keys), p.shape), params)
    with_method = logits(model, params, tokens)
    merged = logits(base, model.merge(params), tokens)
    np.testing.assert_allclose(merged, with_method, rtol=1e-4, atol=1e-4)
    assert np.abs(with_method - logits(base, base_params, tokens)).max() > 0.1


def test_the_gin_file_trains(base, tmp_path):
    table = tmp_path / 'text_data.csv'
    table.write_text('text,label\n' + ''.join(f'text {i},{"ab"[i % 2]}\n' for i in range(40)))
    bindings = (f'INITIAL_CHECKPOINT_PATH={base}', f'TRAIN_FILES={table}', 'TRAIN_STEPS=2', 'BATCH_SIZE=4')
    run('examples/my_method/my_method.gin', tmp_path / 'run', *bindings)
    assert (tmp_path / 'run' / 'report.md').exists()
    assert json.loads((tmp_path / 'run' / 'summary.json').read_text())['loss'] > 0
