"""Several seeds: mean and spread of what the runs reached."""

import json
import logging

import numpy as np
import pytest

from palm_jax.errors import UserError
from palm_jax.training import repeat


def test_mean_and_spread_are_numpys(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    values = {0: 0.5, 3: 0.75, 7: 0.625}

    def train(seed, directory):
        directory.mkdir(parents=True)
        summary = {'accuracy': values[seed], 'step': 10, 'checkpoint': 'here', 'seconds': 1.0}
        (directory / 'summary.json').write_text(json.dumps(summary))
        return 0

    assert repeat.over_seeds(train, tmp_path, [0, 3, 7]) == 0
    kept = json.loads((tmp_path / 'seeds.json').read_text())
    assert kept['seeds'] == [0, 3, 7] and list(kept['measures']) == ['accuracy', 'seconds']
    row, numbers = kept['measures']['accuracy'], np.array(list(values.values()))
    np.testing.assert_allclose(list(row.values()), [numbers.mean(), numbers.std(ddof=1), 0.5, 0.75])
    assert 'accuracy' in caplog.text


def test_an_interrupted_run_ends_them_all(tmp_path):
    seen = []
    code = repeat.over_seeds(lambda seed, _: seen.append(seed) or 130, tmp_path, [4, 5])
    assert code == 130 and seen == [4] and not (tmp_path / 'seeds.json').exists()


@pytest.mark.parametrize('seeds', [[], [1, 1]])
def test_seeds_are_different_numbers(tmp_path, seeds):
    with pytest.raises(UserError, match='SEEDS is'):
        repeat.over_seeds(lambda *_: 0, tmp_path, seeds)
