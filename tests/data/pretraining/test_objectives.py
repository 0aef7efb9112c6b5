"""Objectives: inputs, targets and loss weights against small references; the published numbers."""

import numpy as np
import pytest
from scipy.stats import ks_2samp

from palm_jax.configuration.load import load
from palm_jax.data.pretraining.corpus import Corpus
from palm_jax.data.pretraining.dataset import LanguageModelData
from palm_jax.data.pretraining.objectives import (
    CausalLM,
    MaskedLM,
    NextSentence,
    PrefixLM,
    SpanCorruption,
    span_corruption,
)
from palm_jax.data.vocabulary import vocabularies
from palm_jax.data.vocabulary.special_tokens import ExtendedVocabulary
from palm_jax.errors import UserError
from palm_jax.special_ids import EOS_ID

L = 128
VOCABULARY = ExtendedVocabulary(vocabularies.Bytes(), extra_ids=70)
WORDS = 'the quick_brown fox jumps over 13 lazy dogs, and then it sleeps for 8 hours. '


def tokens(count):
    return np.resize(VOCABULARY.encode(WORDS), count).astype(np.int32)


def made(objective, seed=0, text=None, another=None):
    raw = tokens(objective.raw_length(L, VOCABULARY)) if text is None else text
    rng = np.random.default_rng(seed)
    return raw, objective(raw, L, VOCABULARY, rng, another or (lambda: raw))


def restored(features):
    """Reconstruct the text from inputs and targets of span corruption, by a reference that reads them in order."""
    targets, weights = features['decoder_target_tokens'].tolist(), features['decoder_loss_weights']
    first = int(np.flatnonzero(weights)[0])
    read, written = targets[:first], targets[first:]
    sentinels = range(VOCABULARY.size - VOCABULARY.num_sentinels, VOCABULARY.size)
    spans, current = {}, None
    for token in written[: written.index(EOS_ID)]:
        if token in sentinels:
            assert token not in spans
            current = spans.setdefault(token, [])
        else:
            current.append(token)
    assert list(spans) == [VOCABULARY.size - 1 - i for i in range(len(spans))]  # counted from the top, as in T5
    assert read.pop() == EOS_ID
    text = [t for token in read for t in spans.get(token, [token])]
    return text, spans


@pytest.mark.parametrize('rate, mean_span', [(0.15, 3.0), (0.15, 8.0), (0.5, 3.0), (0.5, 64.0), (0.15, 64.0)])
def test_span_corruption_cuts_what_it_says_and_loses_nothing(rate, mean_span):
    objective = SpanCorruption(rate, mean_span)
    lengths = []
    for seed in range(50):
        raw, features = made(objective, seed)
        text, spans = restored(features)
        assert text == raw.tolist()
        noise = sum(map(len, spans.values()))
        assert noise == round(len(raw) * rate) and len(spans) == max(1, round(noise / mean_span))
        lengths += [len(span) for span in spans.values()]
        learned = np.flatnonzero(features['decoder_loss_weights'])
        assert learned.tolist() == list(range(learned[0], learned[0] + noise + len(spans) + 1))  # and the end mark
        both_ways = np.flatnonzero(features['decoder_causal_attention'])
        assert both_ways.tolist() == list(range(learned[0] + 1))  # inputs stand one to the right
        np.testing.assert_array_equal(features['decoder_input_tokens'][1:], features['decoder_target_tokens'][:-1])
    assert min(lengths) >= 1 and abs(np.mean(lengths) - noise / len(spans)) < 1e-9


@pytest.mark.parametrize('rate, mean_span', [(0.15, 3.0), (0.15, 8.0), (0.5, 3.0), (0.5, 64.0), (0.15, 32.0)])
def test_spans_are_those_of_t5s_own_preprocessor(rate, mean_span):
    """The numbers of tokens and spans are T5's, and the lengths have the same distribution, but not the same draws."""
    preprocessors = pytest.importorskip('t5.data.preprocessors')
    objective = SpanCorruption(rate=rate, mean_span=mean_span)
    rng, ours, theirs = np.random.default_rng(0), [], []
    for number, count in enumerate([64, 100, 333, 512] * 60):
        seeds = [(number, i) for i in range(2)]
        mask = preprocessors.random_spans_noise_mask(count, rate, seeds, mean_noise_span_length=mean_span).numpy()
        for spans, one in ((theirs, mask), (ours, objective.noise(count, rng))):
            starts = np.flatnonzero(np.diff(np.r_[0, one]) > 0)
            ends = np.flatnonzero(np.diff(np.r_[one, 0]) < 0) + 1
            spans.append(ends - starts)
        assert len(ours[-1]) == len(theirs[-1]) and ours[-1].sum() == theirs[-1].sum(), count
    assert ks_2samp(np.concatenate(ours), np.concatenate(theirs)).pvalue > 1e-3


def test_span_corruption_fills_the_sequence():
    for rate, mean_span in ((0.15, 3.0), (0.5, 3.0), (0.5, 8.0)):
        _, features = made(SpanCorruption(rate, mean_span))
        assert 0 <= L - np.count_nonzero(features['decoder_target_tokens']) <= 3


def test_every_way_to_divide_is_equally_likely():
    rng = np.random.default_rng(0)
    drawn = [tuple(span_corruption._divide(6, 3, rng)) for _ in range(20_000)]
    ways = {(a, b, 6 - a - b) for a in range(1, 5) for b in range(1, 6 - a)}
    assert set(drawn) == ways
    counts = np.array([drawn.count(way) for way in ways])
    chi_square = ((counts - len(drawn) / len(ways)) ** 2 / (len(drawn) / len(ways))).sum()
    assert chi_square < 27.9  # of 9 degrees of freedom, one time in a thousand above


def test_prefix_lm_counts_the_end_and_sees_the_beginning_both_ways():
    cuts = []
    for seed in range(400):
        raw, features = made(PrefixLM(), seed)
        np.testing.assert_array_equal(features['decoder_target_tokens'], raw)
        first = int(np.flatnonzero(features['decoder_loss_weights'])[0])
        assert features['decoder_loss_weights'][first:].all() and 1 <= first < L
        assert features['decoder_causal_attention'].tolist() == [1] * (first + 1) + [0] * (L - first - 1)
        cuts.append(first)
    assert abs(np.mean(cuts) - L / 2) < 6 and min(cuts) < 5 and max(cuts) > L - 5  # drawn evenly
    raw, features = made(PrefixLM(rate=0.25, mode='[S2S]'))
    assert features['decoder_target_tokens'][0] == VOCABULARY.special_id('[S2S]')
    assert features['decoder_loss_weights'].sum() == round(0.25 * len(raw))


def test_masked_lm_hides_by_berts_numbers():
    objective = MaskedLM(whole_words=False)
    fates, counted = {'mask': 0, 'same': 0, 'other': 0}, 0
    for seed in range(400):
        raw, features = made(objective, seed)
        chosen = features['decoder_loss_weights'] > 0
        assert chosen.sum() == round(0.15 * L)
        np.testing.assert_array_equal(features['decoder_target_tokens'], raw)
        np.testing.assert_array_equal(features['decoder_input_tokens'][~chosen], raw[~chosen])
        assert features['decoder_causal_attention'].all()
        read = features['decoder_input_tokens'][chosen]
        fates['mask'] += (read == VOCABULARY.special_id('[MASK]')).sum()
        fates['same'] += (read == raw[chosen]).sum()
        counted += chosen.sum()
        assert ((read < VOCABULARY.text.size) | (read == VOCABULARY.special_id('[MASK]'))).all() and (
            read > EOS_ID
        ).all()
    assert abs(fates['mask'] / counted - 0.8) < 0.015
    assert abs(fates['same'] / counted - (0.1 + 0.1 / 256)) < 0.015


def test_masked_lm_hides_whole_words():
    text = tokens(L)
    string = VOCABULARY.decode(text)
    word = np.array([c.isalnum() or c == '_' for c in string])
    begins = np.flatnonzero(~(word & np.r_[False, word[:-1]]))
    for seed in range(100):
        chosen = made(MaskedLM(), seed, text)[1]['decoder_loss_weights'] > 0
        for start, end in zip(begins, [*begins[1:], L], strict=True):
            assert chosen[start:end].all() or not chosen[start:end].any(), string[start:end]
        assert 0.1 * L < chosen.sum() <= round(0.15 * L)


def test_chinese_characters_are_words_of_their_own():
    begins, ends = ExtendedVocabulary(_Letters(), 6).word_ends
    assert begins.tolist()[:5] == [False, False, False, True, False] and ends.tolist()[3:5] == [True, False]


class _Letters(vocabularies.Bytes):
    size = 5

    def decode(self, ids):
        return ''.join('..·a你'[i] for i in ids)


def test_an_end_mark_is_never_hidden():
    text = tokens(L)
    text[::9] = EOS_ID
    for seed in range(50):
        chosen = made(MaskedLM(whole_words=False), seed, text)[1]['decoder_loss_weights'] > 0
        assert not (text[chosen] == EOS_ID).any()


def test_next_sentence_pairs_follow_or_do_not():
    elsewhere = np.resize(VOCABULARY.encode('ELSEWHERE '), L).astype(np.int32)
    cls, sep = VOCABULARY.special_id('[CLS]'), VOCABULARY.special_id('[SEP]')
    follows = []
    for seed in range(300):
        text = tokens(L - 3)
        text[20] = EOS_ID  # a document ends: the pair is from the longer piece
        _, features = made(NextSentence(), seed, text, another=lambda: elsewhere)
        pair = features['decoder_target_tokens'][features['decoder_segment_ids'] > 0]
        assert pair[0] == cls and pair[-1] == sep and (pair == sep).sum() == 2 and (pair == cls).sum() == 1
        middle = int(np.flatnonzero(pair == sep)[0])
        first, second = pair[1:middle], pair[middle + 1 : -1]
        follows.append(int(features['labels']))
        if follows[-1]:
            assert np.r_[first, second].tolist() == text[21:].tolist()
        else:
            assert VOCABULARY.decode(second).strip('ELSWHR ') == ''
        hidden = features['decoder_loss_weights'] > 0
        assert hidden.any() and not np.isin(features['decoder_target_tokens'][hidden], (cls, sep, EOS_ID)).any()
    assert abs(np.mean(follows) - 0.5) < 0.1


def test_what_the_text_does_not_hold_is_refused_plainly():
    few = ExtendedVocabulary(vocabularies.Bytes(), 8)
    with pytest.raises(UserError, match=r'EXTRA_IDS = 8 provides 2\. Bind at least --gin\.EXTRA_IDS=12'):
        SpanCorruption().raw_length(L, few)
    with pytest.raises(UserError, match='EXTRA_IDS=128'):
        MaskedLM().raw_length(L, ExtendedVocabulary(vocabularies.Bytes()))
    with pytest.raises(UserError, match=r'Did you mean \[NLU\]'):
        few.special_id('[NLU')
    for wrong in (lambda: SpanCorruption(rate=1.5), lambda: PrefixLM(rate=0.0), lambda: SpanCorruption(mean_span=0.5)):
        with pytest.raises(UserError, match='must be'):
            wrong()


def test_marks_have_names_and_the_text_keeps_its_ids():
    ids = [VOCABULARY.special_id('[NLU]'), *VOCABULARY.encode('ab'), VOCABULARY.sentinel(0), VOCABULARY.sentinel(1)]
    assert VOCABULARY.decode(ids) == '[NLU]ab<extra_id_0><extra_id_1>'
    assert VOCABULARY.fingerprint == VOCABULARY.text.fingerprint == 'bytes'
    assert (
        len(
            {VOCABULARY.special_id(m) for m in ExtendedVocabulary.SPECIAL_TOKENS}
            | {VOCABULARY.sentinel(i) for i in range(64)}
        )
        == 70
    )


# A mixture as batches.


@pytest.fixture(scope='module')
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp('texts')
    for i in range(40):
        (folder / f'{i:02}.txt').write_text(f'document {i}: {WORDS * (i % 7 + 3)}')
    return Corpus('unused', 'bytes', vocabulary_size=400, extra_ids=70, train_files=str(folder))


def objective_of(name):
    configuration = load('loop.train', ['gin/pretrain_tiny.gin', f'gin/objectives/{name}.gin'], [])
    return configuration.build('loop.train')['data'].objective


def test_ul2_and_u_palm_are_the_papers_mixtures():
    def numbers(name):
        return {
            (getattr(o, 'mean_span', None), o.rate, o.mode, round(o.share / total, 3))
            for total in [sum(o.share for o in objective_of(name))]
            for o in objective_of(name)
        }

    seventh = round(1 / 7, 3)
    assert numbers('ul2') == {
        (3.0, 0.15, '[NLU]', seventh),
        (8.0, 0.15, '[NLU]', seventh),
        (None, 0.25, '[S2S]', seventh),
        (3.0, 0.5, '[NLG]', seventh),
        (8.0, 0.5, '[NLG]', seventh),
        (64.0, 0.15, '[NLG]', seventh),
        (64.0, 0.5, '[NLG]', seventh),
    }
    assert numbers('u_palm') == {
        (None, None, '[S2S]', 0.5),
        (3.0, 0.15, '[NLU]', 0.25),
        (32.0, 0.15, '[NLG]', 0.125),
        (3.0, 0.5, '[NLG]', 0.125),
    }


@pytest.mark.parametrize('name', ['prefix_lm', 'span_corruption', 'masked_lm', 'next_sentence', 'ul2', 'u_palm'])
def test_a_batch_of_any_objective_is_a_function_of_seed_and_number(name, corpus):
    data, fresh = (LanguageModelData(corpus, {'targets': L}, objective_of(name), seed=5) for _ in range(2))
    walked = [data.batch(4 * k, 4) for k in range(30)]
    again = fresh.batch(4 * 29, 4)
    assert walked[29].keys() == again.keys()
    for feature, values in again.items():
        np.testing.assert_array_equal(values, walked[29][feature])
    n = data.num_sequences
    epochs = [fresh.batch(k * n, n) for k in range(2)]
    rows = [sorted(map(tuple, np.hstack([e['decoder_input_tokens'], e['decoder_loss_weights']]))) for e in epochs]
    assert rows[0] != rows[1]  # masked differently in every epoch
    both = [list(d.validation(3)) for d in (data, fresh)]
    for a, b in zip(*both, strict=True):
        for feature in a:
            np.testing.assert_array_equal(a[feature], b[feature])


def test_a_mixture_is_mixed_by_its_shares(corpus):
    parts = [CausalLM(share=1.0), PrefixLM(mode='[S2S]', share=2.0), SpanCorruption(mode='[NLU]', share=1.0)]
    data = LanguageModelData(corpus, {'targets': L}, parts)
    first = data.batch(0, 400)['decoder_target_tokens'][:, 0]
    assert abs((first == VOCABULARY.special_id('[S2S]')).mean() - 0.5) < 0.02
    assert abs((first == VOCABULARY.special_id('[NLU]')).mean() - 0.25) < 0.02


def test_the_example_shows_every_part_of_a_mixture(corpus):
    shown = LanguageModelData(corpus, {'targets': L}, objective_of('ul2')).example()
    assert shown.count('SpanCorruption, 14%') == 6 and 'PrefixLM, 14%' in shown
    assert '[NLG]' in shown and '↔' in shown and '✓' in shown


def test_an_objective_is_a_chain_of_seqio_preprocessors():
    import seqio
    import tensorflow as tf

    from palm_jax.data.pretraining import seqio_preprocessors
    from palm_jax.data.registry import seqio_chains

    text = ''.join(f'{i} {WORDS}' for i in range(60))
    vocabulary = seqio_chains.SeqioVocabulary(VOCABULARY)
    features = {'targets': seqio.Feature(vocabulary, required=False, dtype=tf.int32)}
    features |= {'decoder_target_tokens': seqio.Feature(vocabulary, dtype=tf.int32)}
    for name, objective in (('spans', SpanCorruption()), ('pairs', NextSentence())):
        seqio.TaskRegistry.add(
            f'test_{name}',
            source=seqio_chains.generator_source(lambda split: iter([{'text': text}]), ('train',)),
            preprocessors=seqio_preprocessors.objective_preprocessors(objective, L, VOCABULARY),
            output_features=features,
        )
    task = seqio.TaskRegistry.get('test_spans')
    twice = [list(task.get_dataset(split='train', shuffle=False, seed=s).as_numpy_iterator()) for s in (1, 1, 2)]
    raw = SpanCorruption().raw_length(L, VOCABULARY)
    ids = VOCABULARY.encode(text)
    assert len(twice[0]) == (len(ids) + 1) // raw
    for number, (first, again, other) in enumerate(zip(*twice, strict=True)):
        assert restored(first)[0] == ids[number * raw : (number + 1) * raw]
        np.testing.assert_array_equal(first['decoder_input_tokens'], again['decoder_input_tokens'])
        assert not np.array_equal(first['decoder_input_tokens'], other['decoder_input_tokens'])
    pairs = list(seqio.TaskRegistry.get('test_pairs').get_dataset(split='train', shuffle=False).as_numpy_iterator())
    assert {int(pair['labels']) for pair in pairs} == {0, 1}


def test_messages_name_objectives_as_gin_files_do():
    with pytest.raises(UserError, match=r'^objectives\.SpanCorruption\.rate is 2; it must be above 0 and below 1'):
        SpanCorruption(rate=2)
    with pytest.raises(UserError, match=r'nothing is called objectives\.MaskedML\. Did you mean objectives\.Mas'):
        load('loop.train', ['gin/pretrain_tiny.gin'], [('objectives.MaskedML.rate', '0.2')])
