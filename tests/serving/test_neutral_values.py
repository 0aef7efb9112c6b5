"""What changes nothing is accepted: every neutral value of OpenAI's parameters, and those that other clients send."""

import inspect

import openai
import pytest
from openai.types import completion_create_params
from openai.types.chat import chat_completion_message
from openai.types.chat import completion_create_params as chat_create_params
from pydantic import ValidationError

from palm_jax.serving import request_bodies
from tests.support import http
from tests.support.server import running

# field: values that change nothing, besides null, which changes nothing in any field.
SHARED = {
    'temperature': [1, 1.0], 'top_p': [1, 1.0], 'n': [1], 'stop': ['', [], [''], ['', '']], 'stream': [False],
    'stream_options': [{}, {'include_usage': False}, {'include_usage': None, 'include_obfuscation': False}],
    'seed': [], 'frequency_penalty': [0, 0.0, -0.0], 'presence_penalty': [0, 0.0], 'logit_bias': [{}, {'50256': 0}],
    'user': ['', 'me'],
}  # fmt: skip
COMPLETIONS = SHARED | {
    'best_of': [1], 'echo': [False], 'logprobs': [False], 'max_tokens': [16], 'suffix': [''],
}  # fmt: skip
CHATS = SHARED | {
    'audio': [], 'function_call': ['none', 'auto'], 'functions': [[]], 'logprobs': [False], 'max_completion_tokens': [],
    'max_tokens': [-1], 'metadata': [{}, {'run': '7'}], 'modalities': [['text']], 'moderation': [],
    'parallel_tool_calls': [True, False], 'prediction': [], 'prompt_cache_key': ['', 'k'],
    'prompt_cache_options': [{'mode': 'implicit'}], 'prompt_cache_retention': ['in_memory', '24h'],
    'reasoning_effort': ['none'], 'response_format': [{'type': 'text'}], 'safety_identifier': ['me'],
    'service_tier': ['auto', 'default'], 'store': [False], 'tool_choice': ['none', 'auto'], 'tools': [[]],
    'top_logprobs': [0], 'verbosity': ['medium'], 'web_search_options': [],
}  # fmt: skip
OTHER_CLIENTS = {
    'top_k': [0, -1], 'min_p': [0], 'repetition_penalty': [1, 1.0], 'metadata': [{}], 'store': [False],
    'service_tier': ['auto'], 'response_format': [{'type': 'text'}],
    # vLLM, SGLang
    'use_beam_search': [False], 'length_penalty': [1.0], 'ignore_eos': [False], 'min_tokens': [0], 'priority': [0],
    'stop_token_ids': [[]], 'include_stop_str_in_output': [False], 'skip_special_tokens': [True], 'bad_words': [[]],
    'spaces_between_special_tokens': [True], 'request_id': ['x'], 'return_tokens_as_token_ids': [False],
    'truncate_prompt_tokens': [-1], 'regex': [''], 'cache_salt': ['x'], 'guided_json': [], 'kv_transfer_params': [],
    # llama.cpp, Text Generation Inference, OpenRouter
    'cache_prompt': [True, False], 'repeat_penalty': [1], 'typical_p': [1], 'mirostat': [0], 'grammar': [''],
    'xtc_probability': [0.0], 'dry_multiplier': [0.0], 'n_probs': [0], 'id_slot': [-1], 'timings_per_token': [False],
    'return_full_text': [False], 'watermark': [False], 'transforms': [[]], 'provider': [{}],
}  # fmt: skip
CHAT_TEMPLATES = {
    'echo': [False], 'add_generation_prompt': [True], 'continue_final_message': [False], 'documents': [[]],
    'chat_template': [''], 'chat_template_kwargs': [{}], 'include_reasoning': [True], 'reasoning': [{}],
    'thinking': [{'type': 'disabled'}],
}  # fmt: skip
BODIES = {
    request_bodies.CompletionRequest: ({'model': 'base', 'prompt': 'abc'}, COMPLETIONS | OTHER_CLIENTS),
    request_bodies.ChatRequest: (
        {'model': 'base', 'messages': [{'role': 'user', 'content': 'abc'}]},
        CHATS | OTHER_CLIENTS | CHAT_TEMPLATES,
    ),
}
CHANGING = {
    'n': [0, 17, '1', 1.5, True], 'temperature': [-1, 11, '1', True, float('nan')], 'top_p': [0, 1.1],
    'stop': ['x' * 201, ['x'] * 9, [1], 5, {}], 'frequency_penalty': [0.1, '0', False, []],
    'logit_bias': [{'5': 101}, {'x': 1}, {'-1': 1}, {'5': '1'}, {'5': True}, {'5': float('nan')}, []],
    'best_of': [2], 'echo': [True, 0], 'suffix': ['x'], 'store': [True, 0], 'tools': [[{'type': 'function'}], {}, ''],
    'tool_choice': ['required', {}], 'response_format': [{'type': 'json_object'}, {}, 'text'], 'user': [5],
    'modalities': [['text', 'audio'], []], 'service_tier': ['flex'], 'reasoning_effort': ['high'], 'prediction': [{}],
    'metadata': [[]], 'min_tokens': [1], 'ignore_eos': [True], 'grammar': ['root ::= "x"'], 'repeat_penalty': [1.1],
    'web_search_options': [{}], 'audio': [{}],
}  # fmt: skip


@pytest.mark.parametrize('body_class', BODIES, ids=lambda c: c.__name__)
def test_a_neutral_value_is_the_same_as_none(body_class):
    body, table = BODIES[body_class]
    used = {'temperature', 'top_p', 'top_k', 'min_p', 'repetition_penalty', 'n', 'seed', 'stop', 'stream', 'max_tokens',
            'logprobs'}  # fmt: skip
    expected = body_class.model_validate(body).model_dump(include=used)
    for name, values in table.items():
        for value in (None, *values):
            found = body_class.model_validate(body | {name: value}).model_dump(include=used)
            if name == 'top_k':
                found['top_k'] = max(found['top_k'], 0)
            assert found == expected, (name, value)
    for name in ('logit_process', 'Temperature', ''):
        assert body_class.model_validate(body | {name: None}).model_dump(include=used) == expected


@pytest.mark.parametrize('body_class', BODIES, ids=lambda c: c.__name__)
def test_what_changes_something_is_refused_by_name(body_class):
    body, _ = BODIES[body_class]
    for name, values in CHANGING.items():
        for value in values if name in body_class.model_fields else ():
            with pytest.raises(ValidationError) as error:
                body_class.model_validate(body | {name: value})
            assert error.value.errors()[0]['loc'][0] == name, (name, value)


@pytest.mark.parametrize(
    'body_class, module',
    [(request_bodies.CompletionRequest, completion_create_params), (request_bodies.ChatRequest, chat_create_params)],
)
def test_every_parameter_of_openais_client_is_known(body_class, module):
    parameters = set(module.CompletionCreateParamsBase.__annotations__)
    assert len(parameters) > 15 and parameters <= body_class.model_fields.keys()
    tested = BODIES[body_class][1].keys() | BODIES[body_class][0].keys()
    assert parameters <= tested


def test_tools_that_may_not_be_called_change_nothing():
    body, _ = BODIES[request_bodies.ChatRequest]
    request_bodies.ChatRequest.model_validate(body | {'tools': [{'type': 'function'}], 'tool_choice': 'none'})
    with pytest.raises(ValidationError, match='models here call no tools'):
        request_bodies.ChatRequest.model_validate(body | {'tools': [{'type': 'function'}], 'tool_choice': 'auto'})


def test_an_answer_can_be_sent_back_as_the_client_holds_it():
    """OpenAI's client dumps a message with all its empty fields."""
    message = chat_completion_message.ChatCompletionMessage(role='assistant', content='yes').model_dump()
    assert len(message) > 4
    body, _ = BODIES[request_bodies.ChatRequest]
    for extra in ({}, {'tool_calls': []}, {'annotations': []}, {'reasoning_content': ''}):
        read = request_bodies.ChatRequest.model_validate(body | {'messages': [message | extra]})
        assert read.messages[0].content == 'yes'
    for extra in ({'tool_calls': [{'id': 'x'}]}, {'function_call': {}}, {'content': None}, {'role': 'tool'}):
        with pytest.raises(ValidationError, match=next(iter(extra))):
            request_bodies.ChatRequest.model_validate(body | {'messages': [message | extra]})


PARTS = {
    'a text': ('a b', 'a b'),
    'parts': ([{'type': 'text', 'text': 'a '}, {'type': 'text', 'text': 'b'}], 'a b'),
    'hints': ([{'type': 'text', 'text': 'a b', 'cache_control': {'type': 'ephemeral'}, 'annotations': None}], 'a b'),
    'no parts': ([], ''),
    'a picture': ([{'type': 'text', 'text': 'a'}, {'type': 'image_url', 'image_url': {}}], 'part 2.*"image_url"'),
    'too many': ([{'type': 'text', 'text': 'a'}] * 1001, 'a list of 1,001; at most 1,000 are allowed'),
    'no text': ([{'type': 'text'}], 'part 1: text must be a text, not null'),
    'half a character': ([{'type': 'text', 'text': 'a\ud83d'}], 'part 1.*lone surrogate U.D83D at character 2'),
    'a NUL': ('a\0', 'holds NUL at character 2'),
    'another field': ([{'type': 'text', 'text': 'a', 'texts': 'b'}], "unknown field 'texts'"),
    'an object': ({}, 'not an object'),
}


@pytest.mark.parametrize('name', PARTS)
def test_the_content_of_a_message(name):
    content, expected = PARTS[name]
    message = {'role': 'user', 'content': content}
    if isinstance(expected, str) and name in ('a text', 'parts', 'hints', 'no parts'):
        assert request_bodies.Message.model_validate(message).content == expected
    else:
        with pytest.raises(ValidationError, match=expected):
            request_bodies.Message.model_validate(message)


def test_answers_are_the_same_with_all_neutral_values(served):
    with running(served) as site:
        api = openai.OpenAI(base_url=f'{site.url}/v1', api_key='none', max_retries=0)
        for path, (body, table) in zip(('completions', 'chat/completions'), BODIES.values(), strict=True):
            body |= {'temperature': 0, 'max_tokens': 6}
            plain = http.post(f'{site.url}/v1/{path}', json=body, timeout=60).json()['choices']
            rounds = [{n: (v[k] if k < len(v) else None) for n, v in table.items()} for k in (0, 1, 9)]
            for neutral in rounds:
                answer = http.post(f'{site.url}/v1/{path}', json=neutral | body, timeout=60)
                assert answer.status_code == 200 and answer.json()['choices'] == plain, answer.text
        create = api.chat.completions.create
        given = {n: v[0] for n, v in CHATS.items() if v and n in inspect.signature(create).parameters}
        messages = [{'role': 'user', 'content': [{'type': 'text', 'text': 'abc'}]}]
        said = create(**(given | {'model': 'base', 'messages': messages, 'temperature': 0, 'max_tokens': 6}))
        assert len(given) > 25 and said.choices[0].message.content == plain[0]['message']['content']
        again = [{'role': 'user', 'content': 'abc'}, said.choices[0].message.model_dump()]
        assert create(model='base', messages=again, max_tokens=2).choices
