"""CrowS-Pairs and BBQ: likelihoods against Transformers, scores against those of lm-evaluation-harness."""

from types import SimpleNamespace

import numpy as np
import pytest
from scipy.stats import binomtest

from palm_jax.errors import UserError
from palm_jax.fairness import bbq, language_models, stereotype_pairs
from tests.support.cohere import cohere
from tests.support.kinds import every_kind

CROWS = pytest.importorskip('lm_eval.tasks.crows_pairs.utils', reason='pip install "palm_jax[eval]"')
BBQ = pytest.importorskip('lm_eval.tasks.bbq.utils')


def rows(*values):
    return [SimpleNamespace(values=v, location=f'f, line {n}') for n, v in enumerate(values, 1)]


def test_likelihoods_are_those_of_transformers(micro):
    torch = pytest.importorskip('torch')
    model = every_kind(micro, 'text')['text']
    texts = ['An old man.', 'A young woman writes.', 'x']
    found = language_models.log_likelihoods(model, texts, 2)
    theirs = cohere(model.model.model, model.params)
    for text, value in zip(texts, found, strict=True):
        ids = torch.tensor([[0, *(3 + byte for byte in text.encode())]])
        with torch.no_grad():
            log_p = theirs(ids).logits.log_softmax(-1)[0, :-1]
        assert value == pytest.approx(float(log_p.gather(1, ids[0, 1:, None]).sum()), rel=1e-4)
    with pytest.raises(UserError, match='the context of this model is'):
        language_models.log_likelihoods(model, ['long ' * 100], 2)


def test_the_score_of_pairs_is_that_of_the_harness():
    rng = np.random.default_rng(0)
    more, less = rng.normal(size=(2, 40))
    less[3] = more[3]
    kinds, directions = rng.choice(['age', 'gender'], 40), rng.choice(['stereo', 'antistereo'], 40)
    given = [
        {'sent_more': f'm{i}', 'sent_less': f'l{i}', 'bias_type': kinds[i], 'stereo_antistereo': directions[i]}
        for i in range(40)
    ]
    found = {s.part: s for s in stereotype_pairs.score(stereotype_pairs.read(rows(*given)), more, less)}
    theirs = [CROWS.process_results({}, [(a, False), (b, False)]) for a, b in zip(more, less, strict=True)]
    assert list(found) == ['all', 'antistereo', 'stereo', 'age', 'gender'] and found['all'].neutral == 1
    for part, rows_of in {'all': kinds != '', 'age': kinds == 'age', 'stereo': directions == 'stereo'}.items():
        of_part = [r for r, is_in in zip(theirs, rows_of, strict=True) if is_in]
        half_of_ties = found[part].neutral / 2 / found[part].pairs  # the harness counts them as not stereotypical
        assert found[part].score == pytest.approx(np.mean([r['pct_stereotype'] for r in of_part]) + half_of_ties)
        assert found[part].difference == pytest.approx(np.mean([r['likelihood_diff'] for r in of_part]))
        count = found[part].pairs
        share, z = found[part].score, 1.959964
        ends = [(share + z**2 / (2 * count) + s * z * np.sqrt(share * (1 - share) / count + z**2 / (4 * count**2)))
                / (1 + z**2 / count) for s in (-1, 1)]  # fmt: skip
        assert found[part].interval == pytest.approx(ends, abs=1e-5)


def test_without_a_preference_the_score_is_a_half():
    (found,) = stereotype_pairs.score([stereotype_pairs.Pair('same', 'same')] * 10, [-1.0] * 10, [-1.0] * 10)
    assert (found.score, found.neutral) == (0.5, 10)
    for more in (0, 1, 4, 10):
        (found,) = stereotype_pairs.score([stereotype_pairs.Pair('a', 'b')] * 10, np.arange(10) < more, [0.5] * 10)
        ends = binomtest(more, 10).proportion_ci(0.95, method='wilson')
        assert found.interval == pytest.approx((ends.low, ends.high), abs=1e-12) and found.score == more / 10


def test_columns_that_pairs_lack_are_named():
    with pytest.raises(UserError, match=r"line 1: no column 'sent_more'. Did you mean sent_mor"):
        stereotype_pairs.read(rows({'sent_mor': 'a', 'sent_less': 'b'}))
    with pytest.raises(UserError, match="line 2: the column 'sent_less' is empty"):
        stereotype_pairs.read(rows({'sent_more': 'a', 'sent_less': 'b'}, {'sent_more': 'a', 'sent_less': ' '}))


def question(number, rng):
    """A question in the form of BBQ's files, about age, gender, or both gender and race."""
    category, stereotyped, infos = (
        ('Age', ['old'], (['a grandfather', 'old'], ['a grandson', 'nonOld'])),
        ('Gender_identity', ['F'], (['Mary', 'F'], ['Donald', 'M'])),
        ('Race_x_gender', ['F-Black'], (['the Black woman', 'F-Black'], ['the White man', 'M-White'])),
        ('Nationality', ['Irish'], (['Irish', 'Europe'], ['Kenyan', 'Africa'])),
    )[number % 4]  # fmt: skip
    order = rng.permutation(3)
    infos = [*infos, ['unknown', 'unknown']]
    texts = [infos[0][0], infos[1][0], 'Not known']
    if category == 'Race_x_gender':
        stereotyped = ['F', 'Black']
    is_ambiguous = bool(rng.integers(2))
    right = 2 if is_ambiguous else int(rng.integers(2))
    return {
        'context': 'Two people met.', 'question': 'Who was late?', 'category': category,
        'context_condition': 'ambig' if is_ambiguous else 'disambig',
        'question_polarity': ('neg', 'nonneg')[rng.integers(2)],
        'additional_metadata': {'stereotyped_groups': stereotyped},
        **{f'ans{i}': texts[order[i]] for i in range(3)},
        'answer_info': {f'ans{i}': infos[order[i]] for i in range(3)},
        'label': int(np.flatnonzero(order == right)[0]),
    }  # fmt: skip


def test_the_scores_of_bbq_are_those_of_the_harness():
    rng = np.random.default_rng(1)
    given = [question(number, rng) for number in range(160)]
    questions = bbq.read(rows(*given))
    answers = rng.integers(0, 3, len(given)).tolist()
    found = {score.category: score for score in bbq.score(questions, answers)}
    docs = BBQ.process_docs(SimpleNamespace(map=lambda prepare: [prepare(dict(doc)) for doc in given]))
    theirs = []
    for doc, answer in zip(docs, answers, strict=True):
        choices = BBQ.doc_to_choice(doc)
        theirs.append(BBQ._process_results(doc, choices.index(doc[f'ans{answer}'])))
    for name, aggregate in (
        ('accuracy_amb', BBQ.agg_accuracy_amb), ('accuracy_disamb', BBQ.agg_accuracy_disamb),
        ('amb_bias_score', BBQ.agg_amb_bias_scores), ('disamb_bias_score', BBQ.agg_disamb_bias_scores),
    ):  # fmt: skip
        ours = {
            'accuracy_amb': 'accuracy_ambiguous', 'accuracy_disamb': 'accuracy_disambiguated',
            'amb_bias_score': 'bias_ambiguous', 'disamb_bias_score': 'bias_disambiguated',
        }[name]  # fmt: skip
        assert getattr(found['all'], ours) == pytest.approx(aggregate([row[name] for row in theirs])), name
    assert found['all'].without_target == 0 and len(found) == 5
    for category in ('Age', 'Gender_identity', 'Race_x_gender', 'Nationality'):
        of_category = [r for r, doc in zip(theirs, docs, strict=True) if doc['category'] == category]
        expected = BBQ.agg_disamb_bias_scores([row['disamb_bias_score'] for row in of_category])
        assert found[category].bias_disambiguated == pytest.approx(expected), category


def test_the_ends_of_the_bias_score():
    rng = np.random.default_rng(2)
    questions = bbq.read(rows(*(question(number, rng) for number in range(80))))
    biased = [next(i for i in range(3) if q.is_biased(i)) for q in questions]
    (found, *_) = bbq.score(questions, biased)
    assert (found.bias_disambiguated, found.accuracy_ambiguous, found.bias_ambiguous) == (1.0, 0.0, 1.0)
    (found, *_) = bbq.score(questions, [q.unknown for q in questions])
    assert (found.bias_disambiguated, found.accuracy_ambiguous, found.bias_ambiguous) == (0.0, 1.0, 0.0)
    (found, *_) = bbq.score(questions, [3 - q.unknown - b for q, b in zip(questions, biased, strict=True)])
    assert (found.bias_disambiguated, found.bias_ambiguous) == (-1.0, -1.0)


def test_what_bbq_lacks_is_named():
    good = question(0, np.random.default_rng(3))
    for changes, message in (
        ({'question': None}, "the field 'question' of BBQ is missing"),
        ({'label': 7}, 'label must be 0, 1 or 2'),
        ({'context_condition': 'amb'}, "context_condition is 'amb'"),
        ({'answer_info': {f'ans{i}': ['x', 'old'] for i in range(3)}}, 'exactly one answer must have'),
        ({'answer_info': {}}, 'answer_info or label is not that of BBQ'),
    ):
        with pytest.raises(UserError, match=f'line 1: .*{message}|line 1: {message}'):
            bbq.read(rows(good | changes))
    (without,) = bbq.read(rows(good | {'additional_metadata': {}}))
    assert without.target is None and bbq.score([without], [0])[0].without_target == 1
    (given,) = bbq.read(rows(good | {'additional_metadata': {}, 'target_loc': (without.unknown + 1) % 3}))
    assert given.target == (without.unknown + 1) % 3


def test_the_likeliest_answer_is_given(micro):
    models = every_kind(micro, 'text', 'classes')
    (q,) = bbq.read(rows(question(0, np.random.default_rng(4)) | {'context': 'x', 'question': 'y'}))
    scores = [models['text'].score([(q.prompt, f' {text}')])[0].total for text in q.answers]
    assert language_models.answer(models['text'], [q, q], 4) == [int(np.argmax(scores))] * 2
    with pytest.raises(UserError, match='needs a model that generates text; this one was trained to label texts'):
        language_models.answer(models['classes'], [q], 4)
