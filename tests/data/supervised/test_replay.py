"""Rows of earlier tasks among new ones: how many, which, and that neither tables nor seeds change the new ones."""

import json
import re

import numpy as np
import pytest

from palm_jax.data.augmentation.aeda import AEDA
from palm_jax.data.augmentation.augmented import AugmentedSource
from palm_jax.data.pretraining.corpus import Corpus
from palm_jax.data.pretraining.dataset import LanguageModelData
from palm_jax.data.pretraining.objectives import CausalLM, SpanCorruption
from palm_jax.data.supervised.conversations import PairTable
from palm_jax.data.supervised.labelled_text import LabelledTable, LabelledText
from palm_jax.data.supervised.replay import WithReplay
from palm_jax.data.supervised.tagged_text import TaggedTable, TaggedText
from palm_jax.data.supervised.text_to_text import TextToText
from palm_jax.errors import UserError


def write(path, rows, names='text,label'):
    path.write_text('\n'.join([names, *rows]) + '\n')
    return str(path)


@pytest.fixture
def files(tmp_path):
    new = write(tmp_path / 'new.csv', [f'new {i},{"ab"[i % 2]}' for i in range(40)])
    first = write(tmp_path / 'first.csv', [f'old {i},{"ba"[i % 2]}' for i in range(50)])
    second = write(tmp_path / 'second.csv', [f'older {i},{"ab"[i % 2]}' for i in range(30)])
    return new, first, second


def labelled(path, **options):
    return LabelledText(LabelledTable(path, **options), {'inputs': 16}, 'bytes')


def texts(data, batch):
    return [data.vocabulary.decode([int(i) for i in row if i > 1]) for row in batch['decoder_input_tokens']]


def test_the_rate_is_that_of_every_batch_and_the_new_rows_keep_their_order(files):
    new, first, second = files
    data, plain = WithReplay(labelled(new), [first, second], 0.25), labelled(new)
    seen = texts(data, data.batch(0, 96))
    for start in range(0, 96, 8):
        assert sum(text.startswith('old') for text in seen[start : start + 8]) == 2
    assert [text for text in seen if text.startswith('new')] == texts(plain, plain.batch(0, 72))
    earlier = [text for text in seen if text.startswith('old')]
    assert len(set(earlier)) == 24 and {text.split()[0] for text in earlier} == {'old', 'older'}
    labels = dict(zip(seen, data.batch(0, 96)['labels'], strict=True))
    assert all(labels[t] == (int(t.split()[1]) + (t.startswith('old '))) % 2 for t in seen)
    for size in (1, 3, 5):  # a batch is a function of the number of its first row
        parts = [data.batch(i, size) for i in range(10, 25, size)]
        for name, values in data.batch(10, 15).items():
            np.testing.assert_array_equal(values, np.concatenate([part[name] for part in parts]), err_msg=name)
    other = texts(data, WithReplay(labelled(new), [first, second], 0.25, seed=1).batch(0, 96))
    assert [t for t in other if t.startswith('new')] == [t for t in seen if t.startswith('new')] and other != seen


def test_advice_against_padding_is_what_has_an_effect_beside_replay(files, caplog):
    new, first, _ = files
    for data, is_grouping in ((labelled(new), True), (WithReplay(labelled(new), [first], 0.25), False)):
        data.batch(0, 8)
        assert ('GROUP_BY_LENGTH' in caplog.text) == is_grouping and 'of them padding; ' in caplog.text
        caplog.clear()


def test_what_a_run_on_the_earlier_tables_holds_out_is_not_replayed(files):
    new, first, _ = files
    data = WithReplay(labelled(new), first, 0.5)
    held_out = {e.text for e in labelled(first).validation_examples}
    seen = {t for t in texts(data, data.batch(0, 200)) if t.startswith('old')}
    assert held_out and seen == {f'old {i}' for i in range(50)} - held_out
    assert 'replay     45 rows' in data.describe().replace(str(50 - len(held_out)), '45') and '50.0%' in data.describe()


def test_without_a_rate_it_is_the_data_itself(files):
    plain, data = labelled(files[0]), WithReplay(labelled(files[0]), None, 0.0)
    for name, values in plain.batch(3, 9).items():
        np.testing.assert_array_equal(values, data.batch(3, 9)[name])
    assert data.identity() == plain.identity() and data.num_sequences == plain.num_sequences
    with_rate = WithReplay(labelled(files[0]), files[1], 0.1)
    assert with_rate.identity()['train'] != plain.identity()['train']
    assert with_rate.identity()['validation'] == plain.identity()['validation']


def test_it_works_for_every_kind_of_table(tmp_path):
    for name in ('new', 'old'):
        (tmp_path / f'{name}.conll').write_text(''.join(f'{name}{i} B-PER\nis O\n\n' for i in range(30)))
        lines = [json.dumps({'input': f'{name} {i}', 'target': f'{i}'}) for i in range(30)]
        (tmp_path / f'{name}.jsonl').write_text('\n'.join(lines))
    conll, pairs = ([str(tmp_path / f'{name}.{suffix}') for name in ('new', 'old')] for suffix in ('conll', 'jsonl'))
    tagged = WithReplay(TaggedText(TaggedTable(conll[0]), {'inputs': 16}, 'bytes'), conll[1], 0.5)
    written = WithReplay(TextToText(PairTable(pairs[0]), {'inputs': 16, 'targets': 8}, 'bytes'), pairs[1], 0.5)
    for data in (tagged, written):
        batch = data.batch(0, 8)
        assert sum('old' in text for text in texts(data, batch)) == 4
        for name, values in data.blank().items():
            assert values.shape == batch[name].shape[1:] and values.dtype == batch[name].dtype


def test_targets_can_be_the_predictions_of_the_earlier_model(files, tmp_path):
    own = [json.dumps({'text': f'own {i}', 'input': f'own {i}', 'predicted': 'ab'[i % 2]}) for i in range(30)]
    (tmp_path / 'own.jsonl').write_text('\n'.join(own))
    data = WithReplay(labelled(files[0]), str(tmp_path / 'own.jsonl'), 0.5, predicted=True)
    batch = data.batch(0, 40)
    labels = {t: label for t, label in zip(texts(data, batch), batch['labels'], strict=True) if 'own' in t}
    assert len(labels) == 20 and all(label == int(t.split()[1]) % 2 for t, label in labels.items())
    pairs = [json.dumps({'input': f'new {i}', 'target': f'{i}'}) for i in range(30)]
    (tmp_path / 'pairs.jsonl').write_text('\n'.join(pairs))
    table = PairTable(str(tmp_path / 'pairs.jsonl'))
    data = WithReplay(TextToText(table, {'inputs': 16, 'targets': 8}, 'bytes'), str(tmp_path / 'own.jsonl'), 0.5, True)
    assert {'own 18a', 'own 5b', 'own 13b'} & set(texts(data, data.batch(0, 54)))
    (tmp_path / 'new.conll').write_text(''.join(f'Ann{i} B-PER\nis O\n\n' for i in range(30)))
    tagged = TaggedText(TaggedTable(str(tmp_path / 'new.conll')), {'inputs': 16}, 'bytes')
    with pytest.raises(UserError, match='REPLAY_FILES: only labels of texts, and texts'):
        WithReplay(tagged, str(tmp_path / 'own.jsonl'), 0.5, predicted=True).describe()


def test_the_earlier_rows_are_not_augmented(files):
    source = AugmentedSource(LabelledTable(files[0]), [AEDA()], 2)
    data = WithReplay(LabelledText(source, {'inputs': 40}, 'bytes'), files[1], 0.5)
    earlier = [t for t in texts(data, data.batch(0, 90)) if 'old' in t]
    assert len(earlier) == 45 and all(len(t.split()) == 2 for t in earlier)


def of_text(task, **options):
    return LanguageModelData(Corpus(task, 'bytes', 300, **options), {'targets': 16}, [CausalLM(), SpanCorruption()])


def test_text_without_labels_has_earlier_text_among_it(tmp_path):
    for name, letter in (('new', 'n'), ('first', 'f'), ('second', 's')):
        (tmp_path / name).mkdir()
        (tmp_path / name / 'a.txt').write_text('\n\n'.join(letter * 30 for _ in range(100 if name != 'second' else 50)))
    new, first, second = (str(tmp_path / name) for name in ('new', 'first', 'second'))
    plain, data = of_text(new, extra_ids=10), WithReplay(of_text(new, extra_ids=10), [first, f'{second}/*.txt'], 0.25)
    seen, of_plain = data.batch(0, 96), plain.batch(0, 72)
    letters = [next(iter({chr(i - 3) for i in row if i > 2} & set('nfs'))) for row in seen['decoder_target_tokens']]
    assert [letters[i : i + 8].count('n') for i in range(0, 96, 8)] == [6] * 12
    assert 5 < letters.count('s') < letters.count('f')
    for name, values in of_plain.items():
        np.testing.assert_array_equal(values, seen[name][[letter == 'n' for letter in letters]], err_msg=name)
    assert 'of earlier tasks, 25.0% of what is read' in data.describe()
    assert data.identity()['validation'] == plain.identity()['validation']
    assert data.identity()['train'] != WithReplay(of_text(new, extra_ids=10), [first], 0.25).identity()['train']
    assert data.train_files == [new] and list(data.blank()) == list(seen)
    for files, predicted, message in (
        (str(tmp_path / 'none.txt'), False, r'^REPLAY_FILES = .*none.txt'),
        (new, True, 'REPLAY_FILES: REPLAY_PREDICTED is for tables'),
        (None, False, 'REPLAY_FILES is not set'),
    ):
        with pytest.raises(UserError, match=message):
            WithReplay(of_text(new, extra_ids=10), files, 0.5, predicted).describe()


def test_mistakes_are_refused_with_what_to_type(files, tmp_path):
    new, first, _ = files
    third = write(tmp_path / 'third.csv', [f'old {i},{"acd"[i % 3]}' for i in range(30)])
    with pytest.raises(UserError, match=r"REPLAY_FILES: the earlier tasks have 2 labels .* e\.g\. 'c'.*LABELS=.*'d'"):
        WithReplay(labelled(new), third, 0.5).describe()
    assert WithReplay(labelled(new, names=['a', 'b', 'c', 'd']), third, 0.5).describe()
    with pytest.raises(UserError, match='REPLAY_FILES is not set'):
        WithReplay(labelled(new), None, 0.5).describe()
    with pytest.raises(UserError, match=r'REPLAY_FILES.*none\.csv'):
        WithReplay(labelled(new), str(tmp_path / 'none.csv'), 0.5).describe()
    with pytest.raises(UserError, match='must be at least 0 and below 1'):
        WithReplay(labelled(new), first, 1.0)


def test_rows_of_similar_length_are_not_brought_together(files):
    new, first, _ = files
    grouped = LabelledText(LabelledTable(new), {'inputs': 16}, 'bytes', group_by_length=8)
    for rate, group in ((0.5, None), (0, 8)):
        assert WithReplay(grouped, first, rate).group == group
    ours, plain = (WithReplay(data, first, 0.5).batch(0, 8) for data in (grouped, labelled(new)))
    for name, values in plain.items():
        np.testing.assert_array_equal(ours[name], values)


def test_rows_that_are_new_or_held_out_as_well_are_reported(files, tmp_path, caplog):
    new, first, second = files
    WithReplay(labelled(new), [first, second], 0.5).describe()
    assert 'REPLAY_FILES' not in caplog.text
    kept = len(labelled(new).examples('train'))
    WithReplay(labelled(new), new, 0.5).describe()
    assert f'REPLAY_FILES: {kept} of {kept} rows are trained on as rows of the new task' in caplog.text
    caplog.clear()
    held_out = LabelledText(LabelledTable(new, validation_files=first), {'inputs': 16}, 'bytes')
    WithReplay(held_out, [first], 0.5).describe()
    assert re.search(r'REPLAY_FILES: (\d+) of \1 rows are also in the held-out part', caplog.text)
    caplog.clear()
    (tmp_path / 'texts').mkdir()
    (tmp_path / 'texts' / 'a.txt').write_text('\n\n'.join('n' * 30 for _ in range(100)))
    folder = str(tmp_path / 'texts')
    WithReplay(of_text(folder, extra_ids=10), f'{folder}/*.txt', 0.5).describe()
    assert 'a.txt is trained on as new text, too' in caplog.text
