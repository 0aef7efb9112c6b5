"""A micro model with random parameters for each kind of task."""

import jax

from palm_jax.api.trained_model import TrainedModel
from palm_jax.data.supervised.conversations import Dialogues, PairTable
from palm_jax.data.supervised.labelled_text import LabelledTable, LabelledText
from palm_jax.data.supervised.tagged_text import TaggedTable, TaggedText
from palm_jax.data.supervised.text_to_text import TextToText
from palm_jax.inference.generate import Sampler
from palm_jax.labels.label_set import LabelSet
from palm_jax.labels.number import Number
from palm_jax.labels.single_label import SingleLabel
from palm_jax.models.heads import Head
from palm_jax.models.palm import PaLM
from palm_jax.peft.method import AdaptedModel
from palm_jax.predictors.chat_predictor import ChatPredictor
from palm_jax.predictors.label_predictor import LabelPredictor
from palm_jax.predictors.language_model_predictor import LanguageModelPredictor
from palm_jax.predictors.tag_predictor import TagPredictor
from palm_jax.predictors.text_to_text_predictor import TextToTextPredictor
from palm_jax.training import state

SAMPLER = Sampler(max_tokens=4, temperature=0.0)
TAGS = ('O', 'B-PER', 'I-PER')


def every_kind(micro, *only):
    """A trained model by kind, or by those of some kinds alone; `micro` is the fixture."""
    tags = TaggedText(TaggedTable(None, names=TAGS), {'inputs': 32}, 'bytes')
    makers = {
        'text': lambda: _trained(micro, _conversations(None), LanguageModelPredictor()),
        'text_to_text': lambda: _trained(micro, _conversations(PairTable(None, input='{q}')), TextToTextPredictor()),
        'chat': lambda: _trained(micro, _conversations(Dialogues(None)), ChatPredictor()),
        'classes': lambda: _trained(
            micro, _labelled(names=['no', 'yes', '<b>&']), LabelPredictor(SingleLabel()), Head(3)
        ),
        'labels': lambda: _trained(
            micro, _labelled(names=['a', 'b'], kind=LabelSet()), LabelPredictor(LabelSet()), Head(2)
        ),
        'pairs': lambda: _trained(
            micro, _labelled(kind=Number(), second_text_column='b'), LabelPredictor(Number()), Head(1)
        ),
        'tags': lambda: _trained(micro, tags, TagPredictor(), Head(3, pooling='none')),
    }  # fmt: skip
    return {name: make() for name, make in makers.items() if name in (only or makers)}


def _trained(micro, data, predictor, head=None):
    model = AdaptedModel(PaLM(micro(vocab_size=259, num_layers=1)[0].arch, head=head))
    params = jax.jit(lambda rng: state.unbox(state.init_params(model, rng)))(jax.random.key(0))
    return TrainedModel(model, params, data, '', predictor, SAMPLER)


def _labelled(**options):
    return LabelledText(LabelledTable(None, **options), {'inputs': 16}, 'bytes')


def _conversations(source):
    return TextToText(source, {'inputs': 40, 'targets': 24}, 'bytes')
