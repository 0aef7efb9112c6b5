"""Infilling: the prompt is what the objective trains on, and generated spans take the place of those cut out."""

import types

import numpy as np
import pytest

from palm_jax.data.pretraining.objectives import PrefixLM, SpanCorruption
from palm_jax.data.readers.row import Row
from palm_jax.data.vocabulary.special_tokens import ExtendedVocabulary
from palm_jax.data.vocabulary.vocabularies import Bytes
from palm_jax.errors import UserError
from palm_jax.inference.decoding import unstack_layers
from palm_jax.inference.generate import Sampler
from palm_jax.special_ids import EOS_ID
from palm_jax.synthesis.infilling import Infilling
from palm_jax.synthesis.maker import Sampling

TEXTS = ['I lost my card and need a new one.', 'x', 'Why was my transfer declined yesterday?', 'y' * 90]


@pytest.fixture
def model(micro):
    """An untrained model, with the data of a denoising run."""
    vocabulary = ExtendedVocabulary(Bytes(), 40)
    palm, params = micro(vocab_size=vocabulary.size, num_layers=1)
    denoisers = (PrefixLM(), SpanCorruption(mode='[NLG]', mean_span=8.0), SpanCorruption(mode='[NLU]'))
    data = types.SimpleNamespace(vocabulary=vocabulary, length=100, objective=denoisers)
    return types.SimpleNamespace(
        data=data,
        sampler=Sampler(),
        for_decoding=unstack_layers(palm, params),
        config=types.SimpleNamespace(parent='run'),
    )


def test_the_prompt_and_the_way_back_are_those_of_the_objective(model):
    infilling, vocabulary = Infilling(model, Sampling(seed=5), rate=0.4), model.data.vocabulary
    ids = np.array(vocabulary.encode(TEXTS[0]), np.int32)
    mask = infilling._mask(len(ids), 3, 1)
    objective = SpanCorruption(rate=0.4, mode='[NLU]')
    assert mask.sum() == objective.counts(len(ids))[0] and infilling._mask(len(ids), 4, 1).tolist() != mask.tolist()
    features = objective(ids, 100, vocabulary, Sampling(seed=5).rng(3, 1), None)
    prefix = features['decoder_causal_attention'] > 0
    prompt = infilling._prompt(ids, mask)
    assert list(prompt) == features['decoder_input_tokens'][prefix].tolist()
    targets = features['decoder_target_tokens'][features['decoder_loss_weights'] > 0].tolist()
    assert targets[-1] == EOS_ID
    assert infilling._filled(ids.tolist(), mask, targets[:-1]) == TEXTS[0]


def test_what_is_generated_takes_the_place_of_what_was_cut_out(model):
    infilling, vocabulary = Infilling(model), model.data.vocabulary
    ids, mask = vocabulary.encode('abcdefgh'), np.array([0, 1, 1, 0, 0, 1, 0, 0], bool)
    first, second, third = map(vocabulary.sentinel, range(3))
    x, y = vocabulary.encode('xy')
    fill = lambda *generated: infilling._filled(ids, mask, generated)  # noqa: E731
    assert fill(first, x, y, x, second, y) == 'axyxdeygh'
    assert fill(first, x) == 'axdefgh'  # the second span keeps its own
    assert fill(x, first, second, y) == 'abcdeygh'  # nothing for the first
    assert fill(first, x, third, y, second, y) == 'axdeygh'  # what belongs to no span is left out
    assert fill() == 'abcdefgh'


def test_texts_are_made_by_seed_row_and_copy(model):
    rows = [Row({'text': text}, 'x') for text in TEXTS]
    infilling = Infilling(model, Sampling(seed=1))
    made = infilling.make(rows, TEXTS, 0, 0)
    assert made == infilling.make(rows, TEXTS, 0, 0)
    assert made[1] == 'x' and made[3] == TEXTS[3]  # a single token, and a text that does not fit


def test_a_model_that_has_not_learned_it_is_refused(model):
    model.data.objective = (PrefixLM(),)
    with pytest.raises(UserError, match=r'--infill=run has not learned.*gin/objectives/span_corruption\.gin'):
        Infilling(model)
