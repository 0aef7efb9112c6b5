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
from palm_jax.probing.answers import Case, answers, cases
from palm_jax.probing.perturbations import PERTURBATIONS
from palm_jax.probing.probe import perturbations_of, probe, run_tests
from tests.support.kinds import every_kind


def best_first(prediction):
    return dict(sorted(prediction.items(), key=lambda item: -item[1]))


@pytest.fixture
def classes(micro):
    return every_kind(micro, 'classes')['classes']


def test_drop_flips_and_mcnemar_by_hand(classes, monkeypatch):
    names = classes.data.labels
    monkeypatch.setattr(
        type(classes), 'predict', lambda self, inputs, batch_size: [
            best_first(dict.fromkeys(names, 0.1) | {names[int(text[0].isupper())]: 0.8}) for text in inputs
        ]
    )  # fmt: skip
    cases = [Case((f'Text {i}',), 'yes') for i in range(12)] + [Case((f'text {i}',), 'yes') for i in range(8)]
    lower, upper, blanks = probe(classes, cases, perturbations_of(['lowercase', 'uppercase', 'punctuation']))
    assert (lower.changed, lower.before, lower.after, lower.drop, lower.flips) == (12, 1.0, 0.0, 1.0, 1.0)
    assert lower.p_value == pytest.approx(stats.binomtest(12, 12, 0.5).pvalue)
    assert (upper.changed, upper.flips, upper.before, upper.after) == (20, 8 / 20, 12 / 20, 1.0)
    assert upper.drop == pytest.approx(-0.4) and upper.p_value == pytest.approx(2 * 0.5**8)
    assert (blanks.changed, blanks.flips, blanks.drop, blanks.p_value) == (20, 0.0, 0.0, 1.0)
    assert lower.examples[0] == {'text': ['Text 0'], 'changed': ['text 0'], 'before': 'yes', 'after': 'no'}


@pytest.mark.parametrize('kinds', [('labels', 'tags'), pytest.param(('pairs', 'chat'), marks=pytest.mark.slow)])
def test_every_kind_of_task_is_probed(micro, kinds):
    cases = {
        'labels': [Case((f'Some text {i}',), ('a',)) for i in range(6)],
        'pairs': [Case((f'Some text {i}', 'Another one'), '1.5') for i in range(6)],
        'tags': [Case(('Annabel', 'visited', 'Robert'), ('B-PER', 'O', 'B-PER'))] * 6,
        'chat': [Case(('hello there',), ('yes',), (Turn('hello there', False),))] * 3,
    }
    for name, model in every_kind(micro, *kinds).items():
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
