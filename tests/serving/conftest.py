"""A micro model and an adapter on it, to be served."""

from types import SimpleNamespace

import pytest

pytest.importorskip('fastapi', reason='the server is not installed: pip install "palm_jax[serve]"')
from palm_jax.api.trained_model import TrainedModel
from palm_jax.data.vocabulary.special_tokens import ExtendedVocabulary
from palm_jax.data.vocabulary.vocabularies import Bytes
from palm_jax.peft.bitfit import BitFit
from palm_jax.peft.method import AdaptedModel
from palm_jax.serving.models import ServedModel
from tests.support.kinds import every_kind
from tests.support.models import initial, shaken

BYTES = ExtendedVocabulary(Bytes(), 0)


@pytest.fixture
def served(micro):
    """A model of bytes, and an adapter on it."""
    model, params = micro(vocab_size=BYTES.size)
    data = SimpleNamespace(vocabulary=BYTES, length=64, labels=())
    adapted = AdaptedModel(model, (BitFit(),))
    both = {
        'base': TrainedModel(AdaptedModel(model), params, data, ''),
        'adapter': TrainedModel(adapted, shaken(initial(adapted)), data, ''),
    }
    return {name: ServedModel(name, trained) for name, trained in both.items()}


@pytest.fixture
def kinds(micro):
    """A model of each kind of task."""
    return {name: ServedModel(name, trained) for name, trained in every_kind(micro).items()}
