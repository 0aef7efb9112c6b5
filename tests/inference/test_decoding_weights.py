"""What decoding reads at every token: matrices in the dtype of the computation, joined, and nothing made of them."""

import re

import jax
import numpy as np
import pytest

from palm_jax.inference import decoding
from palm_jax.inference.generate import Sampler
from palm_jax.models.quantization import quantize
from palm_jax.peft.lora import LoRA
from palm_jax.peft.method import AdaptedModel
from tests.support.models import applied, initial, shaken
from tests.support.platforms import lowered_for
from tests.support.vocabularies import Numbers

WIDE = {'d_model': 64, 'num_layers': 2}  # every matrix has at least 2,048 elements, the cache and the logits fewer


def started(model, params, prompt=8, room=8):
    """A state of decoding after a prompt."""
    greedy = Sampler(temperature=0.0).sampling_params(np.zeros(1), np.zeros(1))
    tokens, one = np.full((1, prompt), 5, np.int32), np.ones(1, np.int32)
    return decoding.prefill(model, params, tokens, one * prompt, one * room, greedy, room=room)[0]


def large_instructions(text, least):
    """Instructions inside loops of a compiled program whose result has at least this many elements."""
    computations = dict(re.findall(r'^(?:ENTRY )?%?([\w.-]+) [^\n]*\{\n(.*?)^\}', text, re.MULTILINE | re.DOTALL))
    waiting = re.findall(r'body=%?([\w.-]+)', text)
    assert waiting, 'no loop'
    found, seen = [], set()
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        waiting += re.findall(r'(?:calls|to_apply|body|condition)=%?([\w.-]+)', computations[name])
        for line in computations[name].splitlines():
            result = re.match(r'\s*(?:ROOT )?%?[\w.-]+ = \w+\[([\d,]*)\]\S* ([\w-]+)\(', line)  # tuples are not arrays
            if result and np.prod([int(n) for n in result[1].split(',') if n]) >= least:
                found.append((result[2], line.strip()))
    return [line for kind, line in found if kind not in ('parameter', 'get-tuple-element', 'bitcast')]


@pytest.mark.parametrize('shared', [True, False])
def test_no_step_makes_anything_of_the_size_of_a_weight(micro, shared):
    stacked, params = micro(**WIDE, shared_embedding=shared)
    model, prepared = decoding.unstack_layers(stacked, params)
    state = started(model, prepared)
    program = decoding.decode.lower(model, prepared, state, steps=4).compile().as_text()
    smallest = min(x.size for x in jax.tree.leaves(prepared) if x.ndim > 1)  # the output matrix, [32, 64]
    assert smallest == 2048 and max(x.size for x in jax.tree.leaves(state)) < smallest
    assert not large_instructions(program, smallest)
    # The same search finds what was there before: kernels that are joined at every token.
    apart = stacked.clone(stacked=False), {**params, 'stack': unjoined(params['stack'], stacked.arch.num_layers)}
    before = decoding.decode.lower(*apart, state, steps=4)
    assert 'concatenate' in before.as_text().split('while', 1)[1]


def unjoined(stack, num_layers):
    return {str(n): jax.tree.map(lambda x, n=n: x[n], stack) for n in range(num_layers)}


def test_the_memory_of_the_cache_is_reused(micro):
    """The state's buffers are donated: the loop writes into them, and no second cache is there at its end."""
    model, params = decoding.unstack_layers(*micro(**WIDE))
    state = started(model, params)
    program = decoding.decode.lower(model, params, state, steps=4).compile()
    nbytes = sum(x.nbytes for x in jax.tree.leaves(state.cache))
    assert program.memory_analysis().alias_size_in_bytes >= nbytes
    before = jax.tree.leaves(state.cache)
    decoding.decode(model, params, state, steps=4)
    assert all(x.is_deleted() for x in before)


@pytest.mark.parametrize('platform', ['cpu', 'cuda'])
def test_nothing_is_cast_at_a_token(micro, platform):
    stacked, params = micro(**WIDE, dtype='bfloat16')
    model, prepared = decoding.unstack_layers(stacked, params)
    kinds = {
        path: leaf.dtype.name
        for path, leaf in ((jax.tree_util.keystr(p), x) for p, x in jax.tree_util.tree_leaves_with_path(prepared))
    }
    assert {kind for path, kind in kinds.items() if 'norm' not in path} == {'bfloat16'}, kinds
    assert {kind for path, kind in kinds.items() if 'norm' in path} == {'float32'}
    step = lambda params, state: decoding.decode(model, params, state, steps=4)  # noqa: E731
    text = lowered_for(platform, step, prepared, started(model, prepared)).as_text()
    sizes = {'x'.join(map(str, x.shape)) for x in jax.tree.leaves(prepared) if x.ndim > 1}
    casts = [line for line in text.splitlines() if 'stablehlo.convert' in line]
    assert casts and not [line for line in casts for size in sizes if f'(tensor<{size}x' in line]


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
@pytest.mark.parametrize('changes', [{}, {'num_kv_heads': 2, 'parallel': False}, {'fuse_projections': False}], ids=str)
def test_the_prepared_model_is_the_model(micro, tokens, dtype, changes):
    model, params = micro(dtype=dtype, **changes)
    expected = np.asarray(applied(model, params, tokens))
    ours = np.asarray(applied(*decoding.unstack_layers(model, params), tokens))
    tolerance = 1e-5 if dtype == 'float32' else 0.03  # of the largest logit
    np.testing.assert_allclose(ours, expected, rtol=0, atol=tolerance * np.abs(expected).max())


@pytest.mark.parametrize('method', [LoRA(rank=2), LoRA(rank=2, use_dora=True)], ids=['lora', 'dora'])
def test_methods_keep_what_they_read(micro, tokens, method):
    """LoRA needs the outputs alone; DoRA measures the kernels, which therefore stay as they are."""
    model = AdaptedModel(micro(dtype='bfloat16')[0], (method,))
    params = shaken(initial(model))
    prepared_model, prepared = decoding.unstack_layers(model, params)
    qkv = prepared['stack']['0']['attn']['qkv']
    assert ('joined' in qkv) != method.use_dora
    assert qkv['q' if method.use_dora else 'joined'].dtype.name == ('float32' if method.use_dora else 'bfloat16')
    expected = np.asarray(applied(model, params, tokens))
    np.testing.assert_allclose(np.asarray(applied(prepared_model, prepared, tokens)), expected, atol=0.06)


def test_int8_is_rounded_before_it_is_joined_or_after(micro):
    """One scale for every output: side by side the matrices have the values that each has alone."""
    model, params = micro(d_model=64)
    _, prepared = decoding.unstack_layers(model, params, 'int8')
    gate = params['stack']['mlp']['in']['gate'][1]
    joined, alone = prepared['stack']['1']['mlp']['in']['joined'], quantize(gate, (0,), 'int8')
    np.testing.assert_allclose(joined.scale[:, : gate.shape[1]], alone.scale, rtol=1e-6)
    np.testing.assert_array_equal(joined.values[:, : gate.shape[1]], alone.values)


def test_an_answer_is_one_program(micro):
    """Without stop sequences the tokens after the first are one compiled loop."""
    model, params = decoding.unstack_layers(*micro())
    calls = []
    original = decoding.decode
    decoding.decode = lambda *args, **kwargs: calls.append(kwargs['steps']) or original(*args, **kwargs)
    try:
        Sampler(max_tokens=30, temperature=1.0, seed=1).generate(model, params, Numbers(), [[0, 5, 9], [0, 3]], 64)
    finally:
        decoding.decode = original
    assert calls == [32]
