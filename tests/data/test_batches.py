"""Batches are a function of seed and number; every token is seen; own files work."""

import numpy as np
import pytest

from palm_jax.data.batches import LanguageModelData
from palm_jax.data.corpus import Corpus
from palm_jax.data.objectives import CausalLM
from palm_jax.errors import UserError


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp('texts')
    for i in range(40):
        (root / f'{i:02}.txt').write_text(f'document {i}: ' + ' '.join(str(i * j) for j in range(i + 5)) + '\n')
    return root


def data(folder, length=32, **changes):
    corpus = Corpus('unused', 'bytes', train_files=str(folder))
    return LanguageModelData(corpus, {'targets': length}, **({'seed': 3} | changes))


def test_one_epoch_holds_every_whole_sequence_once(folder):
    d = data(folder)
    targets = d.batch(0, d.num_sequences)['decoder_target_tokens']
    documents = sorted(path for path in folder.glob('*.txt'))
    texts = [[*d.vocabulary.encode(p.read_text()), 1] for p in documents]
    stream = [tokens for tokens in texts if tokens in _training_documents(d)]
    flat = np.concatenate(stream)
    expected = flat[: len(flat) // 32 * 32].reshape(-1, 32)
    assert sorted(map(tuple, targets)) == sorted(map(tuple, expected))
    assert [tuple(row) for row in targets] != [tuple(row) for row in expected]  # and it is shuffled


def _training_documents(d):
    (cache, _), *_ = d.corpus.parts('train')
    return [cache.tokens[a:b].tolist() for a, b in zip(cache.offsets, cache.offsets[1:], strict=False)]


def test_batch_k_does_not_depend_on_the_way_there(folder):
    d, fresh = data(folder), data(folder)
    walked = [d.batch(4 * k, 4)['decoder_target_tokens'] for k in range(60)]  # several epochs
    np.testing.assert_array_equal(fresh.batch(4 * 59, 4)['decoder_target_tokens'], walked[59])
    whole = fresh.batch(0, 240)['decoder_target_tokens']
    np.testing.assert_array_equal(np.concatenate(walked), whole)  # however it is cut into batches
    n = d.num_sequences
    whole = fresh.batch(0, 2 * n)['decoder_target_tokens']
    assert not np.array_equal(whole[:n], whole[n : 2 * n])  # another order every epoch
    assert sorted(map(tuple, whole[:n])) == sorted(map(tuple, whole[n : 2 * n]))


def test_another_seed_is_another_order(folder):
    a, b = (data(folder, seed=s).batch(0, 20)['decoder_target_tokens'] for s in (1, 2))
    assert not np.array_equal(a, b)


def test_inputs_are_targets_shifted_behind_a_zero(folder):
    batch = data(folder).batch(0, 4)
    np.testing.assert_array_equal(batch['decoder_input_tokens'][:, 1:], batch['decoder_target_tokens'][:, :-1])
    assert not batch['decoder_input_tokens'][:, 0].any()
    assert batch['decoder_loss_weights'].all()


def test_validation_counts_every_held_out_token_once(folder):
    d = data(folder)
    batches = list(d.validation(3))
    assert {b['decoder_target_tokens'].shape for b in batches} == {(3, 32)}
    counted = np.concatenate([b['decoder_target_tokens'][b['decoder_loss_weights'] > 0] for b in batches])
    (cache, _), *_ = d.corpus.parts('validation')
    np.testing.assert_array_equal(np.sort(counted), np.sort(cache.tokens))
    rows = {tuple(row) for b in batches for row in b['decoder_target_tokens']}
    assert tuple(cache.tokens[32:64]) in rows  # sequences stay whole
    assert d.validation_bytes == len(cache.tokens) - (len(cache.offsets) - 1)  # bytes, without the end marks


def test_isolated_documents_start_anew(folder):
    batch = data(folder, objective=[CausalLM(isolate_documents=True)]).batch(0, 8)
    for row in range(8):
        target, segment, position, source = (
            batch[f'decoder_{n}'][row] for n in ('target_tokens', 'segment_ids', 'positions', 'input_tokens')
        )
        ends = np.flatnonzero(target[:-1] == 1)
        assert (segment[ends + 1] == segment[ends] + 1).all() and not position[ends + 1].any()
        assert (source[ends + 1] == 0).all() and segment[0] == 1
        inside = np.flatnonzero(position > 0)
        assert (source[inside] == target[inside - 1]).all()


def test_the_second_opening_reads_the_cache_and_notices_damage(folder, monkeypatch):
    d = data(folder, seed=9)
    first = d.batch(0, 4)
    again = data(folder, seed=9)
    monkeypatch.setattr(Corpus, '_registry', lambda self: pytest.fail('made tokens again'))
    np.testing.assert_array_equal(again.batch(0, 4)['decoder_target_tokens'], first['decoder_target_tokens'])
    (cache, _), *_ = again.corpus.parts('train')
    with open(cache.tokens.filename, 'r+b') as file:
        original = file.read(1)
        file.seek(0)
        file.write(bytes([original[0] ^ 1]))
    with pytest.raises(UserError, match='damaged'):
        data(folder, seed=9).batch(0, 4)
    with open(cache.tokens.filename, 'r+b') as file:
        file.write(original)


def test_a_single_file_holds_out_its_end(tmp_path):
    path = tmp_path / 'one.txt'
    path.write_text('\n'.join(f'line {i}' for i in range(2000)))
    d = data(path)
    (train, _), (held, _) = d.corpus.parts('train')[0], d.corpus.parts('validation')[0]
    text = d.vocabulary.decode(train.tokens) + d.vocabulary.decode(held.tokens)
    assert text == path.read_text()
    assert 0.03 < d.validation_bytes / len(text) < 0.07


@pytest.mark.parametrize(
    'make, message',
    [
        (lambda p: {'train_files': str(p / 'none')}, 'no such file'),
        (lambda p: {'train_files': str(p)}, r'no .txt'),
        (lambda p: {'train_files': _write(p / 'latin.txt', b'ok\ncaf\xe9\n')}, 'line 2: byte 0xe9'),
        (lambda p: {'train_files': _write(p / 'empty.txt', b' \n')}, 'all are empty'),
        (lambda p: {'train_files': _write(p / 'short.txt', b'x')}, 'too short'),
        (lambda p: {'train_files': None, 'validation_files': 'x'}, 'TRAIN_FILES is not'),
        (lambda p: {'lengths': {'inputs': 3}}, "needs 'targets'"),
        (lambda p: {'train_files': None, 'task': 'python_stdlb'}, 'Did you mean python_stdlib'),
        (
            lambda p: {'train_files': _write(p / 'few.txt', b'ab\ncd\n' * 4), 'lengths': {'targets': 512}},
            'less than one',
        ),
    ],
)
def test_bad_text_is_said_plainly(tmp_path, make, message):
    settings = {'task': 'unused', 'vocabulary': 'bytes'} | make(tmp_path)
    lengths = settings.pop('lengths', {'targets': 8})
    with pytest.raises(UserError, match=message):
        LanguageModelData(Corpus(**settings), lengths).batch(0, 1)


def _write(path, content):
    path.write_bytes(content)
    return str(path)


def test_a_registered_mixture_is_mixed_by_its_rates(folder, tmp_path):
    import seqio

    from palm_jax.data import tasks

    for name, letter in (('test_a', 'a'), ('test_b', 'b')):
        generate = lambda split, letter=letter: ({'text': letter * 500} for _ in range(30))  # noqa: E731
        tasks.add_language_model_task(name, tasks.generator_source(generate, ('train', 'validation')))
    seqio.MixtureRegistry.add('test_mixture', [('test_a', 3.0), ('test_b', 1.0)])
    d = LanguageModelData(Corpus('test_mixture', 'bytes'), {'targets': 16})
    rows = d.batch(0, 400)['decoder_target_tokens']
    share = np.mean([(row == 3 + ord('a')).sum() > 8 for row in rows])
    assert 0.72 < share < 0.78
