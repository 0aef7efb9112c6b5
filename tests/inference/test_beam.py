"""Beam search: wide enough, it finds what trying everything finds; narrow, what Transformers finds."""

import itertools

import jax
import numpy as np
import pytest

from palm_jax.errors import UserError
from palm_jax.inference.beam import BeamSearch
from tests.support.vocabularies import Numbers

EOS = 1


def everything(model, params, prompt, most, length_penalty):
    """Every continuation that ends, or is as long as may be, by its score."""
    V = model.arch.vocab_size
    whole = jax.jit(lambda ids: jax.nn.log_softmax(model.apply({'params': params}, ids)))
    endings = [
        (*ids, EOS) for n in range(most) for ids in itertools.product([i for i in range(V) if i != EOS], repeat=n)
    ] + list(itertools.product([i for i in range(V) if i != EOS], repeat=most))
    rows = np.array([[*prompt, *ids] + [0] * (most - len(ids)) for ids in endings])
    logp = np.asarray(whole(rows))
    scores = []
    for row, ids in zip(logp, endings, strict=True):
        total = sum(row[len(prompt) - 1 + t, token] for t, token in enumerate(ids))
        scores.append(total / len(ids) ** length_penalty)
    return sorted(zip(scores, endings, strict=True), reverse=True)


@pytest.mark.parametrize('length_penalty', [0.0, 1.0, 2.0])
def test_wide_enough_it_finds_the_best_there_is(micro, length_penalty):
    model, params = micro(vocab_size=5)
    params = jax.tree.map(lambda x: x * 1.5, params)
    prompts = [[0, 3], [0, 2, 4, 4], [0]]
    search = BeamSearch(num_beams=130, length_penalty=length_penalty, max_tokens=3)
    for prompt, found in zip(prompts, search.generate(model, params, Numbers(), prompts, 16), strict=True):
        best = everything(model, params, prompt, 3, length_penalty)
        for ours, (score, ids) in zip(found[:8], best, strict=False):
            assert ours.score == pytest.approx(score, abs=1e-4)
            assert [*ours.ids, *([EOS] if ours.finish_reason == 'stop' else [])] == list(ids)
            assert sum(ours.logprobs) / len(ids) ** length_penalty == pytest.approx(score, abs=1e-4)


def test_narrow_it_is_that_of_transformers(micro):
    torch = pytest.importorskip('torch')
    from tests.support.cohere import cohere

    model, params = micro(num_layers=2)
    theirs = cohere(model, params)
    prompts = [[0, 7, 5, 9], [0, 3, 3, 8]]
    out = theirs.generate(
        input_ids=torch.tensor(prompts), attention_mask=torch.ones(2, 4, dtype=torch.long), num_beams=3,
        num_return_sequences=3, max_new_tokens=8, do_sample=False, length_penalty=1.0, early_stopping='never',
        eos_token_id=1, pad_token_id=0, return_dict_in_generate=True, output_scores=True,
    )  # fmt: skip
    ours = BeamSearch(num_beams=3, max_tokens=8).generate(model, params, Numbers(), prompts, 32)
    scores = [best.score for of in ours for best in of]
    np.testing.assert_allclose(scores, out.sequences_scores.numpy(), atol=1e-4)
    for row, best in zip(out.sequences[:, 4:].tolist(), (best for of in ours for best in of), strict=True):
        assert row[: len(best.ids)] == list(best.ids)


def test_one_beam_is_greedy_and_wrong_numbers_are_refused(micro):
    from palm_jax.inference.generate import Sampler

    model, params = micro()
    prompts = [[0, 5, 9], [0, 3]]
    (greedy, _), (beam, _) = (
        [best.ids for (best,) in writer.generate(model, params, Numbers(), prompts, 32)]
        for writer in (Sampler(max_tokens=6, temperature=0), BeamSearch(num_beams=1, max_tokens=6))
    )
    assert greedy == beam
    with pytest.raises(UserError, match='num_beams is 0'):
        BeamSearch(num_beams=0)
