"""Bodies of requests: what is accepted, what is refused, and what every class says of itself."""

import inspect
import json

import pytest
from pydantic import BaseModel, ValidationError

from palm_jax.serving import protocol


def complete(**fields):
    return protocol.CompletionRequest.model_validate_json(json.dumps({'model': 'm', 'prompt': 'a'} | fields))


@pytest.mark.parametrize('zero', [0, 0.0, None])
def test_penalties_are_accepted_at_zero_only(zero):
    body = complete(frequency_penalty=zero, presence_penalty=zero)
    assert not body.frequency_penalty and not body.presence_penalty
    for wrong in (1, -0.5, '0', True):
        with pytest.raises(ValidationError, match='frequency_penalty'):
            complete(frequency_penalty=wrong)


@pytest.mark.parametrize(
    ('prompt', 'prompts'),
    [('a', ['a']), (['a', 'b'], ['a', 'b']), ([5, 6], [[5, 6]]), ([[5, 6], [7]], [[5, 6], [7]])],
)
def test_a_prompt_is_a_text_or_ids_or_several(prompt, prompts):
    assert complete(prompt=prompt).prompts == prompts


def test_stop_is_one_text_or_several():
    assert complete().stop == () and complete(stop='x').stop == ('x',) and complete(stop=['x', 'y']).stop == ('x', 'y')


def test_usage_ends_a_stream_if_it_is_asked_for():
    assert not complete().wants_usage and not complete(stream_options={}).wants_usage
    assert complete(stream_options={'include_usage': True}).wants_usage


@pytest.mark.parametrize(
    'fields',
    [{'temprature': 1}, {'max_tokens': '7'}, {'max_tokens': 0}, {'n': 17}, {'prompt': []}, {'prompt': [-1]},
     {'echo': True}, {'best_of': 2}, {'suffix': 'x'}, {'logit_bias': {'5': 1}}, {'stop': 'x' * 201}, {'logprobs': -1}],
)  # fmt: skip
def test_what_is_unknown_or_unsupported_is_refused(fields):
    with pytest.raises(ValidationError, match=next(iter(fields))):
        complete(**fields)


def test_every_body_says_what_it_is():
    bodies = [c for _, c in inspect.getmembers(protocol, inspect.isclass) if issubclass(c, BaseModel)]
    own = [body for body in bodies if body.__module__ == protocol.__name__]
    assert len(own) > 20 and all(vars(body).get('__doc__') for body in own)
    assert len({body.__doc__ for body in own}) == len(own)
