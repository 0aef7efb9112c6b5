"""The page of results: what is there is not made again."""

import csv

import pytest

from palm_jax.errors import UserError
from tests.support.paths import ROOT
from tools import results, results_page
from tools.record import Record
from tools.results_cases import CASES


def test_labels_are_drawn_by_the_seed_and_inputs_held_out_whole(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for task in ('banking77', 'e2e_nlg'):
        (tmp_path / 'data' / task).mkdir(parents=True)
    rows = [f'question {i},{"abc"[i % 3]}' for i in range(60)]
    (tmp_path / 'data/banking77/train.csv').write_text('\n'.join(['text,category', *rows]))
    rows = [f'name[{i % 300}],place {i}' for i in range(900)]
    (tmp_path / 'data/e2e_nlg/devset.csv').write_text('\n'.join(['mr,ref', *rows]))

    def drawn(seed):
        flags = CASES['banking77_5'].flags(tmp_path / 'drawn', seed)
        return [(row['text'], row['category']) for row in _rows(flags['TRAIN_FILES'])]

    assert drawn(0) == drawn(0) != drawn(1)
    assert sorted(label for _, label in drawn(0)) == ['a'] * 5 + ['b'] * 5 + ['c'] * 5
    assert len(set(drawn(0))) == 15
    parts = CASES['e2e_nlg_200'].flags(tmp_path / 'drawn', 0)
    inputs = {name: [row['mr'] for row in _rows(path)] for name, path in parts.items()}
    assert len(set(inputs['VALIDATION_FILES'])) == 200 and len(inputs['VALIDATION_FILES']) == 600
    assert not set(inputs['VALIDATION_FILES']) & set(inputs['TRAIN_FILES'])
    assert CASES['banking77'].flags(tmp_path, 0) == {}


def _rows(path):
    with open(path, newline='') as file:
        return list(csv.DictReader(file))


def test_the_page_has_a_table_a_base_and_a_curve(tmp_path):
    def line(case, method, score, seed=0, base='a_base', **others):
        values = {'steps': 60, 'train_loss': 0.5, 'trained': 10, 'parameters': 1000, 'learning_rate': 1e-3}
        values |= {'seconds': 60, 'gib': 1.5, 'checkpoint_mib': 2.0, 'machine': 'a machine'}
        return {'base': base, 'case': case, 'method': method, 'score': score, 'seed': seed, **values, **others}

    record = [line('banking77_10', 'lora', score, seed) for seed, score in enumerate((0.7, 0.8, 0.9))]
    record += [line('banking77_10', 'lora', 0.85, steps=120), line('search', 'lora', 0.1)]
    record += [line('banking77', 'full', 0.5, base='tiny')]
    for case in results_page.CURVE:
        record += [line(case, method, 0.5) for method in ('full', results.NO_PRETRAINING)]
    for other in record:
        if other['method'] == results.NO_PRETRAINING:
            other |= {'base': None, 'name': 'counting'}
    for method, seed in (('zero_shot', None), ('few_shot', 0), ('few_shot', 1)):
        asked = {'case': 'banking77_10', 'method': method, 'seed': seed}
        record.append({'base': 'a_base', **asked, 'score': 0.2, 'machine': 'a machine'})
    results_page.write(record, tmp_path / 'RESULTS.md')
    page = (tmp_path / 'RESULTS.md').read_text()
    assert '| *no training:* zero-shot |  |  |  | 0.200 |  |  |' in page and 'likelihood per byte' in page
    assert '| *no training:* few-shot |  |  |  | 0.200 ± 0.000 |  | 0, 1 |' in page
    assert '| lora | 10 (1.00%) | 0.001 | 60 | 0.800 ± 0.100 | 0.50 | 0, 1, 2 | 60 | 1.50 | 2.0 |' in page
    assert '| lora | 10 (1.00%) | 0.001 | 120 | 0.850 | 0.50 | 0 | 60 | 1.50 | 2.0 |' in page  # a row of its own
    assert [x['steps'] for x in results_page._longest(record[:4])] == [120]
    assert '### banking77, 10 labels a class' in page and '*no pretraining:* counting |  |  |  | 0.500 |' in page
    assert page.index('## Base `a_base`') < page.index('## Appendix') and 'best of three' in page
    assert 'docs/labels.png' in page and (tmp_path / 'docs/labels.png').stat().st_size > 1000


@pytest.mark.slow
def test_results_are_made_once_and_set_beside_what_no_pretraining_reaches(made, small_tasks, tmp_path, monkeypatch):
    monkeypatch.chdir(small_tasks['wnut17'])
    flags = [
        f'--base={made / "base"}',
        f'--runs={tmp_path / "runs"}',
        f'--output={tmp_path / "RESULTS.md"}',
        f'--record={tmp_path / "RESULTS.jsonl"}',
        '--steps=1',
        '--rate=0.01',
    ]
    of_case = {case: f'--cases={case}' for case in ('banking77', 'wnut17', 'e2e_nlg')}
    for flag in of_case.values():
        assert results.main([*flags, flag, '--methods=norms_only', '--seeds=0']) == 0
    results.main([*flags, of_case['wnut17'], '--methods=norms_only', '--seeds=0,1'])
    page = (tmp_path / 'RESULTS.md').read_text()
    assert '### wnut17' in page and '| 0, 1 |' in page and ' ± ' in page and 'logistic regression on words' in page
    record = Record(tmp_path / 'RESULTS.jsonl').lines
    assert [line['seed'] for line in record if line['method'] == 'norms_only'] == [0, 0, 0, 1]
    assert sum(line['method'] == results.NO_PRETRAINING for line in record) == 3
    results.main([*flags, of_case['wnut17'], '--methods=norms_only', '--seeds=0,1', f'--runs={tmp_path / "elsewhere"}'])
    assert Record(tmp_path / 'RESULTS.jsonl').lines == record and not (tmp_path / 'elsewhere' / 'base').exists()
    results.main([*flags, '--cases=banking77,wnut17', '--methods=zero_shot,few_shot', '--seeds=0,1'])
    untrained = Record(tmp_path / 'RESULTS.jsonl').lines[len(record) :]
    assert [(line['method'], line['seed']) for line in untrained if line['case'] == 'banking77'] == [
        ('zero_shot', None),
        ('few_shot', 0),
        ('few_shot', 1),
    ]
    assert '| *no training:* few-shot |' in (tmp_path / 'RESULTS.md').read_text()
    with pytest.raises(UserError, match='Known: zero_shot, few_shot, full'):
        results.main([*flags, '--methods=lorra'])


def test_the_committed_page_is_that_of_the_record(tmp_path):
    results_page.write(Record(ROOT / 'RESULTS.jsonl').lines, tmp_path / 'RESULTS.md')
    assert (tmp_path / 'RESULTS.md').read_text() == (ROOT / 'RESULTS.md').read_text()
