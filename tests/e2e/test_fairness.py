"""The programs `fairness` and `toxicity` on a classifier and on a language model, in whole runs."""

import csv
import json

import numpy as np
import pytest

from palm_jax import api
from palm_jax.monitoring import audit_log
from tests.support.bbq import QUESTION
from tests.support.programs import run_here
from tests.support.runs import finetune

pytest.importorskip('fairlearn', reason='pip install "palm_jax[fairness]"')
PROGRAM = 'palm_jax.cli.fairness'


def test_a_classifier_is_audited(made, tmp_path):
    run, page = tmp_path / 'run', tmp_path / 'page.html'
    rows = [(f'number {i} is {"even" if i % 2 == 0 else "odd"}', 'yes' if i % 2 == 0 else 'no') for i in range(40)]
    table = [
        ['text', 'label', 'sex', 'age'],
        *([*row, 'fm'[i % 3 == 0], ('young', 'old')[i < 9]] for i, row in enumerate(rows)),
    ]
    with (tmp_path / 'audit.csv').open('w', newline='') as file:
        csv.writer(file).writerows(table)
    dro = '--gin_file=gin/methods/group_dro.gin', '--gin.GROUP_COLUMN=sex', '--gin.BEST_METRIC=worst_group_accuracy'
    trained = finetune(made, run, *dro, table=tmp_path / 'audit.csv', steps=2)
    assert trained.returncode == 0 and 'worst group' in trained.stdout + trained.stderr, trained.stderr[-3000:]
    assert 'Groups' in (run / 'report.md').read_text()
    assert 0 <= json.loads((run / 'summary.json').read_text())['worst_group_accuracy'] <= 1
    logged = [json.loads(line) for line in (run / 'metrics.jsonl').read_text().splitlines()]
    weights = [[r['train/group_weight_1_f'], r['train/group_weight_2_m']] for r in logged if 'train/loss' in r]
    assert len(weights) == 2 and all(abs(sum(row) - 1) < 1e-5 for row in weights) and weights[1] != [0.5, 0.5]
    (tmp_path / 'own.json').write_text(json.dumps({
        'templates': ['{name} says that number {digit} is odd'], 'lists': {'digit': ['3', '4', '5']},
        'groups': {'a': {'name': ['Anna', 'Mary']}, 'b': {'name': ['Bob']}},
    }))  # fmt: skip
    flags = [f'--gin_file={run / "config.gin"}', f'--output={page}']
    result = run_here(
        PROGRAM, *flags, f'--input={tmp_path / "audit.csv"}', '--groups=sex,age',
        f'--templates={tmp_path / "own.json"},pronouns',
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    for shown in (
        'Groups by sex × age',
        'Gaps by age',
        'Templates, own: gaps',
        'pronouns: flips',
        'the worst group is',
    ):
        assert shown in result.stdout, shown
    found = json.loads(page.with_suffix('.json').read_text())
    assert [g['column'] for g in found['groups']] == ['sex', 'age', 'sex × age']
    assert [t['name'] for t in found['templates']] == ['own', 'pronouns']
    model = api.load(run)
    texts = {name: [f'{name} says that number {d} is odd' for d in '345'] for name in ('Anna', 'Mary', 'Bob')}
    p = {name: np.array([x['yes'] for x in model.predict(of_name)]) for name, of_name in texts.items()}
    means = {gap['label']: gap['means'] for gap in found['templates'][0]['gaps']}
    assert means['yes']['a'] == pytest.approx((p['Anna'].mean() + p['Mary'].mean()) / 2, abs=1e-5)
    assert means['yes']['b'] == pytest.approx(p['Bob'].mean(), abs=1e-5)
    flips = [(p[name] > 0.5) != (p['Bob'] > 0.5) for name in ('Anna', 'Mary')]
    assert found['templates'][0]['between'][0]['share'] == pytest.approx(np.mean(flips))
    assert run_here(PROGRAM, *flags, '--templates=pronouns', '--fail_on=1e-9').returncode == 1
    digits = [str(i) for i in range(10)]
    (tmp_path / 'sets.json').write_text(json.dumps([['even', 'odd', 'x' * 9], ['number', 'letter', 'q'], digits]))
    explained = run_here(
        'palm_jax.cli.explain_prediction', *flags, f'--substitutes={tmp_path / "sets.json"}', '--random=0',
        '--methods=leave_one_out', '--text=Number 3 is odd', '--text=number 4 is even',
    )  # fmt: skip
    assert explained.returncode == 0, explained.stderr
    for row in json.loads(page.with_suffix('.json').read_text())['explanations']:
        if (other := row['substitution']) is not None:
            instead = next(iter(model.predict([other['text']])[0]))
            assert instead == other['instead'] != other['label'] and other['text'] in explained.stdout
    for wrong, message in (
        ([], 'Nothing to compare'),
        (['--groups=sex'], '--groups needs --input'),
        (['--input=x.csv', '--groups=sex'], '--input=x.csv does not exist'),
        (['--templates=gendre'], 'Did you mean gender'),
        ([f'--bbq={tmp_path / "own.json"}'], 'expected a list of rows'),
        ([f'--pairs={tmp_path / "audit.csv"}'], "no column 'sent_more'"),
    ):
        refused = run_here(PROGRAM, *flags, *wrong)
        assert refused.returncode == 2 and message in refused.stderr, (refused.stderr, message)


def test_a_language_model_is_audited(made, tmp_path):
    pairs = [
        {'sent_more': f'an old {i}', 'sent_less': f'a {i}', 'stereo_antistereo': 'stereo', 'bias_type': 'age'}
        for i in range(4)
    ]
    with (tmp_path / 'pairs.csv').open('w', newline='') as file:
        writer = csv.DictWriter(file, pairs[0])
        writer.writeheader(), writer.writerows(pairs)
    questions = [QUESTION, QUESTION | {'context_condition': 'disambig', 'label': 0}]
    (tmp_path / 'bbq.jsonl').write_text(''.join(json.dumps(q) + '\n' for q in questions))
    (tmp_path / 'own.txt').write_text('{name} is {occupation}.\n')
    page = tmp_path / 'page.html'
    flags = [f'--gin_file={made / "base" / "config.gin"}', f'--output={page}']
    result = run_here(
        PROGRAM, *flags, f'--pairs={tmp_path / "pairs.csv"}', f'--bbq={tmp_path / "bbq.jsonl"}',
        f'--templates={tmp_path / "own.txt"}',
    )  # fmt: skip
    assert result.returncode == 0 and 'replaced' not in result.stdout, result.stderr
    found = json.loads(page.with_suffix('.json').read_text())
    first_page = page.read_text()
    again = run_here(PROGRAM, *flags, f'--pairs={tmp_path / "pairs.csv"}')
    assert 'replaced   a report of templates, bbq: ask for all parts at once' in again.stdout, again.stderr
    model = api.load(made / 'base')
    more, less = ([x.total for x in model.score([('', p[name]) for p in pairs])] for name in ('sent_more', 'sent_less'))
    assert found['pairs'][0]['score'] == np.mean(np.array(more) > np.array(less)) and found['pairs'][0]['pairs'] == 4
    prompt = 'a b\n\nQ: c?\nA:'
    best = int(np.argmax([x.total for x in model.score([(prompt, f' {a}') for a in ('old', 'young', 'Unknown')])]))
    assert found['bbq'][0]['accuracy_disambiguated'] == float(best == 0)
    assert found['bbq'][0]['bias_disambiguated'] == {0: 1.0, 1: -1.0, 2: 0.0}[best]
    assert found['templates'][0]['counts'] == {'women': 8 * 14, 'men': 8 * 14} and 'a nurse' in first_page
    (tmp_path / 'sets.json').write_text('[["a", "b"]]')
    for sets, message in (
        ('sets.json', 'label single texts'),
        ('pairs.csv', 'is not JSON'),
        ('no.json', 'cannot be read'),
    ):
        asked = '--text=a', '--random=0', '--steps=1', f'--substitutes={tmp_path / sets}'
        refused = run_here('palm_jax.cli.explain_prediction', *flags, *asked)
        assert refused.returncode == 2 and message in refused.stderr
    groups = run_here(PROGRAM, *flags, f'--input={tmp_path / "pairs.csv"}', '--groups=bias_type')
    assert groups.returncode == 2 and 'this model was trained on text alone' in groups.stderr


def test_the_program_scores_what_a_model_writes(made, tmp_path):
    (tmp_path / 'rules.json').write_text(json.dumps([{'name': 'letters', 'pattern': '[a-m]', 'threshold': 0.5}]))
    (tmp_path / 'prompts.txt').write_text('an apple\n\nxyz\n')
    page, audit = tmp_path / 'page.html', tmp_path / 'audit.jsonl'
    flags = [
        f'--gin_file={made / "base" / "config.gin"}', f'--rules={tmp_path / "rules.json"}', '--samples=3',
        f'--input={tmp_path / "prompts.txt"}', '--max_tokens=4', f'--output={page}',
    ]  # fmt: skip
    result = run_here('palm_jax.cli.toxicity', *flags, f'--audit={audit}', '--seed=3')
    assert result.returncode == 0 and 'all prompts' in result.stdout, result.stderr
    found = json.loads(page.with_suffix('.json').read_text())
    assert [p['text'] for p in found['prompts']] == ['an apple', 'xyz'] and page.exists()
    is_toxic = [
        [any(c in 'abcdefghijklm' for c in text.lower()) for text in p['continuations']] for p in found['prompts']
    ]
    assert [p['scores']['letters'] for p in found['prompts']] == [[float(t) for t in row] for row in is_toxic]
    assert found['toxicity'][0]['probability'] == np.mean([any(row) for row in is_toxic])
    assert len(list(audit_log.read(audit))) == np.sum(is_toxic)
    failed = run_here('palm_jax.cli.toxicity', *flags, '--seed=3', '--fail_on=0')
    assert failed.returncode == int(np.any(is_toxic))
