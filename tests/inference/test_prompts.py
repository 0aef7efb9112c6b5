"""Prompts that are read in pieces: the answers are those to whole prompts, and others are written meanwhile."""

import functools
import itertools
import threading

import numpy as np
import pytest

from palm_jax.errors import UserError
from palm_jax.inference import decoding, prompts, slots
from palm_jax.inference.engine import Delta, Engine, Request
from palm_jax.inference.generate import Sampler
from palm_jax.inference.prefix_cache import PrefixCache
from palm_jax.inference.slots import Slots
from palm_jax.inference.steering import SteeredModel
from tests.support.models import shaken
from tests.support.slots import adapted, written
from tests.support.vocabularies import Numbers

LENGTH, CHUNK, BLOCK = 64, 8, 4
LONG = tuple([0, *(5 + (7 * i) % 50 for i in range(43))])  # five pieces and four tokens
ARRIVALS = (  # prompts that arrive together; few widths, few programs
    [LONG, (0, 4, 4), LONG[::-1][:35], (*LONG, 9)],
    [(*LONG[:36], 3), LONG[:CHUNK], LONG],
)


def steered(micro):
    """A model with weights in int8, steered by one with others."""
    parts = {
        'base': decoding.unstack_layers(*micro(), 'int8'),
        'expert': decoding.unstack_layers(*micro(seed=1, num_kv_heads=2)),
    }
    model = SteeredModel(tuple((name, model) for name, (model, _) in parts.items()), strength=0.5)
    return model, {name: params for name, (_, params) in parts.items()}


CASES = {  # models, and whether beginnings are kept
    'windows, int8 weights': (
        lambda micro: decoding.unstack_layers(*micro(window=6, global_layers=(1,), num_kv_heads=2), 'int8'),
        False,
    ),
    'methods': (lambda micro: decoding.unstack_layers(*adapted(micro()[0])), True),
    'steered': (steered, False),
}
SLOW = [pytest.param('steered', marks=pytest.mark.slow)]


@pytest.fixture
def log(monkeypatch):
    """The last token of every piece that is read; tests add what is written."""
    found, read = [], prompts._read

    def logged(model, params, tokens, *rest, **options):
        assert tokens.shape == (1, CHUNK)
        found.append(int(tokens[0, -1]))
        return read(model, params, tokens, *rest, **options)

    monkeypatch.setattr(prompts, '_read', logged)
    return found


@pytest.fixture
def build(micro):
    """Builds slots of the micro model."""

    def of(chunk=CHUNK, num_slots=4, bidirectional=False):
        return Slots(*decoding.unstack_layers(*micro()), Numbers(), LENGTH, bidirectional, num_slots, chunk)

    return of


def assert_same(answers, expected):
    for one, other in zip(answers, expected, strict=True):
        assert [token.id for token in one] == [token.id for token in other]
        np.testing.assert_allclose([t.logprob for t in one], [t.logprob for t in other], atol=2e-5)


@pytest.mark.parametrize('case', ['windows, int8 weights', 'methods', *SLOW])
def test_answers_are_those_to_whole_prompts(micro, case, log, monkeypatch):
    monkeypatch.setattr(slots, 'PrefixCache', functools.partial(PrefixCache, block=BLOCK))
    make, keeps = CASES[case]
    model, params = make(micro)
    whole, in_pieces = (Slots(model, params, Numbers(), LENGTH, False, 4, chunk) for chunk in (0, CHUNK))
    in_pieces.keep_prefixes(keeps << 20)
    num_pieces = []
    for arriving in ARRIVALS:
        expected, _ = written(whole, arriving)
        assert not log
        answers, known = written(in_pieces, arriving)
        assert_same(answers, expected)
        assert any(known) == keeps
        num_pieces.append(len(log))
        log.clear()
    assert num_pieces == ([5 + 4, 0] if keeps else [5 + 4 + 5, 4 + 5])


@pytest.mark.slow
@pytest.mark.parametrize('chunk', [1, 3, 16, 100])
@pytest.mark.parametrize('keeps', [False, True])
def test_prompts_of_any_length_in_pieces_of_any_size(build, chunk, keeps, monkeypatch):
    monkeypatch.setattr(slots, 'PrefixCache', functools.partial(PrefixCache, block=BLOCK))
    whole, in_pieces = build(chunk=0), build(chunk=chunk)
    in_pieces.keep_prefixes(keeps << 20)
    rng = np.random.default_rng(chunk)
    for _ in range(6):
        arriving = [
            (*LONG[: rng.integers(1, 30)], *rng.integers(3, 61, rng.integers(1, 30)).tolist())
            for _ in range(rng.integers(1, 9))
        ]
        assert_same(written(in_pieces, arriving)[0], written(whole, arriving)[0])


def test_texts_are_written_between_pieces_and_prompts_have_turns(build, log):
    found = build()

    def request(prompt, name, tokens):
        return Request(prompt, Sampler(max_tokens=tokens, temperature=0.0), lambda delta: log.append(name))

    found.waiting.append(request((0, 3), 'written', 40))
    found.work(1)
    found.waiting.extend([request((0, *[7] * 43), 'first', 1), request((0, *[9] * 43), 'second', 1)])
    for _ in range(3):
        found.work(1)
    assert found.num_reading == 2 and found.num_active == 3
    found.waiting.append(request((0, 5, 5), 'short', 1))
    while found.waiting or found.num_active:
        found.work(1)
    assert [event for event in log if event in (7, 9)] == [7, 9] * 5
    reads = [number for number, event in enumerate(log) if event != 'written']
    assert all('written' in log[one:other] for one, other in itertools.pairwise(reads))
    order = [event for event in log if event in ('first', 'second', 'short')]
    assert order == ['short', 'first', 'second'] and log.index('short') < reads[7]
    assert log.count('written') == 40


@pytest.mark.parametrize('reason', ['cancelled', 'timeout'])
def test_a_request_can_end_while_its_prompt_is_read(build, log, reason):
    found, deltas = build(num_slots=1), []
    request = Request(LONG, Sampler(), deltas.append)
    found.waiting.append(request)
    found.work(3)
    found.work(3)
    assert found.num_reading == found.num_active == 1 and len(log) == 2 and not deltas
    if reason == 'cancelled':
        request.cancel()
    else:
        request.deadline = 0.0
    answers, _ = written(found, [LONG])  # in the slot that is free again
    assert deltas == [Delta('', (), reason)] and len(log) == 2 + 5
    assert_same(answers, written(build(chunk=0, num_slots=1), [LONG])[0])


def test_a_piece_that_cannot_be_read_ends_its_request_alone(build, log, monkeypatch):
    found = build()
    expected, _ = written(found, [LONG[:30], LONG[::-1]])
    read = prompts._read

    def failing(model, params, tokens, start, *rest, **options):
        if tokens[0, 0] == LONG[2 * CHUNK]:
            raise RuntimeError('out of memory')
        return read(model, params, tokens, start, *rest, **options)

    monkeypatch.setattr(prompts, '_read', failing)
    deltas = []
    found.waiting.append(Request(LONG[:30], Sampler(), deltas.append))
    answers, _ = written(found, [LONG[::-1]])
    assert deltas == [Delta('', (), 'error')]
    assert_same(answers, expected[1:])


def test_prompts_that_are_read_in_both_directions_are_read_whole(build, log):
    whole, also_whole = build(chunk=0, bidirectional=True), build(bidirectional=True)
    for prompt in (LONG, LONG[::-1]):
        assert written(also_whole, [prompt]) == written(whole, [prompt])
    assert not log
    assert written(build(), [LONG])[0] != written(whole, [LONG])[0]


@pytest.mark.parametrize('max_tokens', [LENGTH, 3 * BLOCK])  # room for all that is read, and for less
def test_what_prompts_share_is_read_with_the_first_of_them(build, log, max_tokens):
    found = build()
    found._prompts.prefixes = PrefixCache(1 << 20, max_tokens, BLOCK)
    answers, known = written(found, [LONG, LONG, (*LONG[:20], 3, *LONG[20:24])])
    if max_tokens == LENGTH:
        assert known == [0, 40, 20] and len(log) == 5
    else:
        assert known == [0, 12, 12] and len(log) == 5 + 3 + 1
    assert_same(answers, written(build(chunk=0), [LONG, LONG, (*LONG[:20], 3, *LONG[20:24])])[0])


def test_a_model_that_is_let_go_reads_its_prompts_to_their_ends(micro, build, monkeypatch):
    engine = Engine(2, 8, chunk=3, prefill_chunk=CHUNK)
    model, params = decoding.unstack_layers(*micro())
    other = shaken(params)
    reading, is_switched, read = threading.Event(), threading.Event(), prompts._read

    def waiting(*arguments, **options):
        reading.set()
        assert is_switched.wait(60)
        return read(*arguments, **options)

    monkeypatch.setattr(prompts, '_read', waiting)
    engine.add('old', model, params, Numbers(), LENGTH, False)
    engine.start()
    answers, ended = {'old': [], 'new': []}, {'old': threading.Event(), 'new': threading.Event()}

    def submit(name):
        def on_delta(delta):
            answers[name].extend(delta.tokens)
            if delta.finish_reason:
                ended[name].set()

        sampler = Sampler(max_tokens=6, temperature=0.0, repetition_penalty=1.3)
        engine.submit(name, Request(LONG, sampler, on_delta))

    try:
        submit('old')
        assert reading.wait(60) and engine.num_reading == engine.num_active == 1
        engine.add('new', model, other, Numbers(), LENGTH, False)
        engine.release('old')
        is_switched.set()
        submit('new')
        assert ended['old'].wait(60) and ended['new'].wait(60)
    finally:
        engine.stop()
    assert list(engine._models) == ['new'] and engine.failure is None
    assert_same([answers['old']], written(build(chunk=0), [LONG])[0])
    assert_same([answers['new']], written(Slots(model, other, Numbers(), LENGTH, False, 4), [LONG])[0])


def test_a_negative_chunk_is_refused():
    with pytest.raises(UserError, match=r'prefill_chunk is -1; it must be at least 0'):
        Engine(prefill_chunk=-1)
