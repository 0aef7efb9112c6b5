"""Continuous batching: what one sequence raises is its own affair, and a stream is the text that it ends as."""

import queue
import random

import numpy as np
import pytest

from palm_jax.data.vocabulary.vocabularies import Bytes
from palm_jax.errors import UserError
from palm_jax.inference import decoding
from palm_jax.inference.engine import Delta, Engine, Request, Token
from palm_jax.inference.generate import Sampler
from palm_jax.inference.slots import _Text
from tests.support.vocabularies import Numbers

PROMPTS = [(0, 5, 9), (0, 3), (0, 8, 8, 8), (0, 7, 4)]
GREEDY = Sampler(max_tokens=12, temperature=0.0)


class Collected:
    """Submits requests, and collects what an engine delivers."""

    def __init__(self, engine, *prompts, sampler=GREEDY):
        self._deltas = [queue.Queue() for _ in prompts]
        requests = [Request(p, sampler, q.put) for p, q in zip(prompts, self._deltas, strict=True)]
        engine.submit('micro', *requests)

    def wait(self):
        """Returns the finish reason and the ids of every request."""
        found = []
        for deltas in self._deltas:
            ids, reason = [], None
            while reason is None:
                delta = deltas.get(timeout=60)
                ids += [token.id for token in delta.tokens]
                reason = delta.finish_reason
            found.append((reason, ids))
        return found


@pytest.fixture
def started(micro):
    """Starts an engine with the micro model and a vocabulary; stops it at the end."""
    engines = []

    def start(vocabulary, slots=3):
        model, params = decoding.unstack_layers(*micro())
        engines.append(Engine(slots, 32, chunk=3))
        engines[-1].add('micro', model, params, vocabulary, 64, False)
        engines[-1].start()
        return engines[-1]

    yield start
    for engine in engines:
        engine.stop()


@pytest.fixture
def alone(micro):
    """What each of PROMPTS gives by itself."""
    model, params = micro()
    return [list(GREEDY.generate(model, params, Numbers(), [p], 64)[0][0].ids) for p in PROMPTS]


def test_a_sequence_that_cannot_be_decoded_ends_alone(started, alone):
    class Lacking(Numbers):
        def decode(self, ids):
            if list(ids[:3]) == alone[1][:3]:
                raise IndexError('piece id is out of range')
            return super().decode(ids)

    assert [ids[:3] for ids in alone].count(alone[1][:3]) == 1
    engine = started(Lacking())
    for _ in range(3):  # its slot is free again
        found = Collected(engine, *PROMPTS).wait()
        assert [reason for reason, _ in found] == ['length', 'error', 'length', 'length']
        assert [ids for n, (_, ids) in enumerate(found) if n != 1] == [alone[0], *alone[2:]]
    assert engine.failure is None and engine.num_active == engine.num_waiting == 0


def test_a_client_that_raises_ends_its_sequence_alone(started, alone):
    engine = started(Numbers())

    def gone(delta):
        raise RuntimeError('the connection is closed')

    engine.submit('micro', *(Request(PROMPTS[0], GREEDY, gone) for _ in range(5)))
    assert Collected(engine, *PROMPTS).wait() == [('length', ids) for ids in alone]
    assert engine.failure is None and engine.num_active == 0


def test_a_prompt_that_cannot_be_prefilled_ends_alone(started, alone):
    engine = started(Numbers())
    good, bad, also_good = (
        Collected(engine, PROMPTS[0]),
        Collected(engine, PROMPTS[1], sampler=Sampler(max_tokens=12, temperature=0.0, seed='seven')),
        Collected(engine, PROMPTS[2]),
    )
    assert good.wait() == [('length', alone[0])] and also_good.wait() == [('length', alone[2])]
    assert bad.wait() == [('error', [])] and engine.failure is None


def test_a_batch_that_fails_once_leaves_the_engine_alive(started, alone, monkeypatch):
    engine, decode = started(Numbers()), decoding.decode

    def failing(*arguments, **options):
        monkeypatch.setattr(decoding, 'decode', decode)
        decode(*arguments, **options)  # donates the state
        raise RuntimeError('out of memory')

    monkeypatch.setattr(decoding, 'decode', failing)
    assert {reason for reason, _ in Collected(engine, *PROMPTS[:2]).wait()} == {'error'}
    assert Collected(engine, *PROMPTS).wait() == [('length', ids) for ids in alone] and engine.failure is None


def test_a_model_that_fails_on_anything_is_a_failed_engine(started, monkeypatch):
    engine = started(Numbers())

    def failing(*arguments, **options):
        raise RuntimeError('no device')

    monkeypatch.setattr(decoding, 'prefill', failing)
    assert {reason for reason, _ in Collected(engine, *PROMPTS).wait()} == {'error'}
    engine._thread.join(60)
    assert 'no device' in engine.failure


def test_what_an_engine_refuses(started):
    engine = started(Numbers())
    for wrong in (-1, 61, 2**40):
        with pytest.raises(UserError, match=rf'Token {wrong} is unknown: the model has 61'):
            Collected(engine, (0, wrong))
    with pytest.raises(UserError, match=r'engine\.Engine\.slots is 0; it must be at least 1\.'):
        Engine(slots=0)
    with pytest.raises(UserError, match=r'chunk is -1'):
        Engine(2, 2, -1)


def test_top_logprobs_name_ids_with_a_text(started):
    class Few(Numbers):
        has_text = np.isin(np.arange(61), [7, 9, 12])

    deltas = queue.Queue()
    engine = started(Few())
    engine.submit('micro', Request((0, 5), Sampler(max_tokens=6, temperature=0.0), deltas.put, num_logprobs=20))
    tokens = deltas.get(timeout=60).tokens
    assert tokens
    for token in tokens:
        assert {i for i, _ in token.top_logprobs} == {1, 7, 9, 12} and token.top_logprobs[0][0] == token.id


TEXTS = [
    '日本語のテキスト, naïve café',
    'a👩‍👩‍👧‍👦b😀',
    'plain text',
    '\ufffd in the text',
    'e\u0301▁ 中',
    '한국어\n\n# 한국어',
]


@pytest.mark.parametrize('text', TEXTS)
def test_a_stream_is_the_text_however_it_is_cut(text):
    """Characters and stop strings over several tokens: every stop string, in chunks of any size."""
    vocabulary, rng = Bytes(), random.Random(0)
    ids = vocabulary.encode(text)
    stops = [(), *((text[i:j],) for i in range(len(text)) for j in (i + 1, i + 3)), (text[-2:], text[1:4], 'none such')]
    for stop in stops:
        deltas: list[Delta] = []
        row = _Text(Request((0,), Sampler(max_tokens=len(ids), stop=stop), deltas.append), vocabulary, len(ids))
        rest, reason = list(ids), None
        while reason is None:
            size = rng.randint(1, 5)
            reason = row.add([Token(i, -1.0) for i in rest[:size]])
            rest = rest[size:]
        found = [text.find(s) for s in stop if s in text]
        expected = text[: min(found)] if found else text
        assert ''.join(delta.text for delta in deltas) == expected
        assert all('\ufffd' not in delta.text for delta in deltas) or '\ufffd' in text
        assert reason == ('stop' if found else 'length')
        told = [token.id for delta in deltas for token in delta.tokens]
        assert told == ids[: len(told)] and vocabulary.decode(told).startswith(expected)
