"""Selections by micro models: what is measured, what is left out, what is refused, what is written."""

import csv
import io
import types

import jax
import numpy as np
import pytest
from scipy import stats
from scipy.special import softmax

from palm_jax.api import embeddings
from palm_jax.api.predictions import read_rows
from palm_jax.data.readers.delimited import Layout
from palm_jax.errors import UserError
from palm_jax.predictors.head_scores import by_length, scores_of_batch
from palm_jax.selection import outputs, pool, select, uncertainty
from tests.support.kinds import every_kind
from tests.support.models import shaken

TEXTS = [f'text {i} {"abcdefg"[i % 7] * (1 + i % 5)}' for i in range(11)]


@pytest.fixture(scope='module')
def kinds():
    """Micro models by kind, made when they are asked for."""
    return {}


@pytest.fixture
def model_of(micro, kinds):
    def build(kind):
        if kind not in kinds:
            made = every_kind(micro, kind)[kind]
            kinds[kind] = type(made)(**{**vars(made), 'params': shaken(made.params)})
        return kinds[kind]

    return build


def candidates(texts):
    return [pool.Candidate(text, '') for text in texts]


def chosen(model, strategy, texts=TEXTS, labelled=(), **options):
    settings = select.Settings(strategy=strategy, batch_size=4, **({'count': 5} | options))
    return select.choose(model, candidates(texts), list(labelled), settings)


def test_uncertainty_is_that_of_the_predictions(model_of):
    model = model_of('classes')
    p = np.array([[prediction[name] for name in model.data.labels] for prediction in model.predict(TEXTS)])
    expected = stats.entropy(p, axis=1)
    found = chosen(model, 'entropy')
    assert [c.candidate.text for c in found] == [TEXTS[i] for i in np.argsort(-expected)[:5]]
    assert np.allclose([c.score for c in found], np.sort(expected)[::-1][:5], atol=1e-6)
    name, highest = next(iter(model.predict([found[0].candidate.text])[0].items()))
    assert found[0].reason.startswith(f'entropy {found[0].score:.3g} nats; predicted: {name} {highest:.2f}, ')
    by_margin = chosen(model, 'margin', count=99)
    assert len(by_margin) == len(TEXTS)
    assert by_margin[0].reason.startswith(f'margin {1 - by_margin[0].score:.3g} between the two likeliest; predicted: ')
    sets = model_of('labels')
    p = np.array([[prediction[name] for name in 'ab'] for prediction in sets.predict(TEXTS)])
    best = max(range(len(TEXTS)), key=lambda i: 1 - np.maximum(p[i], 1 - p[i]).prod())
    assert chosen(sets, 'least_confidence', count=1)[0].candidate.text == TEXTS[best]


def test_a_tagger_is_as_uncertain_as_the_mean_of_its_words(model_of):
    model = model_of('tags')
    texts = ['Ann is in Paris.', 'No', 'one two three']
    scores = []
    for text in texts:
        words = [word.group() for word in model.data.words(text)]
        features, (ends,) = model.data.inputs([words])
        logits = model.model.apply(
            {'params': model.params}, features['decoder_input_tokens'], None, features['decoder_segment_ids'],
            features.get('decoder_causal_attention'), method='scores',
        )  # fmt: skip
        scores.append(stats.entropy(softmax(np.asarray(logits)[0, ends], axis=-1), axis=-1).mean())
    found = chosen(model, 'entropy', texts)
    assert [c.candidate.text for c in found] == [texts[i] for i in np.argsort(scores)[::-1]]
    assert np.allclose([c.score for c in found], np.sort(scores)[::-1], atol=1e-5)
    assert 'mean over words: entropy ' in found[0].reason


def test_bald_uses_dropout_masks(model_of):
    model = model_of('classes')
    assert not model.model.has_dropout
    first, again, other = (chosen(model, 'bald', seed=seed, num_samples=3, count=11) for seed in (0, 0, 1))
    assert [c.score for c in first] == [c.score for c in again] != [c.score for c in other]
    assert min(c.score for c in first) > 0 and '3 dropout masks' in first[0].reason
    module = outputs.with_dropout(model.model, 0.3)
    assert module.arch.dropout_rate == 0.3 and outputs.with_dropout(module, None) is module
    # The samples are those of the model with these masks.
    features, _ = model.data.inputs([(text, None) for text in TEXTS[:4]])
    ((rows, batch),) = by_length(features, 4)
    key = jax.random.fold_in(jax.random.key(0), 0)
    p = [
        softmax(np.asarray(scores_of_batch(module, model.params, batch, jax.random.fold_in(key, s))), axis=-1)
        for s in range(3)
    ]
    measured = outputs.measured_with_dropout(model, TEXTS[:4], uncertainty.bald, 3, 0.3, 0, 4)
    assert np.allclose(
        measured[rows], stats.entropy(np.mean(p, axis=0), axis=1) - stats.entropy(p, axis=2).mean(axis=0), atol=1e-6
    )


@pytest.mark.parametrize('kind', ['classes', 'labels'])
def test_gradients_are_those_of_the_head(model_of, kind):
    model = model_of(kind)
    residuals, features = outputs.gradients(model, TEXTS, 4)
    inputs, _ = model.data.inputs([(text, None) for text in TEXTS])
    labels = model.data.labels
    p = np.array([[prediction[name] for name in labels] for prediction in model.predict(TEXTS)])
    targets = np.eye(len(labels))[p.argmax(axis=1)] if kind == 'classes' else (p > 0.5).astype(float)

    def loss(kernel, row):
        params = model.params | {'head': model.params['head'] | {'kernel': kernel}}
        scores = model.model.apply(
            {'params': params}, inputs['decoder_input_tokens'][row : row + 1], None,
            inputs['decoder_segment_ids'][row : row + 1], method='scores',
        )[0]  # fmt: skip
        if kind == 'classes':
            return -(targets[row] * jax.nn.log_softmax(scores)).sum()
        return -(targets[row] * jax.nn.log_sigmoid(scores) + (1 - targets[row]) * jax.nn.log_sigmoid(-scores)).sum()

    for row in (0, 6):
        gradient_DC = jax.grad(loss)(model.params['head']['kernel'], row)
        assert np.allclose(gradient_DC, np.outer(features[row], residuals[row]), atol=1e-5)
    found = chosen(model, 'badge')
    norms = np.linalg.norm(residuals, axis=1) * np.linalg.norm(features, axis=1)
    assert found[0].candidate.text == TEXTS[norms.argmax()] and len({c.candidate.text for c in found}) == 5


def test_a_core_set_keeps_away_from_what_is_labelled(model_of):
    model = model_of('classes')
    found = chosen(model, 'coreset', labelled=TEXTS[:3], texts=TEXTS[3:], count=1)
    x = model.embed(TEXTS, 'mean')
    distances = np.linalg.norm(x[3:, None] - x[:3], axis=-1).min(axis=1)
    assert found[0].candidate.text == TEXTS[3 + distances.argmax()] and np.isclose(
        found[0].score, distances.max(), atol=1e-4
    )
    assert chosen(model, 'coreset')[0].score is None
    pairs = [('a b', 'c'), ('d', 'e f')]
    assert {c.candidate.text for c in chosen(model_of('pairs'), 'coreset', pairs)} == set(pairs)
    assert np.allclose(outputs.embedded(model, TEXTS, 4), embeddings.embed(model, TEXTS, None, 4), atol=1e-6)


def test_random_choices_follow_the_seed(model_of):
    model = model_of('classes')
    first, again, other = ([c.candidate.text for c in chosen(model, 'random', seed=s)] for s in (0, 0, 1))
    assert first == again != other and set(first) <= set(TEXTS)


def test_models_of_another_kind_are_refused(model_of):
    with pytest.raises(UserError, match='label texts or tag words; this one was trained on text alone'):
        chosen(model_of('text'), 'random')
    with pytest.raises(UserError, match='needs the probabilities of classes, which this model does not predict'):
        chosen(model_of('pairs'), 'entropy', [('a', 'b')])
    with pytest.raises(UserError, match='tags words, and BADGE needs one label'):
        chosen(model_of('tags'), 'badge')


def test_the_pool_leaves_out_what_is_labelled_repeated_or_unusable(model_of, tmp_path, caplog):
    model = model_of('classes')
    (tmp_path / 'pool.csv').write_text('id,text,label\n1,a  b,yes\n2,a b,no\n3,,no\n4,known,no\n5,"c, d",yes\n')
    found = pool.read(model, str(tmp_path / 'pool.csv'), ['known '], with_labels=True)
    assert found.candidates == [pool.Candidate('a  b', 'yes'), pool.Candidate('c, d', 'yes')]
    assert (found.num_rows, found.num_labelled, found.num_repeated, found.num_unusable, found.num_new) == (
        5,
        1,
        1,
        1,
        2,
    )
    assert "line 4: the column 'text' is empty" in caplog.text
    assert [c.label for c in pool.read(model, str(tmp_path / 'pool.csv'), []).candidates] == ['', '', '']
    with pytest.raises(UserError, match='no text is left to label: of 5 rows, 4 are labelled already'):
        pool.read(model, str(tmp_path / 'pool.csv'), ['a b', 'c, d', 'known'])
    tagger = model_of('tags')
    (tmp_path / 'pool.txt').write_text('Ann is here.\nBob is here.\n')
    found = pool.read(tagger, str(tmp_path / 'pool.txt'), ['Ann is here .'])
    assert [c.text for c in found.candidates] == ['Bob is here.']


def test_a_large_pool_is_sampled_evenly(model_of, tmp_path):
    model = model_of('classes')
    (tmp_path / 'pool.txt').write_text(''.join(f'number {i}\n' for i in range(30)))
    counts = np.zeros(30)
    for seed in range(300):
        found = pool.read(model, str(tmp_path / 'pool.txt'), [], most=10, seed=seed).candidates
        numbers = [int(c.text.split()[1]) for c in found]
        assert numbers == sorted(numbers) and len(numbers) == 10
        counts[numbers] += 1
    assert stats.chisquare(counts).pvalue > 0.001


def test_what_is_written_is_read_again(model_of, tmp_path):
    model = model_of('classes')
    texts = ['plain', 'with, comma and "quotes"', 'two\nlines', 'a return\rinside', ' blank ']
    choices = [select.Choice(pool.Candidate(text, ''), 0.5, 'because, of {braces}') for text in texts]
    columns = pool.Columns.of(model)
    (tmp_path / 'round.csv').write_text(select.as_csv(columns, choices), newline='')
    rows = list(csv.DictReader(io.StringIO((tmp_path / 'round.csv').read_text(), newline='')))
    assert list(rows[0]) == ['text', 'label', 'score', 'reason'] and {row['label'] for row in rows} == {''}
    assert [row.values['text'] for row in read_rows(str(tmp_path / 'round.csv'), Layout())] == texts
    other = types.SimpleNamespace(predictor=model.predictor, data=types.SimpleNamespace(
        table=model.data.table, layout=Layout(('label', 'text'))
    ))  # fmt: skip
    assert pool.listed_texts(other, [str(tmp_path / 'round.csv')]) == texts
    (tmp_path / 'bad.csv').write_text('text\n""\n')
    with pytest.raises(UserError, match='is empty'):
        pool.listed_texts(model, [str(tmp_path / 'bad.csv')])
    assert pool.Columns(('text',), 'score').names == ['text', 'score', 'selection_score', 'reason']
