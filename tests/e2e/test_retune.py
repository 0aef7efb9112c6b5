"""A classifier is corrected, renewed, promoted and rolled back; what is killed in between is continued."""

import json
import random
import re
import subprocess
import sys

import pytest

from palm_jax import api
from palm_jax.monitoring.registry import Registry
from palm_jax.monitoring.request_log import RequestLog
from palm_jax.retuning import retune
from palm_jax.serving import models
from tests.support.paths import ROOT
from tests.support.programs import run_here
from tests.support.runs import finetune
from tests.support.waiting import wait_until

PROBES = (ROOT / 'docs' / 'probes.md').read_text()


def corrected(path):
    """Requests of a kind that the classifier was not trained on, with the right label."""
    log = RequestLog(path)
    for i in range(120):
        colour = ('red', 'blue')[i % 2]
        log.add(f'r{i}', 'mine', 'c', '/v1/classify', [f'{colour} {colour} {i}'], [{'label': 'yes'}])
        if i < 110:
            log.add_feedback(f'r{i}', 0, label={'red': 'yes', 'blue': 'no'}[colour])
    log.add('wrong', 'mine', 'c', '/v1/classify', ['green'], [{}])
    log.add_feedback('wrong', 0, label='maybe')
    log.close()


def compared_with_other_texts(tmp_path, run):
    """The command of the documentation, on a rewriting of the held-out rows and on other texts."""
    program, *words = re.search(r'^palm-jax (probe .*--rewriting=.*)$', PROBES, re.MULTILINE)[1].split()
    held_out = api.load(tmp_path / 'champion').data.validation_examples
    rows = {
        'german.csv': [(f'{e.text} German', e.label) for e in held_out],
        'letters.csv': [(f'letter {i}', 'yes') for i in range(9)],
    }
    for name, of_file in rows.items():
        (tmp_path / name).write_text('\n'.join(map(','.join, [('text', 'label'), *of_file])))
    result = run_here('palm_jax.cli.main', program, run, *words[1:], cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert re.search(rf'german +{len(held_out)} +{len(held_out)} +in pairs', result.stdout), result.stdout
    assert re.search(rf'letters +9 +{len(held_out)} +apart .* n/a\n', result.stdout), result.stdout
    found = json.loads((tmp_path / 'champion' / 'probes.json').read_text())
    assert found['probes'] == [] and [t['file'] for t in found['tables']] == ['german.csv', 'letters.csv']
    assert [t['flips'] is None for t in found['tables']] == [False, True]
    assert 'Other texts' in (tmp_path / 'champion' / 'probes.html').read_text()


def probed_and_seen_to_drift(tmp_path, run):
    """Probes the classifier of a run, and compares the corrected requests with what it was trained for."""
    (tmp_path / 'tests.jsonl').write_text('{"text": "number 3", "changed": "number 3", "name": "itself"}\n')
    flags = f'--gin_file={run / "config.gin"}', f'--tests={tmp_path / "tests.jsonl"}', '--probes=typos,blanks'
    result = run_here('palm_jax.cli.probe', *flags)
    assert result.returncode == 0 and re.search(r'typos +same', result.stdout), result.stderr
    assert re.search(r'itself +0 of 1', result.stdout)
    found = json.loads((run / 'probes.json').read_text())
    assert [p['name'] for p in found['probes']] == ['typos', 'blanks'] and (run / 'probes.html').exists()
    (tmp_path / 'tests.jsonl').write_text('{"text": "a", "changed": "a", "expect": "different"}\n')
    assert run_here('palm_jax.cli.probe', *flags).returncode == 1
    compared_with_other_texts(tmp_path, flags[0])
    flags = flags[0], f'--requests={tmp_path / "requests.db"}', '--fail_on=much'
    result = run_here('palm_jax.cli.drift', *flags)
    assert result.returncode == 1 and 'Much drift: ' in result.stdout, result.stdout + result.stderr
    found = json.loads((run / 'drift.json').read_text())
    assert found['verdict'] == 'much' and found['new_inputs'] == 121 and found['label_shares'].keys() <= {'yes', 'no'}


def test_corrections_are_learned_and_a_killed_round_is_continued(made, tmp_path, monkeypatch):
    assert finetune(made, tmp_path / 'champion', steps=20).returncode == 0
    corrected(tmp_path / 'requests.db')
    command = [
        f'--registry={tmp_path / "registry"}', f'--champion={tmp_path / "champion"}',
        f'--requests={tmp_path / "requests.db"}', '--held_out=2', '--replay=1', '--gin.TRAIN_STEPS=60',
    ]  # fmt: skip

    def start(*flags):
        return run_here('palm_jax.cli.retune', *flags)

    def killed(*_):
        raise RuntimeError('killed')

    with monkeypatch.context() as patch:  # after the training, before the comparison
        patch.setattr(retune, 'compare_both', killed)
        with pytest.raises(RuntimeError, match='killed'):
            start(*command)
    registry = Registry(tmp_path / 'registry')
    challenger = registry.round_path(1) / 'challenger'
    trained = (challenger / 'metrics.jsonl').read_text()
    assert registry.champion() == str(tmp_path / 'champion')
    table = tmp_path / 'others.csv'
    table.write_text('text,label\nred red 1,no\n')
    others = start(*[flag for flag in command if '--requests' not in flag], f'--input={table}')
    assert others.returncode == 2 and 'Round 1 was begun with the rows of' in others.stderr, others.stderr
    result = start(*command)
    assert result.returncode == 0, result.stderr[-3000:]
    assert 'round      1 is continued' in result.stdout and 'a label that the model does not have' in result.stdout
    assert (challenger / 'metrics.jsonl').read_text() == trained  # it was not trained again
    assert 'promoted   significantly better on the fresh examples' in result.stdout, result.stdout
    assert registry.champion() == str(challenger)
    served = models.load([f'mine={tmp_path / "registry"}'], models.Loader())
    assert next(iter(served['mine'].model.predict(['blue blue 7'])[0])) == 'no'
    again = start(*command)  # nothing new to learn
    assert again.returncode == 2 and '0 new rows can be learned from' in again.stderr, again.stderr
    assert [d.event for d in registry.decisions()] == ['adopted', 'promoted']
    assert 'again; rolled back from' in start(command[0], '--rollback').stdout
    assert registry.champion() == str(tmp_path / 'champion')
    undone = start(*command)  # a scheduled round does not promote again what was rolled back
    assert undone.returncode == 2 and '110 of rounds that were rolled back' in undone.stderr, undone.stderr
    shown = start(command[0], '--status').stdout
    assert shown.startswith(f'champion   {tmp_path / "champion"}') and 'rolled_back' in shown
    assert not (tmp_path / 'registry' / 'lock').exists()
    probed_and_seen_to_drift(tmp_path, tmp_path / 'champion')


def test_other_kinds_of_model_are_refused(made, tmp_path):
    result = run_here(
        'palm_jax.cli.retune',
        f'--registry={tmp_path}',
        f'--champion={made / "base"}',
        f'--input={made / "classes.csv"}',
    )
    assert result.returncode == 2 and 'answer in writing; this one was trained on text alone' in result.stderr
    assert Registry(tmp_path).champions() == []  # the right one can still be named
    both = run_here('palm_jax.cli.retune', f'--registry={tmp_path}')
    assert both.returncode == 2 and 'Give either --requests' in both.stderr


@pytest.mark.slow
def test_a_round_that_is_killed_in_training_is_continued(made, tmp_path):
    assert finetune(made, tmp_path / 'champion', steps=20).returncode == 0
    corrected(tmp_path / 'requests.db')
    command = [
        *(sys.executable, '-m', 'palm_jax', 'retune', f'--registry={tmp_path / "registry"}'),
        *(f'--champion={tmp_path / "champion"}', f'--requests={tmp_path / "requests.db"}'),
        *('--held_out=2', '--replay=1', '--gin.TRAIN_STEPS=60', '--gin.CHECKPOINT_PERIOD=10'),
    ]
    registry = Registry(tmp_path / 'registry')
    challenger = registry.round_path(1) / 'challenger'
    for wanted in (registry.round_path(1) / 'start' / 'checkpoints', challenger / 'checkpoints' / '20'):
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wait_until(wanted.exists, 300)
        process.kill()
        process.wait()
        assert registry.champion() == str(tmp_path / 'champion')
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0 and 'continuing from step' in result.stdout + result.stderr, result.stderr[-3000:]
    assert [d.event for d in registry.decisions()] == ['adopted', 'promoted']


@pytest.mark.slow
@pytest.mark.parametrize('kind', ['tags', 'pairs', 'dialogues', 'numbers'])
def test_every_kind_of_model_is_renewed(made, tmp_path, kind):
    """What the champion was never taught is corrected, learned, and wins by the paired test."""
    rng = random.Random(0)
    old, new = [[f'{rng.choice("abcdefgh")} {word}' for _ in range(60)] for word in ('red', 'blue')]
    kept, flags = RequestLog(tmp_path / 'requests.db'), ['--gin.CHECKPOINT_PERIOD=1000']
    if kind == 'tags':
        flags += ['--gin_file=gin/heads/tagging.gin', "--gin.LABELS=['O','B-C','I-C']", '--gin.TAG_COLUMN=2']
        table, right = 'table.conll', ['O', 'B-C']
        lines = [''.join(f'{w} x {tag}\n' for w, tag in zip(text.split(), 'OO', strict=True)) + '\n' for text in old]
        lines[0] = 'x x B-C\ny x O\n\n'
    elif kind == 'pairs':
        flags += ['--gin_file=gin/heads/text_to_text.gin', "--gin.INPUT_TEMPLATE='say {q}'", "--gin.METRICS=['squad']"]
        flags += ["--gin.TARGET_TEMPLATE='{a}'", '--gin.EVAL_EXAMPLES=40', "--gin.COLUMNS=['n','q','a']"]
        table, right = 'table.csv', 'b'
        lines = [f'{i},{text},a\n' for i, text in enumerate(old)]
    elif kind == 'dialogues':
        flags += ['--gin_file=gin/heads/dialogue.gin', "--gin.METRICS=['squad']", '--gin.EVAL_EXAMPLES=40']
        table, right = 'table.jsonl', 'b'
        turns = lambda text: [{'role': 'user', 'content': text}, {'role': 'assistant', 'content': 'a'}]  # noqa: E731
        lines = [json.dumps({'messages': turns(text)}) + '\n' for text in old]
    else:
        flags += ['--gin_file=gin/heads/regression.gin']
        table, right = 'table.csv', 3.0
        lines = ['text,label\n', *(f'{text},{i % 2}\n' for i, text in enumerate(old))]
    (tmp_path / table).write_text(''.join(lines))
    if kind in ('pairs', 'dialogues'):
        flags.append("--gin.TASK_FEATURE_LENGTHS={'inputs': 24, 'targets': 8}")
    trained = finetune(
        made, tmp_path / 'champion', *flags, f'--gin.TRAIN_FILES={tmp_path / table}', table=None, steps=30
    )
    assert trained.returncode == 0, trained.stderr[-3000:]
    endpoint = {'tags': '/v1/tag', 'numbers': '/v1/classify'}.get(kind, '/v1/completions')
    for i, text in enumerate(dict.fromkeys(f'{text} {i % 7}' for i, text in enumerate(new))):
        label = [*right, 'O'] if kind == 'tags' else right
        kept.add(f'r{i}', 'mine', 'c', endpoint, [text], [{}])
        kept.add_feedback(f'r{i}', 0, label=label)
    kept.close()
    command = [
        f'--registry={tmp_path / "registry"}', f'--champion={tmp_path / "champion"}', '--held_out=2', '--replay=1',
        f'--requests={tmp_path / "requests.db"}', '--gin.TRAIN_STEPS=150', '--min_examples=10',
    ]  # fmt: skip
    result = run_here('palm_jax.cli.retune', *command)
    assert result.returncode == 0, result.stderr[-3000:]
    test = "McNemar's exact test" if kind == 'tags' else 'the paired permutation test'
    assert f'by {test}' in result.stdout and 'promoted ' in result.stdout, result.stdout
    served = models.load([f'mine={tmp_path / "registry"}'], models.Loader())['mine'].model
    (answer,) = served.predict(['h blue 3'])
    if kind == 'tags':
        assert [(e['type'], e['text']) for e in answer] == [('C', 'blue')]
    else:
        assert answer == (pytest.approx(3.0, abs=0.7) if kind == 'numbers' else 'b')
    again = run_here('palm_jax.cli.retune', *command)
    assert again.returncode == 2 and '0 new rows can be learned from' in again.stderr, again.stderr
