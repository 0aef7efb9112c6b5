"""examples/customer_service: the commands of its README on a micro model, and the limits of the desk."""

import io
import json
import re
import shlex
import types

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from examples.customer_service import desk, questions
from examples.customer_service.desk import Desk
from palm_jax.errors import UserError
from tests.support.kinds import every_kind
from tests.support.paths import ROOT
from tests.support.programs import run_here

README = (ROOT / 'examples/customer_service/README.md').read_text()


def asked(*probabilities):
    """A classifier with these probabilities of the intents a and b."""
    rows = [dict(sorted({'a': p, 'b': 1 - p}.items(), key=lambda item: -item[1])) for p in probabilities]
    return types.SimpleNamespace(predict=lambda texts: rows[: len(texts)])


def test_limits_are_the_lowest_at_which_answers_are_right_often_enough():
    confidences, right = [0.9, 0.8, 0.7, 0.6, 0.5, 0.4], [True, True, False, True, False, False]
    assert desk.limits(confidences, right, 1.0)[1] == 0.8
    assert desk.limits(confidences, right, 0.75)[1] == 0.6  # 3 of 4
    assert desk.limits(confidences, right, 0.5)[1] == 0.4
    assert desk.limits([0.9, 0.9], [True, False], 0.9)[1] == float('inf')  # equals are answered together
    known, _ = desk.limits(list(np.linspace(0, 1, 101)), [True] * 101, 0.9)
    assert known == pytest.approx(0.05)


def test_replies_follow_the_limits():
    writer = types.SimpleNamespace(predict=lambda texts: [f' about {texts[0]} '])
    found = Desk(asked(0.95, 0.7, 0.52, 0.03), {'a': 'the answer'}, 0.6, 0.9).reply(['1', '2', '3', '4'])
    assert [(r.action, r.intent, r.text) for r in found] == [
        ('answer', 'a', 'the answer'), ('person', 'a', ''), ('unknown', 'a', ''), ('person', 'b', ''),
    ]  # fmt: skip
    (written,) = Desk(asked(0.03), {}, 0.6, 0.9, writer).reply(['my question'])
    assert (written.action, written.text) == ('answer', 'about my question')


def test_the_desk_is_measured():
    found = desk.measure(
        Desk(asked(0.95, 0.7, 0.91, 0.55), {'a': 'x'}, 0.6, 0.9),
        [('1', 'a'), ('2', 'a'), ('3', 'b'), ('4', 'b')],
        ['5', '6'],
    )
    assert found['accuracy of the classifier'] == 0.5 and found['answered'] == 0.5
    assert found['answers that are right'] == 0.5 and found['handed over'] == 0.25
    assert found['known taken for unknown'] == 0.25 and found['unknown that were answered'] == 0.5
    expected = roc_auc_score([1] * 4 + [0] * 2, [0.95, 0.7, 0.91, 0.55, 0.95, 0.7])
    assert found['known above unknown (AUROC)'] == pytest.approx(expected)


def test_a_model_that_gives_no_single_intent_is_refused(micro):
    models = every_kind(micro, 'classes', 'labels', 'pairs', 'tags', 'text')
    desk._check('runs/desk', models['classes'], ['no', 'other'])
    for name, what in (
        ('labels', 'to give texts several labels'),
        ('pairs', 'to label pairs of texts'),
        ('tags', 'to tag words'),
        ('text', 'on text alone'),
    ):
        with pytest.raises(UserError, match=f'--model=runs/desk was trained {what}; the desk needs one label'):
            desk._check('runs/desk', models[name], ['no'])
    with pytest.raises(UserError, match=r'--calibration has no label of --model=runs/desk, which are <b>&, no, yes'):
        desk._check('runs/desk', models['classes'], ['other'])


def test_a_mistake_in_a_table_is_located(tmp_path):
    (tmp_path / 'c.csv').write_text('text,label\nwhere?,a\n  ,b\n')
    (tmp_path / 'o.csv').write_text('text,intent\na,b\n')
    (tmp_path / 'n.jsonl').write_text('{"text": "a", "label": 3}\n')
    assert desk._columns(f'{tmp_path}/n.jsonl', '--test', 'text', 'label') == [('a', '3')]
    for name, message in (
        ('c.csv', r"c\.csv, line 3: the column 'text' is empty\.$"),
        ('o.csv', r"o\.csv, line 2: no column 'label'\..* Rename yours\.$"),
        ('no.csv', r"--test = .*no\.csv': no such file"),
    ):
        with pytest.raises(UserError, match=message):
            desk._columns(f'{tmp_path}/{name}', '--test', 'text', 'label')


def test_no_sentence_is_in_two_files(tmp_path):
    questions.main([str(tmp_path)])
    texts = [
        line.rpartition(',')[0] if name != 'unknown' else line
        for name in ('train', 'calibration', 'test', 'unknown')
        for line in (tmp_path / f'{name}.csv').read_text().splitlines()[1:]
    ]
    assert len(texts) == len(set(texts)) > 500


def test_the_commands_of_its_readme_run(base, tmp_path, monkeypatch):
    block = re.search(r'```bash\n(.*?)```', README, re.DOTALL)[1]
    make, train, measure, answer = block.splitlines()
    for name in ('gin', 'examples'):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / 'runs').mkdir()
    (tmp_path / 'runs' / 'tiny').symlink_to(base)

    def start(command, *more):
        _, _, module, *flags = shlex.split(command)
        result = run_here(module, *flags, *more, cwd=tmp_path)
        assert result.returncode == 0, result.stderr[-3000:]
        return result.stdout

    start(make)
    start(train, '--gin.TRAIN_STEPS=2', '--gin.WRITERS=[]')
    measured = start(measure, '--target=0.2')
    assert 'known above unknown (AUROC)' in measured and 'accuracy of the classifier' in measured
    given = b'I lost my card.\n\nI lost my c\xe4rd.\na\0b\nwhere is it?\n'
    monkeypatch.setattr('sys.stdin', io.TextIOWrapper(io.BytesIO(given)))
    first, second, third, last = map(json.loads, start(answer.partition('| ')[2]).splitlines())
    assert {first['action'], last['action']} <= {'answer', 'person', 'unknown'}
    assert second == {'error': 'standard input, line 3: byte 12 is not UTF-8.'}
    assert third['error'].startswith('standard input, line 4: ') and 'NUL' in third['error']
    flags = [*shlex.split(measure)[3:], '--answers=data/desk/test.csv']
    missing = run_here('examples.customer_service.desk', *flags, cwd=tmp_path)
    assert missing.returncode == 2 and "'intent'" in missing.stderr
