"""Templates: how they are filled, and gaps and flips by their definitions in NumPy."""

import itertools
import json

import numpy as np
import pytest

from palm_jax.errors import UserError
from palm_jax.fairness import associations, counterfactuals, language_models, templates, word_lists
from tests.support.kinds import every_kind

OWN = {
    'templates': ['{name} asked where {his} card is.', '{He} works as {job}.'],
    'groups': {
        'women': {'name': ['Anna', 'Mary'], 'he': ['she'], 'his': ['her']},
        'men': {'name': ['Paul', 'John'], 'he': ['he'], 'his': ['his']},
    },
    'lists': {'job': ['a nurse', 'an engineer']},
}


def loaded(tmp_path, content=None, **changes):
    path = tmp_path / 'own.json'
    path.write_text(json.dumps(OWN | changes if content is None else content))
    return templates.load(str(path))


def test_slots_are_filled_by_groups_and_lists(tmp_path):
    found = loaded(tmp_path).fill(1000)
    assert [(f.text, f.group, f.context) for f in found if f.context in (0, 2)] == [
        ('Anna asked where her card is.', 'women', 0), ('Mary asked where her card is.', 'women', 0),
        ('Paul asked where his card is.', 'men', 0), ('John asked where his card is.', 'men', 0),
        ('She works as an engineer.', 'women', 2), ('He works as an engineer.', 'men', 2),
    ]  # fmt: skip
    assert found[-1].shared == (('job', 'an engineer'),) and found[0].shared == ()
    more = OWN['groups']['men'] | {'name': ['Paul', 'John', 'Max']}
    unequal = loaded(tmp_path, groups=OWN['groups'] | {'men': more}).fill(1000)
    assert [f.text.split()[0] for f in unequal if f.context == 0] == ['Anna', 'Mary', 'Paul', 'John', 'Max']
    assert len({f.context for f in loaded(tmp_path).fill(4)}) == 1  # at most about four texts
    (tmp_path / 'jobs.txt').write_text('a cook\n\na judge\n')
    lines = loaded(tmp_path, lists={'job': str(tmp_path / 'jobs.txt')}).fill(1000)
    assert {text.text for text in lines} >= {'She works as a cook.', 'He works as a judge.'}


@pytest.mark.parametrize('name', word_lists.TEMPLATES)
def test_built_in_sets_have_different_texts_in_every_context(name):
    found = templates.load(name).fill(5000)
    assert len({f.group for f in found}) >= 2 and not any('{' in f.text or f.text[0].islower() for f in found)
    for _, texts in itertools.groupby(found, key=lambda f: f.context):
        assert len(groups := {(f.text, f.group) for f in texts}) == len({text for text, _ in groups}) >= 2


def test_names_of_languages_are_those_of_cldr(tmp_path):
    (tmp_path / 'own.json').write_text(
        json.dumps({'templates': ['Ich spreche {language}.'], 'groups': 'languages', 'locale': 'de'})
    )
    texts = {f.text: f.group for f in templates.load(str(tmp_path / 'own.json')).fill(1000)}
    assert texts['Ich spreche Chinesisch.'] == 'Chinesisch' and len(texts) > 20
    (tmp_path / 'own.txt').write_text('{name} speaks {language}.\n\n')
    assert any(f.text.startswith('Anna speaks') for f in templates.load(str(tmp_path / 'own.txt')).fill(1000))


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ({'templates': ['{names} is here']}, "a slot 'names' without words. Did you mean name"),
        ({'templates': ['{job} is here']}, 'names no group'),
        ({'templates': 'missing.txt'}, 'missing.txt cannot be read'),
        ({'templates': []}, 'must be a list of texts'),
        ({'template': []}, "unknown key 'template'. Did you mean templates"),
        ({'groups': {'women': OWN['groups']['women']}}, 'one group only'),
        ({'groups': OWN['groups'] | {'others': {'name': ['Kim']}}}, "the group 'others' has no words for 'he'"),
        ({'groups': {'a': {'name': ['x', 'y'], 'he': ['1', '2', '3']}, 'b': {'name': ['z'], 'he': ['4']}}}, '2 and 3'),
        ({'groups': 'gendr'}, 'Did you mean gender'),
        ({'groups': ['women']}, 'groups must be an object'),
        ({'locale': 'xxxx'}, "CLDR has no language 'xxxx'"),
        ({'lists': ['a']}, 'lists must be an object'),
    ],
)
def test_wrong_templates_are_named(tmp_path, changes, message):
    with pytest.raises(UserError, match=message):
        loaded(tmp_path, **changes)


def test_a_set_that_does_not_exist_is_refused(tmp_path):
    with pytest.raises(UserError, match='Did you mean languages'):
        templates.load('language')
    with pytest.raises(UserError, match=r'own\.json must hold an object'):
        loaded(tmp_path, content=['x'])


def test_gaps_and_flips_are_those_of_all_pairs():
    rng = np.random.default_rng(0)
    filled = [
        templates.Filled(f'{g}{c}{m}', g, c, ()) for c in range(7) for g, n in (('a', 3), ('b', 2)) for m in range(n)
    ]
    p = rng.uniform(size=len(filled))
    p += [0.3 * (f.group == 'b') for f in filled]
    predictions = [{'predicted': 'yes' if x > 0.6 else 'no', 'probabilities': {'yes': x, 'no': 1 - x}} for x in p]
    found = counterfactuals.compare('t', filled, predictions)
    of = lambda c, g: np.array([x for x, f in zip(p, filled, strict=True) if (f.context, f.group) == (c, g)])  # noqa: E731
    means = {g: np.mean([of(c, g).mean() for c in range(7)]) for g in 'ab'}
    gap = found.gaps[0]
    assert gap.means == pytest.approx(means if gap.label == 'yes' else {g: 1 - x for g, x in means.items()})
    assert gap.value == pytest.approx(abs(means['a'] - means['b'])) and gap.low <= gap.value <= gap.high
    flips = [(x > 0.6) != (y > 0.6) for c in range(7) for x in of(c, 'a') for y in of(c, 'b')]
    assert found.flips == pytest.approx(np.mean(flips)) and found.between[0].pairs == len(flips) == 42
    inside = [(x > 0.6) != (y > 0.6) for c in range(7) for g in 'ab' for x, y in itertools.combinations(of(c, g), 2)]
    assert found.flips_within == pytest.approx(np.mean(inside)) and len(found.within) == 2
    assert found.counts == {'a': 21, 'b': 14} and found.contexts == 7
    for example in found.examples:
        assert example['predicted'][0] != example['predicted'][1] and example['groups'] == ['a', 'b']
    numbers = counterfactuals.compare('t', filled, [{'predicted': float(x)} for x in p])
    assert numbers.flips is None and numbers.gaps[0].value == pytest.approx(gap.value)
    answers = counterfactuals.compare('t', filled, [{'predicted': f.group} for f in filled])
    assert answers.flips == 1.0 and answers.flips_within == 0.0 and not answers.gaps


def test_texts_that_names_do_not_change_count_once(tmp_path):
    filled = loaded(tmp_path, templates=['{He} works as {job}.', '{name} is here.']).fill(1000)
    found = counterfactuals.compare('t', filled, [{'predicted': f.group} for f in filled])
    assert found.counts == {'women': 4, 'men': 4} and found.between[0].pairs == 1 + 1 + 4
    assert [flips.pairs for flips in found.within] == [1, 1]  # of names alone
    assert len({tuple(example['texts']) for example in found.examples}) == len(found.examples) == 6


def test_contexts_weigh_alike_however_many_names_a_group_has():
    names = {'f': 3, 'm': 1}
    filled = [
        templates.Filled(f'{g}{w}{c}{m}', g, 2 * c + (w == 'cook'), (('job', w),))
        for c in range(2) for w in ('nurse', 'cook') for g in 'fm' for m in range(names[g] if c else 1)
    ]  # fmt: skip
    values = [4.0 * (f.shared[0][1] == 'nurse' and f.context >= 2) for f in filled]
    assert associations.associate('t', filled, values).words[0].spread == 0


def test_associations_are_interactions():
    filled = [
        templates.Filled('', g, n, (('job', w),))
        for n in range(3)
        for g in ('f', 'm')
        for w in ('nurse', 'cook', 'judge')
    ]
    effect = {('f', 'nurse'): 2.0, ('m', 'judge'): 1.0}
    values = [
        effect.get((f.group, f.shared[0][1]), 0.0) + 5 * (f.group == 'm') - len(f.shared[0][1]) + f.context
        for f in filled
    ]
    found = associations.associate('t', filled, values)
    table = np.array([[2, 0, 0], [0, 0, 1]], float)
    expected = table - table.mean(1, keepdims=True) - table.mean(0) + table.mean()
    by_word = {word.word: word.by_group for word in found.words}
    for number, word in enumerate(('nurse', 'cook', 'judge')):
        assert [by_word[word][g] for g in 'fm'] == pytest.approx(expected[:, number])
    assert found.words[0].word == 'nurse' and found.means['m'] > found.means['f']


def test_models_that_do_not_read_single_texts_are_refused(micro):
    kinds = every_kind(micro, 'pairs', 'tags', 'classes', 'labels', 'text_to_text')
    for name in ('pairs', 'tags'):
        with pytest.raises(UserError, match='labels or continues single texts'):
            language_models.predict(kinds[name], ['a'], 4)
    for name in ('classes', 'labels', 'text_to_text'):
        predictions = language_models.predict(kinds[name], ['a text', 'another'], 4)
        assert len(predictions) == 2 and ('probabilities' in predictions[0]) == (name != 'text_to_text')
    with pytest.raises(UserError, match='need a language model; this model was trained to label texts'):
        language_models.log_likelihoods(kinds['classes'], ['a'], 4)
