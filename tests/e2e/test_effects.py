"""The study of what each method adds: its tables, its arms and its page."""

import csv

import pytest

from palm_jax.cli import studies
from palm_jax.errors import UserError
from palm_jax.studies import ablation
from tests.support.paths import ROOT
from tools import effects


def rows(path):
    with path.open(encoding='utf-8', newline='') as file:
        return [(row['text'], row['label']) for row in csv.DictReader(file)]


def test_rows_are_drawn_by_the_seed_and_the_test_texts_are_of_the_same_classes(tmp_path):
    for part, count in (('train', 14), ('test', 3)):
        texts = [f'{part} {i} of {name},class {name}' for name in range(40) for i in range(count)]
        (tmp_path / f'{part}.csv').write_text('\n'.join(['text,category', *texts]))
    effects.write_tables(tmp_path, tmp_path / 'data')
    names = {label for _, label in rows(tmp_path / 'data/test.csv')}
    assert len(names) == 25 and len(rows(tmp_path / 'data/test.csv')) == 75
    drawn = []
    for seed in effects.SEEDS:
        labelled, others = (rows(tmp_path / f'data/{part}_{seed}.csv') for part in ('labelled', 'unlabelled'))
        assert len(labelled) == 250 and len(others) == 100 and not set(labelled) & set(others)
        assert {label for _, label in labelled} == {label for _, label in others} == names
        drawn.append(set(labelled))
    assert drawn[0] != drawn[1]
    with pytest.raises(UserError, match=r'--data: .*train.csv does not exist'):
        effects.write_tables(tmp_path / 'none', tmp_path / 'data')


def test_every_arm_of_the_study_is_a_run(monkeypatch):
    monkeypatch.chdir(ROOT)
    found = studies.read_study(effects.STUDY, [], 'ablation.Ablation', effects.STUDY, ablation.OWN)
    study = ablation.Ablation(**found)
    study.check()
    assert study.reference == 'LoRA' and set(study.seeds) <= set(effects.SEEDS)
    for run in study.runs():
        seed = run.directory.path.name.removeprefix('seed_')
        assert f'--gin.TRAIN_FILES=runs/effects/data/labelled_{seed}.csv' in run.flags


def test_the_page_has_the_table_of_the_study(tmp_path):
    table = '| arm |\n|---|\n| LoRA |\n'
    (tmp_path / 'ablation.md').write_text(f'# Ablation: accuracy\n\n![a plot](ablation.png)\n\n{table}')
    effects.write_page(tmp_path / 'ablation.md', tmp_path / 'EFFECTS.md')
    page = (tmp_path / 'EFFECTS.md').read_text()
    assert page.startswith('# Effects\n') and page.endswith(table) and '![' not in page
    assert '25 classes and 10 labels each' in page
