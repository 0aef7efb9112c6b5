"""Mutated HTTP requests: of valid ones, the bytes, the JSON, the headers, the path and the method are changed."""

import copy
import json

from tests.support.raw_http import head

TEXT = {'prompt': 'def f(x):', 'max_tokens': 2, 'temperature': 0, 'logprobs': 2, 'stop': ['\n'], 'seed': 1, 'n': 2}
CHAT = {
    'messages': [{'role': 'system', 'content': 'Hi.'}, {'role': 'user', 'content': [{'type': 'text', 'text': 'a'}]}],
    'max_completion_tokens': 2, 'stream': True, 'stream_options': {'include_usage': True}, 'tools': [],
    'logprobs': True, 'top_logprobs': 1, 'logit_bias': {}, 'response_format': {'type': 'text'}, 'user': 'me',
}  # fmt: skip
VALID = [
    ('POST', '/v1/completions', {'model': 'text'} | TEXT),
    ('POST', '/v1/completions', {'model': 'text_to_text', 'prompt': [[5, 6], [7]], 'max_tokens': 1}),
    ('POST', '/v1/chat/completions', {'model': 'text'} | CHAT),
    ('POST', '/v1/chat/completions', {'model': 'chat'} | CHAT),
    ('POST', '/v1/classify', {'model': 'classes', 'input': ['a', 'naïve 中文'], 'user': 'me'}),
    ('POST', '/v1/classify', {'model': 'pairs', 'input': 'a', 'second_input': 'b'}),
    ('POST', '/v1/tag', {'model': 'tags', 'input': ['Ann met Bob.', 'No one.']}),
    ('GET', '/v1/models', None), ('GET', '/v1/models/text', None), ('GET', '/health', None), ('GET', '/ready', None),
    ('GET', '/metrics', None), ('GET', '/', None), ('GET', '/openapi.json', None),
]  # fmt: skip
VALUES = [
    None, True, False, 0, -1, 1, 1.5, -0.0, 10**400, -(2**63), 2**64, 1e308, float('nan'), float('inf'), '', 'a', ' ',
    '\0', '\ud800', '\U0010ffff', 'x' * 5000, '𝔘' * 70, '\u202e</script>', '%s{0}', [], [[]], [None], [0], [''],
    ['a'] * 70, {}, {'a': {}}, {'type': 'text'}, [[5]], [{'role': 'user', 'content': 'a'}], {'\ud800': 1}, [1] * 3000,
]  # fmt: skip
NAMES = [
    'model',
    'prompt',
    'messages',
    'input',
    'stop',
    'n',
    'echo',
    'role',
    'content',
    'top_k',
    '',
    '\0',
    'constructor',
]
HEADERS = {
    'Content_Type': ['text/plain', '', 'application/json; charset=utf-16', 'multipart/form-data; boundary=x', 'json'],
    'Content_Encoding': ['gzip', 'br'], 'Transfer_Encoding': ['chunked', 'gzip', 'chunked, chunked'],
    'Expect': ['100-continue', 'x'], 'Connection': ['Upgrade', 'close'], 'Upgrade': ['websocket', 'h2c'],
    'Authorization': ['Bearer', 'Basic ' + 'x' * 5000], 'X_A': ['\x01', 'a' * 70_000, 'é'], 'Range': ['bytes=0-'],
    'Accept_Encoding': ['gzip'], 'Host': ['evil', ''], 'Content_Length': ['-1', '5', '99999999999999999999', 'x'],
    'Origin': ['null'],
}  # fmt: skip
PATHS = [
    '/../etc/passwd', '/v1/models/%00', '/v1/models/%ff', '/v1/models/../..', '//v1/models', '/v1/completions/', '/?',
    '/v1/models/' + 'a' * 3000, '/v1/completions?model=x', '/%', '/docs', '*', 'http://x/', '/v1/models/%2e%2e%2f',
]  # fmt: skip
METHODS = ['GET', 'POST', 'PUT', 'DELETE', 'HEAD', 'OPTIONS', 'PATCH', 'TRACE', 'CONNECT', 'get', 'X' * 50]


def mutated(rng):
    """A request as bytes, made of a valid one by some of the changes; `rng` is a `random.Random`."""
    method, path, body = copy.deepcopy(rng.choice(VALID))
    headers, kind = {}, rng.choice(('json', 'json', 'json', 'json', 'bytes', 'bytes', 'headers', 'path', 'raw', 'none'))
    if body is not None and kind == 'json':
        for _ in range(rng.randint(1, 3)):
            body = _changed(rng, body)
    content = b'' if body is None else _dumped(rng, body)
    if kind == 'bytes':
        content = _changed_bytes(rng, content)
    if kind == 'path':
        method, path = rng.choice((method, *METHODS)), rng.choice((path, *PATHS))
    length = len(content)
    if kind == 'headers':
        name = rng.choice(list(HEADERS))
        headers[name] = rng.choice(HEADERS[name])
        length = None if name in ('Content_Length', 'Transfer_Encoding') else length
    headers.setdefault('Connection', 'close')
    request = head(method, path, length, **headers) + content
    return _changed_bytes(rng, request) if kind == 'raw' else request


def _any_value(rng):
    """A value of its own, which later changes may change."""
    return copy.deepcopy(rng.choice(VALUES))


def _changed(rng, value):
    """JSON with a change somewhere in it."""
    if isinstance(value, dict) and value and rng.random() < 0.85:
        name = rng.choice(list(value))
        choice = rng.random()
        if choice < 0.15:
            del value[name]
        elif choice < 0.3:
            value[rng.choice(NAMES)] = _any_value(rng)
        elif choice < 0.65:
            value[name] = _any_value(rng)
        else:
            value[name] = _changed(rng, value[name])
        return value
    if isinstance(value, list) and value and rng.random() < 0.85:
        index = rng.randrange(len(value))
        changes = [value[:index] + value[index + 1 :], [*value, value[index]], [value], value * 40]
        value[index] = _changed(rng, value[index])
        return rng.choice([value, value, *changes])
    if isinstance(value, str) and value and rng.random() < 0.4:
        index = rng.randrange(len(value))
        return value[:index] + chr(rng.randrange(0x11000)) + value[index:]
    return _any_value(rng)


def _dumped(rng, body):
    """JSON as bytes: usually UTF-8, sometimes with escapes, of another encoding, with a key twice, or very deep."""
    text = json.dumps(body, ensure_ascii=rng.random() < 0.7)
    choice = rng.random()
    if choice < 0.02:
        return text.encode(rng.choice(('utf-16', 'utf-32', 'utf-8-sig')), 'surrogatepass')
    if choice < 0.04 and text.startswith('{') and len(text) > 2:
        return f'{{{text[1:-1]}, {text[1:]}'.encode('utf-8', 'surrogatepass')
    if choice < 0.06:
        return rng.choice((b'[', b'{"a":', b'{"prompt":[')) * 3000
    return text.encode('utf-8', 'surrogatepass')


def _changed_bytes(rng, content):
    """Bytes of which some are flipped, left out, repeated or new, or whose end is cut off."""
    content = bytearray(content)
    for _ in range(rng.randint(1, 4)):
        index = rng.randrange(len(content) + 1)
        choice = rng.randrange(5)
        if choice == 0 and content:
            content[index % len(content)] ^= 1 << rng.randrange(8)
        elif choice == 1:
            del content[index : index + rng.randint(1, 9)]
        elif choice == 2:
            content[index:index] = content[index : index + 50]
        elif choice == 3:
            content[index:index] = bytes(rng.randrange(256) for _ in range(rng.randint(1, 4)))
        else:
            del content[index:]
    return bytes(content)
