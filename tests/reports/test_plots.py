"""Pictures of a run whose names are users' text."""

import json

import numpy as np
import pytest
from matplotlib import image

from palm_jax.reports.plots import plot_confusion, plot_losses

NAMES = [
    '$1k_to_$5k',
    '$x^2',
    '\\frac{',
    'a_b^c $\\bad$',
    '<b>over</b>',
    '目的地',
    'line\nbreak\x00',
    'n' * 500,
    '%',
    '',
]


@pytest.fixture(autouse=True)
def strict(monkeypatch):
    """A matplotlibrc of the user's own with TeX, which is not to be asked."""
    import matplotlib

    monkeypatch.setitem(matplotlib.rcParams, 'text.usetex', True)


@pytest.mark.filterwarnings('error')
def test_names_are_drawn_as_they_are(tmp_path):
    labels = np.arange(len(NAMES))
    plot_confusion(labels, labels[::-1], NAMES, tmp_path / 'confusion.png')
    height, width, _ = image.imread(tmp_path / 'confusion.png').shape
    assert height > 500 and width > 500


@pytest.mark.parametrize('name', ['$1k_to_$5k', 'a_$x^{$', 'über 日本'])
def test_a_run_may_have_any_name(tmp_path, name):
    (tmp_path / name).mkdir()
    (tmp_path / name / 'metrics.jsonl').write_text(json.dumps({'step': 1, 'train/loss': 2.0}) + '\n')
    plot_losses(tmp_path / name, '$loss$')
    assert image.imread(tmp_path / name / 'loss.png').size
