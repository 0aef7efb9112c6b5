"""Attributions against finite differences in NumPy, and against the closed form of a linear model."""

import dataclasses
import json
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from palm_jax.data.supervised.labelled_example import Example
from palm_jax.errors import UserError
from palm_jax.explanations import page
from palm_jax.explanations.attribution import METHODS, quadrature
from palm_jax.explanations.explain import Settings, explain
from palm_jax.explanations.faithfulness import SHARES
from palm_jax.explanations.scorer import embed
from palm_jax.models.masks import Mask
from palm_jax.predictors.head_scores import head_scores
from palm_jax.reports.labels import HeadReporter
from palm_jax.training.metrics import Ratio
from tests.support.kinds import every_kind

TEXT = 'no, it does not'


_MADE, _COMPILED = {}, {}


@pytest.fixture
def kinds(micro):
    """A model of each kind, made once for this module."""
    _MADE.update({} if _MADE else every_kind(micro))
    return _MADE


def linear(model):
    """The same model with blocks that add nothing and no final norm: scores are linear in the embedded inputs."""
    arch = dataclasses.replace(model.model.arch, final_norm=False)
    params = dict(model.params)
    for block, path in (('attn', 'out'), ('mlp', 'out')):
        stack = params['stack']
        zero = {'kernel': jnp.zeros_like(stack[block][path]['kernel'])}
        params['stack'] = stack | {block: stack[block] | {path: stack[block][path] | zero}}
    return dataclasses.replace(model, model=model.model.clone(arch=arch), params=params)


def scores_of_embedded(model, x_LD):
    """The head's scores of embedded inputs, by the parts of the model."""

    def apply(palm, x_1LD):
        length = x_1LD.shape[1]
        mask = Mask(jnp.ones((1, length), jnp.int32), None)
        h = palm.transform(x_1LD, jnp.arange(length)[None], mask)
        return palm.head(h, jnp.ones((1, length), jnp.int32))

    if 'scores' not in _COMPILED:
        _COMPILED['scores'] = jax.jit(lambda params, x: model.model.apply({'params': params}, x, method=apply))
    return np.asarray(_COMPILED['scores'](model.params, jnp.asarray(x_LD)[None]))[0]


def log_odds(scores, c):
    others = np.delete(scores, c).astype(np.float64)
    return float(scores[c] - np.log(np.exp(others).sum()))


def test_gradients_are_those_of_finite_differences(kinds):
    model = kinds['classes']
    (found,) = model.explain([TEXT], 'yes', Settings(methods=('gradient_x_input', 'integrated_gradients'), steps=5))
    ids = model.data.tokens(TEXT)[0]
    x_LD = np.asarray(embed(model.model, model.params, np.array([ids])))[0]
    pad_D = np.asarray(embed(model.model, model.params, np.array([[0]])))[0, 0]
    is_word_L = np.array([any(i in word.tokens for word in found.words) for i in range(len(ids))])
    assert is_word_L.sum() == len(ids) - 2  # all but BOS and EOS
    start_LD = np.where(is_word_L[:, None], pad_D, x_LD)

    def slope(point_LD, direction_LD, eps=3e-3):
        ends = [log_odds(scores_of_embedded(model, point_LD + e * direction_LD), 1) for e in (-eps, eps)]
        return (ends[1] - ends[0]) / (2 * eps)

    points, weights = quadrature(5)
    for i, word in enumerate(found.words):
        mask = np.isin(np.arange(len(ids)), word.tokens)[:, None]
        expected = slope(x_LD, x_LD * mask)
        np.testing.assert_allclose(found.attributions['gradient_x_input'].words[i], expected, atol=2e-3)
        path = [start_LD + a * (x_LD - start_LD) for a in points]
        expected = sum(w * slope(p, (x_LD - start_LD) * mask) for w, p in zip(weights, path, strict=True))
        np.testing.assert_allclose(found.attributions['integrated_gradients'].words[i], expected, atol=2e-3)
    of_baseline = log_odds(scores_of_embedded(model, start_LD), 1)
    np.testing.assert_allclose(found.attributions['integrated_gradients'].baseline_value, of_baseline, atol=1e-4)
    np.testing.assert_allclose(found.value, log_odds(scores_of_embedded(model, x_LD), 1), atol=1e-4)
    np.testing.assert_allclose(found.probability, model.predict([TEXT])[0]['yes'], atol=1e-5)


SLOW = pytest.mark.slow  # what differs is one line


@pytest.mark.parametrize('baseline', ['padding', pytest.param('zero', marks=SLOW), pytest.param('mean', marks=SLOW)])
def test_a_linear_model_has_a_closed_form(kinds, baseline):
    model = linear(kinds['labels'])
    (found,) = model.explain([TEXT], 'b', Settings(steps=3, baseline=baseline, num_random=2, batch_size=4))
    ids = np.array(model.data.tokens(TEXT)[0])
    table_VD = np.asarray(embed(model.model, model.params, np.arange(model.model.arch.vocab_size)[None]))[0]
    absent_D = {'padding': table_VD[0], 'zero': 0 * table_VD[0], 'mean': table_VD.mean(axis=0)}[baseline]
    kernel_D, bias = np.asarray(model.params['head']['kernel'])[:, 1], float(model.params['head']['bias'][1])

    def value(kept):
        return float(table_VD[kept].mean(axis=0) @ kernel_D + bias)

    words = [list(word.tokens) for word in found.words]
    by_path = [(table_VD[ids[w]] - absent_D).sum(axis=0) @ kernel_D / len(ids) for w in words]
    by_input = [table_VD[ids[w]].sum(axis=0) @ kernel_D / len(ids) for w in words]
    by_leaving = [value(ids) - value(np.delete(ids, w)) for w in words]
    for name, expected in (
        ('integrated_gradients', by_path), ('gradient_x_input', by_input), ('leave_one_out', by_leaving)
    ):  # fmt: skip
        np.testing.assert_allclose(found.attributions[name].words, expected, atol=1e-5)
    assert found.attributions['integrated_gradients'].completeness_error < 1e-5
    # Comprehensiveness and sufficiency by their definition.
    p = lambda kept: 1 / (1 + np.exp(-value(kept)))  # noqa: E731
    order = np.argsort(-np.array(by_path), kind='stable')
    drops = []
    for share in SHARES:
        top, rest = np.split(order, [max(1, int(np.ceil(share * len(words))))])
        drops.append([p(ids) - p(np.delete(ids, [t for w in some for t in words[w]])) for some in (top, rest)])
    np.testing.assert_allclose(found.faithfulness['integrated_gradients'], np.mean(drops, axis=0), atol=1e-5)
    assert found.faithfulness.keys() == {*found.attributions, 'random'}


@pytest.mark.slow
def test_the_completeness_error_falls_with_the_steps_and_batches_change_nothing(kinds):
    model, texts = kinds['pairs'], [('no, it does not', 'yes'), ('a', 'b c d e f g')]
    coarse, fine = (model.explain(texts, settings=Settings(steps=n, batch_size=4)) for n in (2, 60))
    for few, many in zip(coarse, fine, strict=True):
        errors = [e.attributions['integrated_gradients'].completeness_error for e in (few, many)]
        assert errors[1] < 2e-3 < 0.05 and errors[1] <= errors[0] + 1e-6
        assert many.unit == 'number' and many.probability is None and {w.part for w in many.words} == {0, 1}
        np.testing.assert_allclose(many.value, model.predict([texts[many.input]])[0], atol=1e-5)
    for alone, together in zip(model.explain(texts, settings=Settings(steps=60, batch_size=1)), fine, strict=True):
        for name, found in alone.attributions.items():
            np.testing.assert_allclose(found.words, together.attributions[name].words, atol=1e-5)


def test_every_kind_of_task_is_explained(kinds):
    inputs = {'pairs': ('x y', 'z'), 'tags': 'Ann met Bob'}
    kinds['tags'].params['head']['bias'] = np.array([-9, 9, 0], np.float32)  # every word is an entity
    for name, model in kinds.items():
        methods = METHODS if name in ('pairs', 'tags', 'chat') else ('leave_one_out',)  # gradients take long to compile
        settings = Settings(methods, steps=2, num_random=1, batch_size=1)
        found = model.explain([inputs.get(name, 'who is it?')], settings=settings)
        assert len(found) == (3 if name == 'tags' else 1)
        for explanation in found:
            assert json.loads(json.dumps(explanation.to_json()))['words']
            assert explanation.unit in page.as_text(explanation)
            assert '<section>' in page.html_page('Why', [explanation])
            assert all(np.isfinite(a.words).all() and a.words.any() for a in explanation.attributions.values())
            tokens = [i for word in explanation.words for i in word.tokens]
            assert len(tokens) == len(set(tokens))
        assert model.explain([]) == []
    assert [e.label for e in found] == ['PER: Ann', 'PER: met', 'PER: Bob'] if name == 'tags' else True


def test_an_answer_is_explained_by_its_log_probability(kinds):
    for name in ('text', 'text_to_text', 'chat'):
        model = kinds[name]
        (given,) = model.explain(['who is it?'], 'Ann', Settings(methods=('leave_one_out',)))
        (scored,) = model.score([('who is it?', 'Ann')])
        np.testing.assert_allclose(given.value, scored.total, atol=1e-4)
        np.testing.assert_allclose(given.probability, np.exp(scored.total / len(scored.logprobs)), rtol=1e-4)
        (without,) = model.score([(' is it?', 'Ann')])
        np.testing.assert_allclose(
            given.attributions['leave_one_out'].words[0], scored.total - without.total, atol=1e-4
        )
        completed = model.completions(['who is it?'])[0][0]
        (predicted,) = model.explain(['who is it?'], settings=Settings(methods=('leave_one_out',)))
        assert predicted.label == completed.text
        np.testing.assert_allclose(predicted.value, sum(completed.logprobs), atol=1e-3)


def test_layers_that_are_frozen_in_training_are_explained_like_others(kinds):
    model = kinds['classes']
    frozen = dataclasses.replace(model, model=model.model.freeze_layers(1))
    settings = Settings(methods=('gradient_x_input',))
    (first,), (second,) = (m.explain([TEXT], settings=settings) for m in (model, frozen))
    np.testing.assert_allclose(
        first.attributions['gradient_x_input'].words, second.attributions['gradient_x_input'].words, atol=1e-6
    )


def test_what_does_not_exist_is_refused_with_what_does(kinds):
    with pytest.raises(UserError, match=r"no label 'yess'. Did you mean yes\?"):
        kinds['classes'].explain(['a'], 'yess')
    with pytest.raises(UserError, match='predicts a number, which has no label'):
        kinds['pairs'].explain([('a', 'b')], 'yes')
    with pytest.raises(UserError, match='There are 2 inputs, but 1 label'):
        kinds['classes'].explain(['a', 'b'], ['yes'])
    with pytest.raises(UserError, match="no method 'gradients'"):
        Settings(methods=('gradients',))
    assert explain(None, None, []) == []


def test_the_report_explains_the_worst_errors(kinds):
    model = kinds['classes']
    examples = [Example(text, None, 'no', '') for text in ('it is', 'no', 'well yes')]
    predicted = [max(p, key=p.get) for p in model.predict([e.text for e in examples])]
    features, _ = model.data.inputs([(e.text, None) for e in examples])
    scores = np.stack(head_scores(model.model, model.params, features, 3, 3))
    wrong = [model.data.labels[(model.data.labels.index(p) + 1) % 3] for p in predicted]
    data = SimpleNamespace(
        validation_examples=examples, labels=model.data.labels, inputs=model.data.inputs, baselines=[],
        vocabulary=model.data.vocabulary,
    )  # fmt: skip
    inputs = SimpleNamespace(
        model=model.model, params=model.params, data=data,
        evaluate=lambda: {'loss': Ratio(1.0, 1.0)},
        score=lambda: SimpleNamespace(scores=scores, labels=[model.data.labels.index(w) for w in wrong]),
    )  # fmt: skip
    assert 'Why the worst errors' not in HeadReporter().measure(inputs).tables
    header, *rows = HeadReporter(explained_errors=2).measure(inputs).tables['Why the worst errors']
    assert header[3:] == ('words for it', 'words against it') and len(rows) == 2
    for text, label, about, for_it, against in rows:
        number = [e.text for e in examples].index(text)
        assert (label, about) == (wrong[number], predicted[number])
        (expected,) = model.explain([text], settings=Settings(methods=('integrated_gradients',)))
        assert (for_it, against) == page.words_for_and_against(expected, 'integrated_gradients')


def test_a_counterfactual_is_the_fewest_words_without_which_the_decision_changes(kinds):
    model = linear(kinds['classes'])
    settings = Settings(('leave_one_out',), counterfactual_words=5, batch_size=4)

    scores_of_tokens = jax.jit(
        lambda params, tokens, inside: model.model.apply(
            {'params': params}, tokens, None, inside.astype(np.int32), method='scores'
        )
    )

    def flips(text, removed):
        kept = ''.join(f' {word}' if i else word for i, word in enumerate(text.split()) if i not in removed)
        tokens = np.array([[0, *model.data.vocabulary.encode(kept), 1]], np.int32)
        tokens = np.pad(tokens, [(0, 0), (0, 16 - tokens.shape[1])])
        scores = scores_of_tokens(model.params, tokens, np.arange(16)[None] < np.count_nonzero(tokens) + 1)
        decided = model.data.labels[int(np.argmax(scores[0]))]
        return None if decided == next(iter(model.predict([text])[0])) else decided

    texts = ['a b c d e', 'z y x w v', 'no one is', '1 2 3 4', 'Q q Q q', 'yes ok']
    found = model.explain(texts, settings=settings)
    assert any(e.counterfactual for e in found)
    for text, explanation in zip(texts, found, strict=True):
        if explanation.counterfactual:
            removed = explanation.counterfactual.removed
            assert flips(text, removed) and explanation.counterfactual.value < 0
            assert not any(flips(text, set(removed) - {word}) for word in removed if len(removed) > 1)
            assert explanation.to_json()['counterfactual']['words'] == [text.split()[i] for i in removed]
            assert f'would decide {flips(text, removed)!r}' in page.as_text(explanation)
    (other,) = model.explain(texts[:1], list(model.predict(texts[:1])[0])[-1], settings)
    assert other.counterfactual is None  # that label is not what the model decides
