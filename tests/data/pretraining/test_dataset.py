"""Batches are a function of seed and number; every token is used; text files and mixtures work."""

import contextlib
import functools
import json
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from palm_jax.data.pretraining import token_cache
from palm_jax.data.pretraining.corpus import Corpus
from palm_jax.data.pretraining.dataset import LanguageModelData
from palm_jax.data.pretraining.objectives import CausalLM
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


def tokens_of(cache):
    return cache.read(0, cache.num_tokens)


def _training_documents(d):
    (cache, _), *_ = d.corpus.parts('train')
    return [document.tolist() for document in cache.documents()]


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
    np.testing.assert_array_equal(np.sort(counted), np.sort(tokens_of(cache)))
    rows = {tuple(row) for b in batches for row in b['decoder_target_tokens']}
    assert tuple(cache.read(32, 64)) in rows  # sequences stay whole
    assert d.validation_bytes == cache.num_tokens - (len(cache.offsets) - 1)  # bytes, without the end marks


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
    (directory,) = again.corpus.build('train')
    (file,) = directory.glob('*.array_record')
    content = file.read_bytes()
    for place in range(100, len(content), len(content) // 16):  # its parts, wherever they were changed
        file.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        with pytest.raises(UserError, match='damaged'):
            token_cache.verify(directory)
        with contextlib.suppress(UserError):  # read, it is right or refused
            batch = data(folder, seed=9).batch(0, 4)
            np.testing.assert_array_equal(batch['decoder_target_tokens'], first['decoder_target_tokens'])
    file.write_bytes(content[:-1])
    with pytest.raises(UserError, match='damaged'):
        data(folder, seed=9).batch(0, 4)
    file.write_bytes(content)
    assert token_cache.verify(directory) == 1
    for name in ('manifest.json', 'offsets.npy'):
        whole = (directory / name).read_bytes()
        places = range(len(whole) // 3, len(whole), len(whole) // 9)
        flipped = [whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :] for place in places]
        for damaged in (b'', whole[:40], whole[:-1], b'\xff\xfe', b'[' * 9999, *(flipped if name[0] == 'm' else ())):
            (directory / name).write_bytes(damaged)
            with pytest.raises(UserError, match=rf'token cache .* is damaged\. Delete this folder.*{name}'):
                len(token_cache.TokenCache(directory).offsets)
        (directory / name).write_bytes(whole)
    manifest = json.loads((directory / 'manifest.json').read_text())
    del manifest['seal']  # as in earlier versions
    (directory / 'manifest.json').write_text(json.dumps(manifest))
    assert token_cache.verify(directory) == 1


def test_runs_that_start_together_make_one_cache(tmp_path, monkeypatch):
    path, built, build = tmp_path / 'text.txt', [], token_cache.build
    path.write_text('\n'.join(f'together {i}' for i in range(500)))

    def slow_build(examples, *arguments):
        built.append(arguments)
        time.sleep(0.3)
        build(examples, *arguments)

    monkeypatch.setattr(token_cache, 'build', slow_build)
    with ThreadPoolExecutor(3) as pool:
        found = list(pool.map(lambda _: data(path).corpus.build('train'), range(3)))
    assert len(built) == 1 and found[0] == found[1] == found[2]
    assert [p.name for p in found[0][0].parent.iterdir()] == ['train']


def test_a_single_file_holds_out_its_end(tmp_path):
    path = tmp_path / 'one.txt'
    path.write_text('\n'.join(f'line {i}' for i in range(2000)))
    d = data(path)
    (train, _), (held, _) = d.corpus.parts('train')[0], d.corpus.parts('validation')[0]
    text = ''.join(d.vocabulary.decode(tokens_of(cache)) for cache in (train, held))
    assert text == path.read_text()
    assert 0.03 < d.validation_bytes / len(text) < 0.07


@pytest.mark.parametrize(
    'make, message',
    [
        (lambda p: {'train_files': str(p / 'none')}, 'no such file'),
        (lambda p: {'train_files': str(p)}, r'no .txt'),
        (lambda p: {'train_files': _write(p / 'latin.txt', b'ok\ncaf\xe9\n')}, 'line 2: byte 0xe9'),
        (lambda p: {'train_files': _write(p / 'empty.txt', b' \n')}, 'all of them are empty'),
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

    from palm_jax.data.registry import seqio_chains as chains

    for name, letter in (('test_a', 'a'), ('test_b', 'b')):
        generate = lambda split, letter=letter: ({'text': letter * 500} for _ in range(30))  # noqa: E731
        chains.add_language_model_task(name, chains.generator_source(generate, ('train', 'validation')))
    seqio.MixtureRegistry.add('test_mixture', [('test_a', 3.0), ('test_b', 1.0)])
    d = LanguageModelData(Corpus('test_mixture', 'bytes'), {'targets': 16})
    rows = d.batch(0, 400)['decoder_target_tokens']
    share = np.mean([(row == 3 + ord('a')).sum() > 8 for row in rows])
    assert 0.72 < share < 0.78


def mixture(task, length=16, **changes):
    return LanguageModelData(Corpus(task, 'bytes', **changes), {'targets': length})


@pytest.fixture
def letters(tmp_path):
    """Return a folder of 40 texts of a's, and a table of 10 of b's."""
    (tmp_path / 'a').mkdir()
    for i in range(40):
        (tmp_path / 'a' / f'{i}.txt').write_text('a' * (495 + i % 9))
    (tmp_path / 'b.csv').write_text('text\n' + ''.join('b' * (495 + i) + '\n' for i in range(10)))
    return str(tmp_path / 'a'), str(tmp_path / 'b.csv')


def share_of_a(d):
    rows = d.batch(0, 400)['decoder_target_tokens']
    return np.mean([(row == 3 + ord('a')).sum() > 8 for row in rows])


def test_own_files_are_mixed_by_rates_by_size_and_by_temperature(letters):
    folder, table = letters
    assert 0.22 < share_of_a(mixture({folder: 1, table: 3})) < 0.28
    by_size = mixture([folder, table])
    sizes = [cache.num_tokens for cache, _ in by_size.corpus.parts('train')]
    assert share_of_a(by_size) == pytest.approx(sizes[0] / sum(sizes), abs=0.02)
    roots = [size**0.5 for size in sizes]
    assert share_of_a(mixture([folder, table], temperature=2.0)) == pytest.approx(roots[0] / sum(roots), abs=0.02)
    texts = [text[0] for text in mixture({folder: 1, table: 3}).corpus.texts()]
    assert texts[:4].count('b') == 3  # which is what the vocabulary is fitted to


def test_own_files_and_registered_tasks_are_mixed(letters):
    d = mixture({letters[0]: 1, 'python_stdlib': 1})
    assert 0.47 < share_of_a(d) < 0.53
    np.testing.assert_array_equal(d.batch(7, 2)['decoder_target_tokens'], d.batch(0, 9)['decoder_target_tokens'][7:])


@pytest.mark.parametrize(
    'task, changes, message',
    [
        ({}, {}, 'at least one part'),
        (['x/', 'x/'], {}, 'each part once'),
        ({'x/': 0}, {}, "the rate of 'x/' is 0"),
        ({'x/': 'much'}, {}, "the rate of 'x/' is 'much'"),
        ({3: 1}, {}, '3 is not the name'),
        (['nowhere/', 'python_stdlib'], {}, "MIXTURE_OR_TASK_NAME = 'nowhere/': no such file"),
        (['python_stdlib', 'python_stdlb'], {}, 'Did you mean python_stdlib'),
        ({'python_stdlib': 1, 'x/': 1}, {'temperature': 2.0}, 'MIXTURE_TEMPERATURE = 2.0 requires a mixture by size'),
        ('python_stdlib', {'temperature': -1.0}, 'must be above 0'),
    ],
)
def test_a_bad_mixture_is_said_plainly(task, changes, message):
    with pytest.raises(UserError, match=message):
        mixture(task, **changes).batch(0, 1)


def test_an_empty_part_of_a_mixture_is_an_error(letters):
    from palm_jax.data.registry import seqio_chains as chains

    source = chains.generator_source(lambda split: iter(()), ('train', 'validation'))
    chains.add_language_model_task('test_empty', source)
    with pytest.raises(UserError, match='tokens of test_empty train: no examples'):
        mixture({letters[0]: 1, 'test_empty': 1}).batch(0, 1)


@pytest.mark.parametrize('number', [500, pytest.param(10_000, marks=pytest.mark.slow)])
def test_a_late_batch_is_the_same_directly_and_after_all_before_it(folder, number):
    walked = iter(data(folder)._order)
    for _ in range(number * 2):
        next(walked)
    targets = [next(walked)['decoder_target_tokens'] for _ in range(2)]
    np.testing.assert_array_equal(data(folder).batch(number * 2, 2)['decoder_target_tokens'], targets)


def test_hosts_together_read_the_batch_of_one(folder):
    whole = data(folder).batch(96, 8)
    for hosts in (1, 2, 4):
        size = 8 // hosts
        parts = [data(folder).batch(96 + size * host, size) for host in range(hosts)]
        for name, values in whole.items():
            np.testing.assert_array_equal(np.concatenate([part[name] for part in parts]), values)


def test_making_a_cache_goes_on_where_it_was_interrupted(tmp_path, monkeypatch):
    monkeypatch.setattr(token_cache, 'BLOCK', 64)
    monkeypatch.setattr(token_cache, 'RECORDS', 4)
    rng = np.random.default_rng(0)
    documents = [(rng.integers(3, 300, rng.integers(1, 200)), int(rng.integers(1, 99))) for _ in range(60)]
    reached = []

    def until(stop, first):
        for number, document in enumerate(documents[first:], first):
            if number == stop:
                raise KeyboardInterrupt
            reached.append(number)
            yield document

    token_cache.build(lambda first: documents[first:], tmp_path / 'whole', 300, 'whole')
    for stop in (7, 9, 40, 41):
        with pytest.raises(KeyboardInterrupt):
            token_cache.build(functools.partial(until, stop), tmp_path / 'parts', 300, 'parts')
        if stop == 9:  # a kill while the summary of the last file is written
            *_, last = sorted((tmp_path / 'parts.unfinished').glob('*.json'))
            last.write_text(last.read_text()[:20])
        if stop == 40:  # or while the summaries are removed at the end
            (tmp_path / 'parts.unfinished' / 'tokens-00001.npy').unlink()
    assert not token_cache.exists(tmp_path / 'parts')
    token_cache.build(functools.partial(until, None), tmp_path / 'parts', 300, 'parts')
    whole, parts = (token_cache.TokenCache(tmp_path / name) for name in ('whole', 'parts'))
    np.testing.assert_array_equal(tokens_of(parts), np.concatenate([ids for ids, _ in documents]))
    np.testing.assert_array_equal(tokens_of(whole), tokens_of(parts))
    np.testing.assert_array_equal(whole.offsets, parts.offsets)
    for document, (ids, _) in zip(parts.documents(), documents, strict=True):
        np.testing.assert_array_equal(document, ids)
    assert parts.num_bytes == sum(size for _, size in documents) and token_cache.verify(tmp_path / 'parts') > 4
    start, stop = np.sort(rng.integers(0, parts.num_tokens, 2))
    np.testing.assert_array_equal(parts.read(start, stop), tokens_of(whole)[start:stop])
