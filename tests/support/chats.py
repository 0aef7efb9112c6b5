"""Chat templates in the styles of well-known models, and tokenizers with them."""

import json

import pytest

from tests.support.published import write_tokenizer

transformers = pytest.importorskip('transformers')

TOKENS = ('<|im_start|>', '<|im_end|>', '<|endoftext|>', '<start_of_turn>', '<end_of_turn>', '<s>', '</s>')
_CHATML = """{%- if messages[0]['role'] != 'system' %}
    {{- '<|im_start|>system\\nYou are small.<|im_end|>\\n' }}
{%- endif %}
{%- for message in messages %}
    {%- if message.role == 'assistant' %}
        {{- '<|im_start|>assistant\\n' }}[{{- message['content'] + '<|im_end|>' }}]{{- '\\n' }}
    {%- else %}
        {{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}"""
_TURNS = """{{ bos_token }}{% if messages[0]['role'] == 'system' %}
{{ raise_exception('a system message is not supported') }}
{% endif %}
{% for message in messages %}
{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
{{ raise_exception('roles must alternate') }}
{% endif %}
{% set role = 'model' if message['role'] == 'assistant' else message['role'] %}
{% if role == 'model' %}
{{ '<start_of_turn>model\\n' }}[{{ message['content'] | trim + '<end_of_turn>' }}]{{ '\\n' }}
{% else %}
{{ '<start_of_turn>' + role + '\\n' + message['content'] | trim + '<end_of_turn>\\n' }}
{% endif %}
{% endfor %}
{% if add_generation_prompt %}
{{ '<start_of_turn>model\\n' }}
{% endif %}"""
_INST = """{% set ns = namespace(system='') %}{% for m in messages %}
{% if m.role == 'system' %}{% set ns.system = m.content + '\\n\\n' %}{% continue %}{% endif %}
{% if m.role == 'user' %}
{{ bos_token + '[INST] ' + ns.system + m.content + ' [/INST]' }}
{% set ns.system = '' %}
{% else %}
[{{ ' ' + m.content + ' ' + eos_token }}]{% endif %}
{% endfor %}"""
_BLOCK = ('{% generation %}', '{% endgeneration %}')
STYLES = {'chatml': _CHATML, 'turns': _TURNS, 'inst': _INST}


def template(style, with_blocks=False):
    """The Jinja of a style, with `{% generation %}` around the replies or without."""
    begin, end = _BLOCK if with_blocks else ('', '')
    return STYLES[style].replace('}[{', '}' + begin + '{').replace('}]', '}' + end).replace('\n[{', '\n' + begin + '{')


def write_chat_tokenizer(directory, text, eos_token='<|im_end|>'):
    """Writes a tokenizer with `TOKENS` and a chat template; returns it."""
    fast = write_tokenizer(directory)
    fast.add_special_tokens({'additional_special_tokens': list(TOKENS)})
    fast.eos_token, fast.chat_template = eos_token, text
    fast.save_pretrained(directory)
    settings = json.loads((directory / 'tokenizer_config.json').read_text())
    assert settings['eos_token'] == eos_token
    return transformers.AutoTokenizer.from_pretrained(directory)
