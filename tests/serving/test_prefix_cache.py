"""A system prompt that requests share is read once, and counted as OpenAI's API does."""

import functools

import openai
import pytest

from palm_jax.cli import serve
from palm_jax.errors import UserError
from palm_jax.inference import slots
from palm_jax.inference.prefix_cache import PrefixCache
from tests.support import http
from tests.support.server import alone, running

SYSTEM = 'Answer in a word or two.'


def test_what_requests_share_is_counted_and_changes_no_answer(served, monkeypatch):
    monkeypatch.setattr(slots, 'PrefixCache', functools.partial(PrefixCache, block=8))

    def ask(api, content, model='base', **more):
        messages = [{'role': 'system', 'content': SYSTEM}, {'role': 'user', 'content': content}]
        return api.chat.completions.create(
            model=model, messages=messages, max_completion_tokens=8, temperature=0, **more
        )

    with running(served, prefix_cache_bytes=1 << 20, prefill_chunk=16) as site:  # prompts are read in pieces
        api = openai.OpenAI(base_url=f'{site.url}/v1', api_key='none', max_retries=0)
        known = []
        for content, model in (('Hi', 'base'), ('Bye', 'base'), ('Bye', 'adapter'), ('Hi', 'adapter')):
            said = ask(api, content, model)
            shown = f'system: {SYSTEM}\nuser: {content}\nassistant:'
            assert said.choices[0].message.content == alone(served, model, shown, 8).lstrip()
            known.append(said.usage.prompt_tokens_details.cached_tokens)
        shared = len(f'.system: {SYSTEM}\nuser: ') // 8 * 8  # BOS and a token for each byte
        assert known == [0, shared, 0, shared] and shared == 40
        *_, last = ask(api, 'Hey', stream=True, n=2, stream_options={'include_usage': True})
        assert last.usage.prompt_tokens_details.cached_tokens == shared
        metrics = http.get(f'{site.url}/metrics').text
        assert f'palm_jax_cached_prompt_tokens_total{{model="base"}} {2.0 * shared}' in metrics
        assert f'palm_jax_prefix_cache_tokens {float(site.engine.num_kept)}' in metrics and site.engine.num_kept > 80
        assert 'palm_jax_reading 0.0' in metrics and 'palm_jax_active 0.0' in metrics
    with running(served) as site:
        api = openai.OpenAI(base_url=f'{site.url}/v1', api_key='none', max_retries=0)
        assert [ask(api, 'Hi').usage.prompt_tokens_details.cached_tokens for _ in range(2)] == [0, 0]


@pytest.mark.parametrize(('flag', 'default'), [('prefix_cache_bytes', 256 << 20), ('prefill_chunk', 512)])
def test_the_flag_has_a_default_and_a_bound(flag, default):
    parse = serve._parser().parse_args
    assert getattr(parse(['--model=x']), flag) == default
    assert getattr(parse(['--model=x', f'--{flag}=0']), flag) == 0
    with pytest.raises(UserError, match=f'--{flag}: -1 must be a whole number of at least 0'):
        parse(['--model=x', f'--{flag}=-1'])
