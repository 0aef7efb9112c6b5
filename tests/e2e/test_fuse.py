"""Members of one base become one model, compared with their ensemble, saved, loaded and served as any other."""

import json

import jax
import numpy as np
import pytest

from palm_jax import api
from palm_jax.cli import fuse
from palm_jax.errors import UserError
from tests.support.runs import finetune


def two_seeds(made, folder):
    """Trains two runs that differ by their seed; returns their MODEL_DIRs."""
    runs = [str(folder / f'seed_{seed}') for seed in (0, 1)]
    for seed, model_dir in enumerate(runs):
        result = finetune(made, model_dir, f'--gin.SEED={seed}', '--gin.LORA_RANK=2', steps=6)
        assert result.returncode == 0, result.stderr[-3000:]
    return runs


def test_two_seeds_become_one_model(made, tmp_path, capsys):
    runs = two_seeds(made, tmp_path)
    assert fuse.main([*runs, str(tmp_path / 'soup')]) == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in (*runs, 'ensemble', 'merged: Soup', 'passes per answer'))
    members, soup = [api.load(run) for run in runs], api.load(tmp_path / 'soup')
    merged = [member.merged() for member in members]
    jax.tree.map(lambda s, a, b: np.testing.assert_allclose(s, (a + b) / 2, atol=1e-6), soup.params, *merged)
    found = {c['name']: c for c in json.loads((tmp_path / 'soup' / 'fusion.json').read_text())['candidates']}
    texts = [example.text for example in members[0].data.validation_examples]
    labels = [example.label for example in members[0].data.validation_examples]
    means = [
        {label: (a[label] + b[label]) / 2 for label in a}
        for a, b in zip(*(m.predict(texts) for m in members), strict=True)
    ]
    right = np.mean([max(mean, key=mean.get) == label for mean, label in zip(means, labels, strict=True)])
    assert found['ensemble']['metrics']['accuracy'] == pytest.approx(right)
    assert found['ensemble']['passes_per_answer'] == 2 and found['merged: Soup']['passes_per_answer'] == 1
    with pytest.raises(UserError, match='holds a run already'):
        fuse.main([*runs, str(tmp_path / 'soup')])
    with pytest.raises(UserError, match=r'no such metric\. Did you mean accuracy'):
        fuse.main([*runs, str(tmp_path / 'none'), '--greedy=acuracy'])


@pytest.mark.slow
def test_another_merge_and_a_greedy_one(made, tmp_path):
    runs = two_seeds(made, tmp_path)
    assert fuse.main([*runs, str(tmp_path / 'soup')]) == 0
    flags = ['--method=ties', '--density=1.0', '--greedy=accuracy']
    assert fuse.main([*runs, str(tmp_path / 'ties'), *flags]) == 0
    settings = json.loads((tmp_path / 'ties' / 'fusion.json').read_text())['settings']
    assert settings == {'density': 1.0, 'scale': 1.0}
    with pytest.raises(UserError, match=r'has no base .* --method=soup'):
        fuse.main([str(tmp_path / 'soup'), str(tmp_path / 'ties'), str(tmp_path / 'none'), '--method=dare'])


def test_a_single_run_is_nothing_to_merge(tmp_path):
    with pytest.raises(UserError, match='name at least two runs'):
        fuse.main([str(tmp_path / 'run'), str(tmp_path / 'new')])


def test_a_setting_of_another_method_is_refused(tmp_path):
    paths = [str(tmp_path / name) for name in ('a', 'b', 'new')]
    with pytest.raises(UserError, match='--alpha has no effect with --method=soup; add --method=wise-ft, or drop it'):
        fuse.main([*paths, '--alpha=0.3'])
