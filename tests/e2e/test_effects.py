"""The studies of what each method adds: their tables, their arms and their page."""

import csv
import dataclasses

import pytest

from palm_jax.cli import studies
from palm_jax.errors import UserError
from palm_jax.run_directory import write_whole
from palm_jax.studies import ablation
from tests.support.paths import ROOT
from tests.support.runs import checkpoint_arrays
from tools import effects, effects_tables
from tools.record import Record


def rows(path):
    with path.open(encoding='utf-8', newline='') as file:
        return [tuple(row.values()) for row in csv.DictReader(file)]


def test_rows_are_drawn_by_the_seed_and_the_test_texts_are_of_the_same_classes(tmp_path):
    (tmp_path / 'banking77').mkdir()
    for part, count in (('train', 14), ('test', 3)):
        texts = [f'{part} {i} of {name},class {name}' for name in range(40) for i in range(count)]
        (tmp_path / 'banking77' / f'{part}.csv').write_text('\n'.join(['text,category', *texts]))
    effects_tables.write_labels(tmp_path, tmp_path / 'data')
    names = {label for _, label in rows(tmp_path / 'data/test.csv')}
    assert len(names) == 25 and len(rows(tmp_path / 'data/test.csv')) == 75
    drawn = []
    for seed in effects_tables.SEEDS:
        labelled, others = (rows(tmp_path / f'data/{part}_{seed}.csv') for part in ('labelled', 'unlabelled'))
        assert len(labelled) == 250 and len(others) == 100 and not set(labelled) & set(others)
        assert {label for _, label in labelled} == {label for _, label in others} == names
        drawn.append(set(labelled))
    assert drawn[0] != drawn[1]
    with pytest.raises(UserError, match=r'--data: .*train.csv does not exist'):
        effects_tables.write_labels(tmp_path / 'none', tmp_path / 'data')


def test_sentences_with_tags_are_drawn_by_the_seed(tmp_path):
    (tmp_path / 'wnut17').mkdir()
    for part, count in (('train', 240), ('dev', 30)):
        (tmp_path / f'wnut17/{part}.conll').write_text(''.join(f'{part}{i}\tB-x\nis\tO\n\n' for i in range(count)))
    effects_tables.write_tags(tmp_path, tmp_path / 'data')
    found = [(tmp_path / f'data/tagged_{name}.conll').read_text().split('\n\n') for name in (*'01', 'test')]
    assert [len(sentences) - 1 for sentences in found] == [200, 200, 30] and set(found[0]) != set(found[1])
    assert all(sentence.startswith('train') for sentence in found[0][:-1])


@pytest.mark.slow
def test_a_teacher_answers_inputs_that_have_no_sentence(made, tmp_path, monkeypatch):
    (tmp_path / 'e2e_nlg').mkdir()
    lines = ['mr,ref', *(f'"name[{i}], area[x]",{i} is in x.\n"name[{i}], area[x]",in x is {i}.' for i in range(60))]
    (tmp_path / 'e2e_nlg/devset.csv').write_text('\n'.join(lines))
    monkeypatch.setattr(effects_tables, 'TEACHER', tmp_path / 'teacher')
    monkeypatch.setattr(effects_tables, 'PAIRS', 6)
    monkeypatch.setattr(effects_tables, 'SEEDS', range(2))
    sizes = "--gin.TASK_FEATURE_LENGTHS={'inputs': 32, 'targets': 16}", '--gin.TRAIN_STEPS=2', '--gin.MAX_NEW_TOKENS=4'
    flags = [*effects_tables.TEACHER_FLAGS, *sizes, '--gin.LOG_PERIOD=1']
    effects_tables.write_text(tmp_path, tmp_path / 'data', str(made / 'base'), flags)
    pairs, taught, test = (rows(tmp_path / f'data/{name}.csv') for name in ('pairs_1', 'taught_1', 'pairs_test'))
    of_teacher, inputs = (rows(tmp_path / f'data/{name}.csv') for name in ('pairs_of_teacher', 'inputs_1'))
    assert len(test) == 12 and len(of_teacher) == 24 and len(pairs) == 6 and len(inputs) == 18
    assert taught[:6] == pairs and {row[:1] for row in taught[6:]} <= set(inputs)
    assert not {row[0] for row in (*pairs, *inputs)} & {row[0] for row in (*test, *of_teacher)}
    assert (tmp_path / 'data/teacher_1.npz').is_file()
    assert not any('lora' in name for name in checkpoint_arrays(tmp_path / 'teacher_whole'))
    effects_tables.write_text(tmp_path, tmp_path / 'data', 'none', flags)  # nothing is made again


@pytest.mark.parametrize('name', effects.STUDIES)
def test_every_arm_of_the_studies_is_a_run(name, monkeypatch):
    monkeypatch.chdir(ROOT)
    study = effects.STUDIES[name]
    found = studies.read_study(study.path, [], 'ablation.Ablation', study.path, ablation.OWN)
    assert found['directory'] == str(study.directory)
    read = ablation.Ablation(**found)
    read.check()
    assert read.reference == 'LoRA' and set(read.seeds) <= set(effects_tables.SEEDS)
    prefix = {'labels': 'labelled', 'tags': 'tagged', 'text': 'pairs'}[name]
    for run in read.runs():
        seed = run.directory.path.name.removeprefix('seed_')
        assert any(flag.startswith(f'--gin.TRAIN_FILES={effects.TABLES}/{prefix}_{seed}.') for flag in run.flags)
    ((macro, value),) = effects._with_base(study, 'runs/other')
    assert (
        macro == 'FLAGS'
        and 'INITIAL_CHECKPOINT_PATH=runs/other' in value
        and effects._with_base(study, 'runs/smollm2') == []
    )


def test_a_finished_run_is_a_line_with_which_another_machine_continues(tmp_path):
    def runs(folder, steps=1):
        study = ablation.Ablation(str(tmp_path / folder), [f'--gin.TRAIN_STEPS={steps}'], {'LoRA': []}, seeds=(0, 1))
        return [dataclasses.replace(run, flags=run.flags[:-1]) for run in study.runs()]  # as of one folder

    record = Record(tmp_path / 'EFFECTS.jsonl')
    first, _ = here = runs('here')
    first.begin()
    write_whole(first.directory.summary, '{"accuracy": 0.5, "seconds": 7, "baselines": {"words": {"accuracy": 0.4}}}')
    effects.synchronize(here, record)
    effects.synchronize(here, record)
    (line,) = Record(tmp_path / 'EFFECTS.jsonl').lines
    assert line['run'] == 'LoRA, seed 0' and line['flags'] == ['--gin.TRAIN_STEPS=1', '--gin.SEED=0']
    there = runs('there')
    effects.synchronize(there, Record(tmp_path / 'EFFECTS.jsonl'))
    assert [run.summary() for run in there] == [{'accuracy': 0.5, 'seconds': 7}, None]
    there[0].check()
    changed = runs('changed', steps=2)
    effects.synchronize(changed, Record(tmp_path / 'EFFECTS.jsonl'))
    assert [run.summary() for run in changed] == [None, None]


def test_the_page_has_the_tables_of_the_studies(tmp_path, monkeypatch):
    places = {name: dataclasses.replace(s, directory=tmp_path / name) for name, s in effects.STUDIES.items()}
    monkeypatch.setattr(effects, 'STUDIES', places)
    table = '| arm |\n|---|\n| LoRA |\n'
    for name in ('labels', 'text'):
        (tmp_path / name).mkdir()
        body = f'# Ablation: accuracy\n\n![a plot](ablation.png)\n\n## Effects over 3 seeds\n\n{table}'
        (tmp_path / name / 'ablation.md').write_text(body)
    effects.write_page(tmp_path / 'EFFECTS.md')
    page = (tmp_path / 'EFFECTS.md').read_text()
    assert page.startswith('# Effects\n') and page.endswith(table) and '![' not in page
    assert page.count(table) == 2 and '25 classes and 10 labels each' in page and '50 inputs of e2e_nlg' in page
    assert '### Effects over 3 seeds' in page and 'A tag per word' not in page
