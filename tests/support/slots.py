"""Requests to the slots of a model, without an engine's thread."""

from palm_jax.inference.generate import Sampler
from palm_jax.inference.requests import Request
from palm_jax.peft.method import AdaptedModel
from tests.support.methods import METHODS
from tests.support.models import initial, shaken


def adapted(model):
    """A model with a soft prompt, keys and values before the text, LoRA and more, and its parameters."""
    both = AdaptedModel(model, METHODS['several'])
    return both, shaken(initial(both))


def written(found, prompts):
    """What requests that arrive together are answered, and how many of their tokens were known."""
    answers = [[] for _ in prompts]
    sampler = Sampler(max_tokens=6, temperature=0.0, repetition_penalty=1.3)
    requests = [
        Request(prompt, sampler, lambda delta, answer=answer: answer.extend(delta.tokens))
        for prompt, answer in zip(prompts, answers, strict=True)
    ]
    found.waiting.extend(requests)
    while found.waiting or found.num_active:
        found.work(3)
    return answers, [request.cached_tokens for request in requests]
