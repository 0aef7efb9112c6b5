"""Probes of models of every kind, and tests that a user writes."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
from scipy import stats

from palm_jax.cli import contamination
from palm_jax.cli import probe as probe_program
from palm_jax.data.supervised.turns import Turn
from palm_jax.errors import UserError
from palm_jax.probing.answers import Case, answers, cases, cases_of_files
from palm_jax.probing.perturbations import PERTURBATIONS
from palm_jax.probing.probe import check_rewriting, perturbations_of, probe, probe_table, run_tests
from tests.support.kinds import every_kind


def best_first(prediction):
    return dict(sorted(prediction.items(), key=lambda item: -item[1]))


@pytest.fixture
def classes(micro):
    return every_kind(micro, 'classes')['classes']


@pytest.fixture
def by_case(classes, monkeypatch):
    """A model that answers `yes` to a text with a capital, and `no` to another."""
    names = classes.data.labels
    monkeypatch.setattr(
        type(classes), 'predict', lambda self, inputs, batch_size: [
            best_first(dict.fromkeys(names, 0.1) | {names[int(text[0].isupper())]: 0.8}) for text in inputs
        ]
    )  # fmt: skip
    return classes


def test_drop_flips_and_mcnemar_by_hand(by_case):
    cases = [Case((f'Text {i}',), 'yes') for i in range(12)] + [Case((f'text {i}',), 'yes') for i in range(8)]
    lower, upper, blanks = probe(by_case, cases, perturbations_of(['lowercase', 'uppercase', 'punctuation']))
    assert (lower.changed, lower.before, lower.after, lower.drop, lower.flips) == (12, 1.0, 0.0, 1.0, 1.0)
    assert lower.p_value == pytest.approx(stats.binomtest(12, 12, 0.5).pvalue)
    assert (upper.changed, upper.flips, upper.before, upper.after) == (20, 8 / 20, 12 / 20, 1.0)
    assert upper.drop == pytest.approx(-0.4) and upper.p_value == pytest.approx(2 * 0.5**8)
    assert (blanks.changed, blanks.flips, blanks.drop, blanks.p_value) == (20, 0.0, 0.0, 1.0)
    assert lower.examples[0] == {'text': ['Text 0'], 'changed': ['text 0'], 'before': 'yes', 'after': 'no'}


def of_labels(labels, texts):
    return [Case((text,), label) for text, label in zip(texts, labels, strict=True)]


def test_a_rewriting_of_the_held_out_rows_is_compared_in_pairs(by_case):
    labels = ['yes', 'no'] * 10
    held_out = of_labels(labels, ['Yes', 'no'] * 10)  # all right
    translated = of_labels(labels, ['Ja', 'nein'] * 4 + ['ja', 'Nein'] * 3 + ['ja', 'nein'] * 3)  # nine wrong
    found = probe_table(by_case, held_out, translated, 'german', 50)
    assert (found.changed, found.cases, found.before, found.after, found.flips) == (20, 20, 1.0, 11 / 20, 9 / 20)
    assert found.test == "McNemar's exact test" and found.expectation == 'same'
    assert found.p_value == pytest.approx(stats.binomtest(9, 9, 0.5).pvalue)
    assert found.examples[0] == {'text': ['Yes'], 'changed': ['ja'], 'before': 'yes', 'after': 'no'}
    few = probe_table(by_case, held_out, translated, 'german', 5)
    assert (few.changed, few.cases) == (5, 5) and few.flips is not None


def test_other_texts_are_compared_apart(by_case, caplog):
    labels = ['yes', 'no'] * 10
    held_out = of_labels(labels, ['Yes', 'no'] * 10)
    others = {
        'another number of rows': of_labels(labels[:16], ['Ja'] * 16),
        'another order of labels': of_labels(labels[::-1], ['Ja'] * 20),
    }
    for name, other in others.items():
        found = probe_table(by_case, held_out, other, name, 50)
        right, count = len(other) // 2, len(other)
        expected = stats.fisher_exact([[20, 0], [right, count - right]]).pvalue
        assert found.flips is None and found.examples == () and found.test == "Fisher's exact test"
        assert (found.changed, found.cases, found.drop) == (count, 20, 0.5) and found.p_value == pytest.approx(expected)
        assert found.drop_interval[0] < 0.5 < found.drop_interval[1]
    assert not caplog.messages
    in_order = sorted(held_out, key=lambda case: case.label)
    assert probe_table(by_case, in_order, in_order, 'sorted', 50).flips is None
    assert 'sorted by label' in caplog.messages[0] and 'name it with --rewriting' in caplog.messages[0]
    assert probe_table(by_case, in_order, in_order, 'sorted', 50, has_pairs=True).flips == 0


def test_a_rewriting_has_the_labels_of_the_held_out_rows(classes):
    held_out = of_labels(['yes', 'no', 'no'], ['one', 'two', 'three'])
    check_rewriting(classes, held_out, of_labels(['yes', 'no', 'no'], 'abc'), '--rewriting=a.csv')
    for labels, message in (
        (['yes', 'no'], 'a.csv has 2 rows, and the held-out part 3: .* compared with --table'),
        (['yes', 'yes', 'no'], "a.csv, row 2: the label is 'yes', and that of the held-out text 'two' is 'no'"),
    ):
        with pytest.raises(UserError, match=message):
            check_rewriting(classes, held_out, of_labels(labels, 'abc'[: len(labels)]), '--rewriting=a.csv')


def test_tables_of_other_texts_are_checked(classes, micro, tmp_path):
    def written(name, content):
        (tmp_path / name).write_text(content)
        return str(tmp_path / name)

    found = cases_of_files(classes, written('good.csv', 'text,label\nhallo,yes\nwelt,no\n'), '--table')
    assert [(case.texts, case.label) for case in found] == [(('hallo',), 'yes'), (('welt',), 'no')]
    for name, content, message in (
        ('column.csv', 'sentence,label\nhallo,yes\n', "no column 'text'.*Columns: sentence, label"),
        (
            'label.csv',
            'text,label\nhallo,yes\nwelt,nope\n',
            "label.csv, line 3: the label 'nope' never .* Known: no, yes",
        ),
        ('empty.csv', 'text,label\n', r'--table = .*empty.csv.: the file contains no rows\.'),
    ):
        with pytest.raises(UserError, match=message) as caught:
            cases_of_files(classes, written(name, content), '--table')
        assert 'BAD_ROWS' not in str(caught.value)  # no row is skipped, so that pairs stay pairs
    with pytest.raises(UserError, match=r'--table = .*: no such file'):
        cases_of_files(classes, str(tmp_path / 'none.csv'), '--table')
    kinds = every_kind(micro, 'tags', 'text_to_text')
    tagged = written('tags.conll', 'Ann B-PER\nmet O\n\nAnn B-PER\nParis B-LOC\n')
    with pytest.raises(UserError, match=r"tags.conll, line 4: the tag 'B-LOC' of 'Paris' .* Known: O, B-PER, I-PER"):
        cases_of_files(kinds['tags'], tagged, '--table')
    answered = written('answers.csv', 'q,target\nwho,Ann\nwho,Bob\nwhere,here\n')
    found = cases_of_files(kinds['text_to_text'], answered, '--table')
    assert [case.label for case in found] == [('Ann', 'Bob'), ('Ann', 'Bob'), ('here',)]  # all that are right


def test_names_of_tables(tmp_path):
    (tmp_path / 'a=b.csv').write_text('')
    named = probe_program._named_files
    files = ['german=x/de.csv', 'x/news.csv.gz', f'{tmp_path}/a=b.csv']
    assert named([('--table', file) for file in files]) == {
        'german': ('--table', 'x/de.csv'),
        'news': ('--table', 'x/news.csv.gz'),
        'a=b': ('--table', f'{tmp_path}/a=b.csv'),
    }
    for given, message in ((['german='], 'write .NAME=.FILE'), (['a.csv', 'x/a.csv'], "the name 'a' is that of a.csv")):
        with pytest.raises(UserError, match=f'--rewriting={given[-1]}: {message}'):
            named([('--rewriting', file) for file in given])


@pytest.mark.parametrize('kinds', [('labels', 'tags'), pytest.param(('pairs', 'chat'), marks=pytest.mark.slow)])
def test_every_kind_of_task_is_probed(micro, kinds):
    cases = {
        'labels': [Case((f'Some text {i}',), ('a',)) for i in range(6)],
        'pairs': [Case((f'Some text {i}', 'Another one'), '1.5') for i in range(6)],
        'tags': [Case(('Annabel', 'visited', 'Robert'), ('B-PER', 'O', 'B-PER'))] * 6,
        'chat': [Case(('hello there',), ('yes',), (Turn('hello there', False),))] * 3,
    }
    for name, model in every_kind(micro, *kinds).items():
        table = probe_table(model, cases[name], cases[name][:5], 'fewer', 9, 8)
        assert table.flips is None and 0 < table.p_value <= 1 and table.drop == pytest.approx(0, abs=1)
        found = probe(model, cases[name], perturbations_of(['typos', 'uppercase', 'blanks']), batch_size=8)
        assert [f.name for f in found] == ['typos', 'uppercase', *([] if name == 'tags' else ['blanks'])]
        assert all(0 <= f.flips <= 1 for f in found)
        assert 0 < found[0].p_value <= 1


def test_a_model_without_right_answers_is_refused_in_the_words_of_the_program(micro):
    model = dataclasses.replace(every_kind(micro, 'text')['text'], data=SimpleNamespace())
    for program, advice in (
        (
            probe_program,
            'on text alone: there are no right answers that a change of the text could make wrong. Probe a',
        ),
        (
            contamination,
            'on text alone: it has no held-out examples .* this one as its --corpus.* palm-jax memorization',
        ),
    ):
        with pytest.raises(UserError, match=f'This model was trained {advice}'):
            cases(model, program._WITHOUT_ANSWERS)


def test_entities_are_compared_by_their_words(micro):
    model = every_kind(micro, 'tags')['tags']
    model.params['head']['bias'] = np.array([-9, 9, 0], np.float32)  # every word is an entity
    found = answers(model, [Case(('Ann', 'met'), ('B-PER', 'B-PER')), Case(('Ann', 'met'), ('B-PER', 'O'))], 8)
    assert found.values[0] == (('PER', 0, 1), ('PER', 1, 2)) and found.scores.tolist() == [1.0, 0.0]


def test_tests_of_a_user(classes, micro):
    row = classes.predict(['some text'])[0]
    best, other = next(iter(row)), list(row)[-1]
    (changed,) = classes.predict(['Other text!'])
    direction = 'up' if changed[best] > row[best] else 'down'
    tests = [
        {'text': 'some text', 'label': best, 'name': 'right'},
        {'text': 'some text', 'label': other, 'name': 'wrong'},
        {'text': 'some text', 'changed': 'some text', 'name': 'same'},
        {'text': 'some text', 'changed': 'some text', 'expect': 'different', 'name': 'not different'},
        {'text': 'some text', 'changed': 'Other text!', 'expect': direction, 'label': best, 'name': 'direction'},
        {'text': 'Other text!', 'changed': 'some text', 'expect': direction, 'label': best, 'name': 'wrong direction'},
    ]
    found = {result.name: result for result in run_tests(classes, tests)}
    assert {name for name, result in found.items() if result.failures} == {'wrong', 'not different', 'wrong direction'}
    assert found['wrong'].failures[0] == {'text': 'some text', 'changed': None, 'expected': other, 'found': best}
    for row, message in (
        ({'label': 'yes'}, 'Test 1 has no text'),
        ({'text': 'a'}, 'Test 1 has neither a label nor a changed text'),
        ({'text': 'a', 'changed': 'b', 'expect': 'upp'}, 'Did you mean up'),
        ({'text': 'a', 'changed': 'b', 'expect': 'up', 'label': 'yess'}, 'Did you mean yes'),
    ):
        with pytest.raises(UserError, match=message):
            run_tests(classes, [row])
    with pytest.raises(UserError, match=r"no probe 'typo'. Did you mean typos\?"):
        perturbations_of(['typo'])
    tags = every_kind(micro, 'tags')['tags']
    with pytest.raises(UserError, match='--tests are for models that label texts; this one was trained to tag words'):
        run_tests(tags, tests)
    assert PERTURBATIONS.keys() >= {'typos', 'homoglyphs', 'negation'}
