"""Objectives as seqio preprocessors. The only module outside `data/registry` that imports seqio and TensorFlow."""

from __future__ import annotations

import numpy as np
import seqio
import tensorflow as tf

from palm_jax.data.pretraining.objectives import Objective, blank
from palm_jax.data.registry.seqio_chains import language_model_preprocessors
from palm_jax.data.vocabulary.special_tokens import ExtendedVocabulary


def objective_preprocessors(
    objective: Objective, length: int, vocabulary: ExtendedVocabulary, text_key: str = 'text'
) -> list:
    """Return an objective as seqio preprocessors, from text to features, for your tasks and other pipelines (T5X).

    Documents are tokenized, concatenated and split as in `LanguageModelData`; random choices use seqio's seeds. The
    features are those of `palm_jax.data.pretraining.objectives`, [length], ready for seqio's
    `PassThroughFeatureConverter`; the task's `targets` feature, which holds the vocabulary, must not be `required`.
    `LanguageModelData` produces the same features by number, from the token cache.
    """
    raw_length = objective.raw_length(length, vocabulary)
    template = blank(objective, length, vocabulary)

    def features_of(tokens: np.ndarray, another: np.ndarray, seed: np.ndarray) -> list[np.ndarray]:
        rng = np.random.default_rng(seed.astype(np.uint32))
        features = objective(tokens, length, vocabulary, rng, lambda: another)
        return [features[name] for name in template]

    def concatenate_and_split(dataset: tf.data.Dataset) -> tf.data.Dataset:
        tokens = dataset.map(lambda example: example['targets']).unbatch().batch(raw_length, drop_remainder=True)
        return tf.data.Dataset.zip({'tokens': tokens, 'another': tokens.shuffle(1024, seed=0)})

    @seqio.map_over_dataset(num_seeds=1)
    def apply(example, seed):
        values = tf.numpy_function(
            features_of, [example['tokens'], example['another'], seed], [tf.int32] * len(template)
        )
        return {
            name: tf.ensure_shape(value, template[name].shape) for name, value in zip(template, values, strict=True)
        }

    return [*language_model_preprocessors(text_key), concatenate_and_split, apply]
