"""What a base answers in a case without training: zero-shot, and few-shot with examples in the prompt."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np

from palm_jax.api.trained_model import TrainedModel
from palm_jax.inference.generate import Sampler
from palm_jax.metrics import texts as text_metrics

SHOTS = {'zero_shot': 0, 'few_shot': 5}  # examples in the prompt
NUM_HELD_OUT = 200  # inputs that are answered, drawn once for all


def _held_out(examples: list[Any]) -> list[Any]:
    return random.Random(0).sample(examples, min(NUM_HELD_OUT, len(examples)))


def _shots(examples: list[Any], count: int, seed: int) -> list[Any]:
    return random.Random(seed).sample(examples, min(count, len(examples)))


def classify(model: TrainedModel, data: Any, shots: int, seed: int) -> float:
    """Return the accuracy of the class whose name is the likeliest continuation.

    Likelihoods are divided by the bytes of the name, as `acc_norm` of lm-evaluation-harness is.
    """
    name = lambda label: label.replace('_', ' ')  # noqa: E731
    ask = lambda example: f'Question: {example.text}\nIntent:'  # noqa: E731
    beginning = ''.join(f'{ask(e)} {name(e.label)}\n\n' for e in _shots(data.examples('train'), shots, seed))
    held_out, labels = _held_out(data.examples('validation')), data.labels
    found = model.score([(beginning + ask(e), f' {name(label)}') for e in held_out for label in labels])
    totals = np.array([x.total for x in found]).reshape(len(held_out), len(labels))
    best = np.argmax(totals / [len(name(label).encode()) for label in labels], axis=1)
    return float(np.mean([labels[i] == e.label for i, e in zip(best, held_out, strict=True)]))


def write(model: TrainedModel, data: Any, shots: int, seed: int) -> float:
    """Return the BLEU of the lines that greedy decoding writes after the inputs."""
    ask = lambda text: f'Attributes: {text}\nSentence:'  # noqa: E731
    turns = [conversation.turns for conversation in _shots(data.examples('train'), shots, seed)]
    beginning = ''.join(f'{ask(given.text)} {answer.text}\n\n' for given, answer in turns)
    held_out = _held_out(data.prompts())
    sampler = Sampler(max_tokens=80, temperature=0.0, stop=('\n',))
    texts = [text.strip() for text in model.generate([beginning + ask(prompt.text) for prompt in held_out], sampler)]
    of_rows: Any = text_metrics.bleu(texts, [prompt.references for prompt in held_out])['bleu']
    return float(of_rows(np.arange(len(texts))))


ANSWERS: dict[str, Callable[[TrainedModel, Any, int, int], float]] = {'banking77': classify, 'e2e_nlg': write}
