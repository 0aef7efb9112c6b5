"""seqio's Evaluator with a text-to-text model."""

import numpy as np
import pytest
import seqio
import tensorflow as tf

from palm_jax.data.registry import evaluator
from palm_jax.data.vocabulary.vocabularies import Bytes
from palm_jax.errors import UserError

TARGETS = ['one', 'two', 'three', 'four', 'five', 'six']
WRITTEN = ['one', '', 'three, no doubt', 'four', ' five', 'a very long answer that is wrong']


def exact(targets, predictions):
    return {'exact': float(np.mean([t == p for t, p in zip(targets, predictions, strict=True)]))}


def broken(targets, predictions):
    return {'ratio': len(targets) / 0}


@pytest.fixture
def task(request):
    rows = {'inputs': [f'number {i}' for i in range(len(TARGETS))], 'targets': TARGETS}
    features = {name: seqio.Feature(seqio.ByteVocabulary()) for name in rows}
    name = f'numbers_{request.param.__name__}'
    seqio.TaskRegistry.add(
        name,
        source=seqio.FunctionDataSource(
            lambda split, shuffle_files=False, seed=None: tf.data.Dataset.from_tensor_slices(rows),
            splits=['validation'],
        ),
        preprocessors=[seqio.preprocessors.tokenize],
        output_features=features,
        metric_fns=[request.param],
    )
    yield name
    seqio.TaskRegistry.remove(name)


@pytest.mark.parametrize('task', [broken], indirect=True)
def test_a_metric_that_fails_is_named_with_what_it_said(task):
    with pytest.raises(UserError, match="A metric of task 'numbers_broken' failed with ZeroDivisionError"):
        evaluator.evaluate(task, 'validation', Bytes(), lambda prompts: WRITTEN, lambda pairs: [])


@pytest.mark.parametrize('task', [exact], indirect=True)
def test_answers_of_any_length_reach_the_metrics_as_they_were_written(task):
    asked = []

    def predict(prompts):
        asked.extend(prompts)
        return WRITTEN

    (evaluated,) = evaluator.evaluate(task, 'validation', Bytes(), predict, lambda pairs: []).values()
    assert asked == [f'number {i}' for i in range(6)]
    assert evaluated.examples == 6 and evaluated.metrics == exact(TARGETS, WRITTEN) == {'exact': 1 / 3}
    low, high = evaluated.intervals['exact']
    assert 0 <= low < 1 / 3 < high <= 1
