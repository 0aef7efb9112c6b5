"""Chat templates write what Transformers writes, mark the replies that it marks, and cannot do harm."""

import json

import pytest

from palm_jax.data.vocabulary.chat_template import ChatTemplate
from palm_jax.data.vocabulary.vocabularies import HuggingFace
from palm_jax.errors import UserError
from tests.support.chats import STYLES, TOKENS, template, write_chat_tokenizer

CHATS = [
    [('user', 'What is 3²?')],
    [('user', ' two  blanks '), ('assistant', 'naïve — 中文 😀'), ('user', 'x\n'), ('assistant', ' 9. ')],
    [('user', 'a'), ('assistant', 'b'), ('user', 'a'), ('assistant', 'b'), ('user', '<b>{{ 1 }}"\'')],
]
WITH_SYSTEM = [('system', 'Answer in one word.'), *CHATS[1]]


def messages(turns):
    return [{'role': role, 'content': content} for role, content in turns]


@pytest.fixture(params=STYLES)
def both(request, tmp_path):
    """(style, tokenizer of Transformers, ours) with one template."""
    theirs = write_chat_tokenizer(tmp_path, template(request.param))
    return request.param, theirs, HuggingFace(str(tmp_path / 'tokenizer.json'), of_base=True)


def test_texts_and_tokens_are_those_of_transformers(both):
    style, theirs, ours = both
    for turns in [*CHATS, *([] if style == 'turns' else [WITH_SYSTEM])]:
        for prompt in (False, True):
            chat = messages(turns)
            text = ours.chat_template.render(chat, add_generation_prompt=prompt)
            assert text == theirs.apply_chat_template(chat, tokenize=False, add_generation_prompt=prompt)
            ids = theirs.apply_chat_template(chat, add_generation_prompt=prompt, return_dict=True)['input_ids']
            assert ours.original_ids[ours.encode(text)].tolist() == ids


def test_replies_are_those_of_transformers(both):
    """With `{% generation %}`, and without as where the blocks would be."""
    style, theirs, ours = both
    marked = template(style, with_blocks=True)
    assert marked.count('endgeneration') == 1
    theirs.chat_template = marked
    with_blocks = ChatTemplate(marked, ours.special_tokens, ours._added)
    for turns in [*CHATS[1:], *([] if style == 'turns' else [WITH_SYSTEM])]:
        chat = messages(turns)
        expected = theirs.apply_chat_template(chat, return_dict=True, return_assistant_tokens_mask=True)
        replies = [n for n, message in enumerate(chat) if message['role'] == 'assistant']
        for found in (with_blocks.replies(chat, replies), ours.chat_template.replies(chat, replies)):
            ids, learned = ours.encode_marked(*found)
            assert ours.original_ids[ids].tolist() == expected['input_ids']
            assert [int(m) for m in learned] == expected['assistant_masks'] and sum(learned) > 2
        text, (span,) = with_blocks.replies(chat, replies[-1:])  # only the last one is learned
        assert (text, [span]) == ours.chat_template.replies(chat, replies[-1:])
        assert turns[replies[-1]][1].strip() in text[slice(*span)]


def test_what_ends_a_reply_is_in_the_template(tmp_path):
    def of(style, eos):
        folder = tmp_path / (style + eos.strip('</|>'))
        folder.mkdir(exist_ok=True)
        write_chat_tokenizer(folder, template(style), eos_token=eos)
        return HuggingFace(str(folder / 'tokenizer.json'), of_base=True).chat_template

    assert (of('chatml', '<|im_end|>').end, of('chatml', '<|im_end|>').stop) == ('<|im_end|>', ())
    assert of('chatml', '<|endoftext|>').stop == ('<|im_end|>',)
    assert of('turns', '</s>').stop == ('<end_of_turn>',)
    assert of('inst', '</s>').stop == ()
    plain = '{% for m in messages %}### {{ m.role }}:\n{{ m.content }}\n\n{% endfor %}'
    assert ChatTemplate(plain, {'eos_token': '</s>'}, TOKENS).stop == ('### user:',)
    assert ChatTemplate('no messages', {}, TOKENS).stop == ()


def test_a_template_that_writes_past_replies_otherwise_holds_one_in_a_text():
    thinking = ("{% for m in messages %}{{ m.role }}:{{ m.content if loop.last else m.content.split('</think>')[-1] }}"
                '<|im_end|>{% endfor %}{% if add_generation_prompt %}assistant:{% endif %}')  # fmt: skip
    found = ChatTemplate(thinking, {}, TOKENS)
    chat = messages([('user', 'q'), ('assistant', 'why</think>a'), ('user', 'r'), ('assistant', 'so</think>b')])
    assert found.replies(chat, [1, 3]) is None
    text, (span,) = found.replies(chat, [3])
    assert text[slice(*span)] == 'so</think>b<|im_end|>' and 'why' not in text


BAD = {
    '{% for m in messages %}': 'line 1, is not valid Jinja: Unexpected end of template',
    "\n{{ raise_exception('only questions') }}": 'refuses the messages: only questions',
    "{{ ''.__class__.__mro__ }}": 'access to attribute .__class__. of .str. object is unsafe',
    "{{ messages.append('x') }}": 'access to attribute .append. of .list. object is unsafe',
    "{% set ns = namespace() %}{% set ns.__class__ = 1 %}": 'must not have the attribute',
    "{{ dict.__subclasses__() }}": 'has no attribute .__subclasses__',
    '{{ messages[9].content }}': 'has no element 9|undefined',
    "{{ 1 + 'a' }}": 'unsupported operand',
    '{% for i in range(10000000) %}{% endfor %}': 'Range too big',
    "{% include 'x' %}": 'no loader',
}  # fmt: skip


@pytest.mark.parametrize('text', BAD)
def test_a_template_that_fails_is_one_message(text):
    with pytest.raises(UserError, match=BAD[text]):
        ChatTemplate(text, {}, ()).render(messages(CHATS[0]))


def test_what_templates_of_transformers_call():
    text = "{{ {'é': [1, '<']} | tojson }} {{ strftime_now('%Y') | int > 2000 }} {{ dict(a=1) }} {{ x is defined }}"
    assert ChatTemplate(text, {}, ()).render([]) == '{"é": [1, "<"]} True {\'a\': 1} False'
    developer = ChatTemplate('{{ messages[0].role }}', {}, ()).render(messages([('developer', 'x')]))
    assert developer == 'system'


def test_a_template_stays_with_the_run(both, tmp_path):
    _, _, ours = both
    (tmp_path / 'run').mkdir()
    ours.save(tmp_path / 'run')
    content = json.loads((tmp_path / 'run' / 'vocabulary.json').read_text())
    again = HuggingFace(str(tmp_path / 'run' / 'vocabulary.json'))
    assert again.chat_template.text == content['chat_template'] == ours.chat_template.text
    assert again.special_tokens == ours.special_tokens and again.fingerprint == ours.fingerprint
