"""What is measured of a language model."""

import types

import numpy as np
import pytest

from palm_jax.data.vocabulary.vocabularies import Bytes
from palm_jax.errors import UserError
from palm_jax.inference.generate import Sampler
from palm_jax.reports.language_model import TextReporter, measurements
from palm_jax.training.metrics import Ratio


def test_loss_is_shown_beside_baselines_the_best_first():
    measured = measurements(2.0, 1.5, {'gzip -9': 1.2, '3-gram': 1.9}, [('To be', ' or')])
    assert measured.metrics == {'loss': 2.0, 'bits_per_byte': 1.5}
    assert measured.details['baselines'] == {'gzip -9': 1.2, '3-gram': 1.9}
    assert measured.details['samples'] == [('To be', ' or')]
    assert measured.details['perplexity'] == pytest.approx(np.exp(2.0))
    assert [line.split()[0] for line in measured.lines[2:]] == ['gzip', 'this', '3-gram']
    assert len(measured.warnings) == 1 and '1.5000, and 1.2000 by gzip -9' in measured.warnings[0]
    assert measured.samples == '--- sample 1: the prompt up to ⟦, the model from there\nTo be⟦ or\n'


def test_a_reporter_measures_without_a_run():
    data = types.SimpleNamespace(
        vocabulary='v',
        length=9,
        validation_bytes=100,
        baselines=lambda sequences: {'n-gram': sequences / 10},
        beginnings=lambda: ['held', 'out'],
    )
    inputs = types.SimpleNamespace(
        model='m', params='p', data=data, sequences_seen=20, evaluate=lambda: {'loss': Ratio(100 * np.log(2), 50.0)}
    )
    calls = []

    def sampler(*arguments):
        calls.append(arguments)
        return ['b'] * len(arguments[3])

    measured = TextReporter(sampler, ['a']).measure(inputs)
    assert calls == [('m', 'p', 'v', ['a'], 9)]
    assert measured.metrics['bits_per_byte'] == pytest.approx(1.0)
    assert measured.metrics['loss'] == pytest.approx(2 * np.log(2))
    assert measured.details['baselines'] == {'n-gram': 2.0}
    assert TextReporter().measure(inputs).samples == '' == TextReporter(sampler, []).measure(inputs).samples
    assert TextReporter(sampler).measure(inputs).details['samples'] == [('held', 'b'), ('out', 'b')]


def test_prompts_longer_than_the_model_are_refused_before_training():
    data = types.SimpleNamespace(vocabulary=Bytes(), length=16)
    TextReporter(Sampler(), ['short', 'x' * 14]).check(data)
    TextReporter(None, ['x' * 99]).check(data)  # nothing is generated
    with pytest.raises(UserError, match=r"PROMPTS: The prompt 'x+' has 15 tokens; the context length is 16"):
        TextReporter(Sampler(), ['short', 'x' * 15]).check(data)
