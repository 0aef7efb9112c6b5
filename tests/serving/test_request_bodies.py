"""Requests as the server reads them; what their fields mean is tested with the server."""

import pytest
from pydantic import ValidationError

from palm_jax.serving.request_bodies import ChatRequest, CompletionRequest


@pytest.mark.parametrize(
    ('prompt', 'prompts'),
    [
        ('a text', ['a text']),
        (['one', 'two'], ['one', 'two']),
        ([5, 6, 7], [[5, 6, 7]]),
        ([[5], [6, 7]], [[5], [6, 7]]),
    ],
)
def test_a_prompt_is_a_text_ids_or_a_list_of_either(prompt, prompts):
    assert CompletionRequest(model='m', prompt=prompt).prompts == prompts


def test_logprobs_false_is_none_of_them_and_zero_is_the_chosen_token_alone():
    assert CompletionRequest(model='m', prompt='a', logprobs=False).logprobs is None
    assert CompletionRequest(model='m', prompt='a', logprobs=0).logprobs == 0


@pytest.mark.parametrize('wrong', [{'temperature': -1}, {'top_p': 0}, {'n': 0}, {'max_tokens': '7'}, {'stop': [1]}])
def test_wrong_values_name_their_field(wrong):
    with pytest.raises(ValidationError) as caught:
        ChatRequest(model='m', messages=[{'role': 'user', 'content': 'a'}], **wrong)
    assert caught.value.errors()[0]['loc'][0] == next(iter(wrong))


def test_usage_in_a_stream_is_asked_for():
    ask = {'model': 'm', 'prompt': 'a', 'stream': True}
    assert CompletionRequest(**ask, stream_options={'include_usage': True}).wants_usage
    assert not CompletionRequest(**ask).wants_usage
