"""Writing over a cache: what whole passes say, whatever is written beside it, to the end, the stop or the length."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from palm_jax.errors import UserError
from palm_jax.inference import decoding
from palm_jax.inference.beam import BeamSearch
from palm_jax.inference.generate import Sampler
from palm_jax.inference.scoring import likelihoods
from palm_jax.models.quantization import dequantize_tree
from palm_jax.special_ids import EOS_ID
from tests.support.models import applied
from tests.support.vocabularies import Letters, Numbers


def ids_of(sampler, model, params, prompts, length, **options):
    return [list(best.ids) for best, *_ in sampler.generate(model, params, Numbers(), prompts, length, **options)]


def test_greedy_is_the_argmax_a_token_at_a_time(micro):
    model, params = micro()
    prompts = ['ABCDE', 'XY']
    whole = jax.jit(lambda ids: model.apply({'params': params}, ids))
    texts = Sampler(max_tokens=6, temperature=0)(model, params, Letters(), prompts, 16)
    for prompt, text in zip(prompts, texts, strict=True):
        ids = [0, *Letters().encode(prompt)]
        for _ in range(6):
            padded = np.pad(ids, (0, 16 - len(ids)))[None]
            token = int(jnp.argmax(whole(padded)[0, len(ids) - 1]))
            if token == 1:
                break
            ids.append(token)
        assert text == Letters().decode(ids[1 + len(prompt) :])


CHANGES = [
    {},
    {'num_kv_heads': 2},
    {'parallel': False, 'qk_norm': True, 'qkv_bias': True, 'mlp_gate': 'gelu'},
    {'unroll_layers': 0},
    {'window': 5, 'global_layers': (1,), 'unrotated_layers': (1,), 'shared_embedding': False},
]


@pytest.mark.parametrize('changes', CHANGES, ids=str)
def test_what_the_cache_gives_is_what_the_whole_sequence_gives(micro, changes):
    """Ragged prompts in one padded batch, against the model without a cache, a prompt alone at a time."""
    model, params = micro(**changes)
    rng = np.random.default_rng(0)
    prompts = [[0, *rng.integers(3, 61, n).tolist()] for n in (1, 7, 16, 23)]
    sampler = Sampler(max_tokens=6, temperature=0)
    whole = jax.jit(lambda ids, prefix: model.apply({'params': params}, ids, None, None, prefix))
    for bidirectional in (False, True):
        written = ids_of(sampler, model, params, prompts, 64, bidirectional=bidirectional)
        for prompt, ours in zip(prompts, written, strict=True):
            ids, prefix = np.zeros((2, 1, 32), np.int32)
            ids[0, : len(prompt)], prefix[0, : len(prompt)] = prompt, bidirectional
            end = len(prompt)
            while end < len(prompt) + 6 and (token := int(jnp.argmax(whole(ids, prefix)[0, end - 1]))) != 1:
                ids[0, end] = token
                end += 1
            assert ours == ids[0, len(prompt) : end].tolist()


def test_log_probabilities_are_the_models_own(micro):
    model, params = micro()
    prompts = [[0, 7, 5], [0, 9, 4, 3, 8, 2]]
    sampler = Sampler(max_tokens=5, temperature=1.7, top_k=9, repetition_penalty=1.5)
    for prompt, (said,) in zip(prompts, sampler.generate(model, params, Numbers(), prompts, 32), strict=True):
        tokens = [*said.ids, *([1] if said.finish_reason == 'stop' else [])]
        logits = applied(model, params, np.array([[*prompt, *tokens]]))[0]
        expected = jax.nn.log_softmax(logits)[np.arange(len(prompt) - 1, len(prompt) + len(tokens) - 1), tokens]
        np.testing.assert_allclose(said.logprobs, expected, atol=1e-5)
        assert said.score == pytest.approx(float(expected.sum()), abs=1e-4)


def test_the_seed_decides_and_batch_mates_change_nothing(micro):
    model, params = micro()
    prompts = [[0, *range(3, 3 + n)] for n in (4, 20, 9, 11, 5)]

    def drawn(seed, **options):
        return ids_of(Sampler(max_tokens=8, temperature=1.2, seed=seed, **options), model, params, prompts, 64)

    one = drawn(3, batch_size=1)
    assert one == drawn(3, batch_size=2) == drawn(3, batch_size=8) and len({tuple(ids) for ids in one}) > 1
    assert one != drawn(4)
    # So do more samples of each: the first is the one that would be there alone.
    many = Sampler(max_tokens=8, temperature=1.2, seed=3, num_decodes=3).generate(model, params, Numbers(), prompts, 64)
    assert [list(of[0].ids) for of in many] == one and all(len({c.ids for c in of}) == 3 for of in many)


def test_a_text_ends_at_the_length_and_at_a_stop_string(micro):
    model, params = micro()
    greedy = Sampler(max_tokens=40, temperature=0)
    prompt = [0, 5, 9]
    (free,) = greedy.generate(model, params, Letters(), [prompt], 64)[0]
    assert len(free.ids) == 40 and free.finish_reason == 'length'
    stop = free.text[20:23]
    stopped = Sampler(max_tokens=40, temperature=0, stop=['no such text', stop])
    both = stopped.generate(model, params, Letters(), [prompt, [0, 3]], 64)
    assert both[0][0].text == free.text[: free.text.index(stop)] and both[0][0].finish_reason == 'stop'
    assert (
        both[1][0].ids == greedy.generate(model, params, Letters(), [[0, 3]], 64)[0][0].ids or stop in both[1][0].text
    )
    (short,) = greedy.generate(model, params, Letters(), [[0, *range(3, 30)]], 32)[0]
    assert len(short.ids) == 4  # 28 and 4 are 32


def test_a_prompt_without_room_is_refused(micro):
    model, params = micro()
    with pytest.raises(UserError, match='has 9 tokens; the context length is 8'):
        Sampler()(model, params, Letters(), ['ABCDEFGHI'], 8)
    with pytest.raises(UserError, match='Prompt 2 has 9 tokens'):
        Sampler().generate(model, params, Letters(), [[0, 5], [0] * 9], 8)
    with pytest.raises(UserError, match=r'temperature is -1; it must be at least 0\.\n.*top_p is 0; it must be'):
        Sampler(temperature=-1, top_p=0)


def test_lengths_and_settings_compile_nothing_new(micro):
    model, params = micro()
    sizes = lambda: (decoding.prefill._cache_size(), decoding.decode._cache_size())  # noqa: E731
    ids_of(Sampler(max_tokens=8, temperature=0.5), model, params, [[0, 4], [0, 9, 9]], 64)
    before = sizes()
    for n, temperature in ((3, 0.0), (9, 1.0), (14, 2.0)):
        ids_of(Sampler(max_tokens=7, temperature=temperature, top_k=n), model, params, [[0] * n, [0, 9]], 64)
    assert sizes() == before


def test_rows_come_and_go_without_a_trace(micro):
    """Places of a batch that is being written are given to others; all read as if alone."""
    model, params = decoding.unstack_layers(*micro())
    greedy = Sampler(max_tokens=9, temperature=0)
    prompts = [[0, 5, 9], [0, 3], [0, *range(7, 20)], [0, 8, 8, 8]]
    alone = [ids_of(greedy, model, params, [prompt], 64)[0] for prompt in prompts]

    def sampling_params(n):
        return greedy.sampling_params(np.zeros(n), np.zeros(n))

    rows = decoding.empty_state(model, params, 2, 64, sampling_params(2))
    written = {}
    for numbers in ((0, 1), (2, 3)):  # the second pair takes the places of the first
        for place, number in enumerate(numbers):
            prompt = np.array(prompts[number])
            tokens = np.pad(prompt, (0, 16 - len(prompt)))[None]
            new, first = decoding.prefill(
                model, params, tokens, np.array([len(prompt)]), np.array([9]), sampling_params(1),
                room=0, num_logprobs=2, with_penalty=True,
            )  # fmt: skip
            rows = decoding.insert(rows, new, np.array([place]))
            written[number] = [int(first.tokens[0, 0])]
            rows, more = decoding.decode(model, params, rows, steps=3, num_logprobs=2)  # the other goes on meanwhile
            rounding = jnp.abs(more.top_logprobs[place, :, 0] - more.logprobs[place])
            assert float(jnp.max(rounding)) < 1e-6  # greedy: the first of the top
            for p, n in zip(range(place + 1), numbers, strict=False):
                written[n] += more.tokens[p, : int(more.count[p])].tolist()
        rows, more = decoding.decode(model, params, rows, steps=16, num_logprobs=2)
        for p, n in enumerate(numbers):
            written[n] += more.tokens[p, : int(more.count[p])].tolist()
    for number, expected in enumerate(alone):
        assert [i for i in written[number] if i != 1] == expected


def test_models_on_one_base_share_their_copies(micro):
    model, params = micro()
    other = {**params, 'final_norm': {'scale': params['final_norm']['scale'] + 1}}
    known = {}
    (_, first), (_, second) = (decoding.unstack_layers(model, p, known=known) for p in (params, other))
    assert first['stack']['2']['mlp']['in']['joined'] is second['stack']['2']['mlp']['in']['joined']
    assert first['final_norm']['scale'] is not second['final_norm']['scale']


def test_int8_is_near_and_a_quarter_of_the_size(micro):
    stacked = micro(d_model=64, num_kv_heads=2)
    model, params = decoding.unstack_layers(*stacked)
    _, small = decoding.unstack_layers(*stacked, 'int8')
    nbytes = lambda tree: sum(x.nbytes for x in jax.tree.leaves(tree))  # noqa: E731
    assert nbytes(small) < 0.3 * nbytes(params)
    back = dequantize_tree(small, 'float32')
    for path, x in jax.tree_util.tree_leaves_with_path(params):
        y = np.asarray(jax.tree_util.tree_reduce(lambda _, leaf: leaf, _at(back, path)))
        # Half a step of the scale of that output, whose largest value is 127 steps.
        assert np.abs(np.asarray(x) - y).max() <= 0.5 * np.abs(x).max() / 127 + 1e-7, path
    tokens = np.random.default_rng(0).integers(3, 61, (2, 30))
    logits, near = (np.asarray(applied(model, p, tokens)) for p in (params, back))
    assert 0 < np.abs(logits - near).max() < 0.05 * np.abs(logits).max()
    assert len(ids_of(Sampler(max_tokens=4, temperature=0), model, small, [[0, 5]], 32)[0]) <= 4


def _at(tree, path):
    for key in path:
        tree = tree[key.key]
    return tree


class Sparse(Numbers):
    """Has a text for every fourth of its first 40 ids, and decodes no other."""

    has_text = np.arange(40) % 4 == 3

    def decode(self, ids):
        assert all(self.has_text[i] for i in ids)
        return super().decode(ids)


@pytest.mark.parametrize(
    'decoder',
    [
        Sampler(max_tokens=20, temperature=0.0),
        Sampler(max_tokens=20, temperature=50.0, top_p=1.0),
        Sampler(max_tokens=20, temperature=3.0, top_k=2, repetition_penalty=5.0, stop=['none such']),
        BeamSearch(max_tokens=12, num_beams=3),
    ],
    ids=str,
)
def test_ids_without_a_text_are_never_drawn(micro, decoder):
    model, params = micro()
    written = decoder.generate(model, params, Sparse(), [[0, 5, 9], [0, 3]], 64)
    ids = {i for completions in written for completion in completions for i in completion.ids}
    assert ids and ids <= {3, 7, 11, 15, 19, 23, 27, 31, 35, 39}


def test_greedy_in_scoring_is_what_greedy_decoding_writes(micro):
    model, params = micro()
    (best,) = Sampler(max_tokens=8, temperature=0.0).generate(model, params, Sparse(), [[0, 5, 9]], 64)[0]
    completion = [*best.ids, *([EOS_ID] if best.finish_reason == 'stop' else [])]
    (ours,) = likelihoods(model, params, [([0, 5, 9], completion)], 64, vocabulary=Sparse())
    (theirs,) = likelihoods(model, params, [([0, 5, 9], completion)], 64)
    assert ours.is_greedy and not theirs.is_greedy
    np.testing.assert_allclose(ours.logprobs, best.logprobs, atol=1e-5)
