"""Dialogues by the chat template of the base: the tokens and masks of Transformers, also of what is too long."""

import json

import numpy as np
import pytest

from palm_jax.data.supervised.conversations import Dialogues
from palm_jax.data.supervised.text_to_text import TextToText
from palm_jax.data.vocabulary.vocabularies import HuggingFace
from palm_jax.errors import UserError
from tests.support.chats import template, write_chat_tokenizer


@pytest.fixture(params=[('chatml', '<|im_end|>'), ('turns', '</s>')], ids=['chatml', 'turns'])
def base(request, tmp_path):
    """(tokenizer of Transformers with marked replies, path of the vocabulary of a run, vocabulary)."""
    style, eos = request.param
    theirs = write_chat_tokenizer(tmp_path, template(style), eos)
    HuggingFace(str(tmp_path / 'tokenizer.json'), of_base=True).save(tmp_path)
    theirs.chat_template = template(style, with_blocks=True)
    return theirs, str(tmp_path / 'vocabulary.json'), HuggingFace(str(tmp_path / 'vocabulary.json'))


def data(path, vocabulary, rows, **options):
    file = path / 'chats.jsonl'
    file.write_text('\n'.join(json.dumps({'messages': row}) for row in rows))
    lengths = options.pop('lengths', {'inputs': 90, 'targets': 90})
    return TextToText(Dialogues(str(file), str(file)), lengths, vocabulary, chat_template=True, **options)


def message(role, content, **others):
    return {'role': role, 'content': content, **others}


CHAT = [message('user', 'What is 3²?'), message('assistant', 'It is 9.'), message('user', 'And 4²?'),
        message('assistant', '16 😀')]  # fmt: skip


def expected(theirs, chat):
    """Inputs, targets and weights of a chat, from Transformers' tokens and mask, up to the last learned token."""
    found = theirs.apply_chat_template(chat, return_dict=True, return_assistant_tokens_mask=True)
    ids, mask = found['input_ids'], found['assistant_masks']
    end = len(mask) - mask[::-1].index(1)
    return ids[: end - 1], ids[1:end], mask[1:end]


def of_row(vocabulary, row):
    count = int(np.flatnonzero(row['decoder_loss_weights'])[-1]) + 1
    tokens = [vocabulary.original_ids[row[f'decoder_{name}_tokens'][:count]].tolist() for name in ('input', 'target')]
    return (*tokens, row['decoder_loss_weights'][:count].tolist())


def test_the_loss_counts_the_replies_that_transformers_masks(base, tmp_path):
    theirs, name, vocabulary = base
    rows = [[*CHAT[:2]], CHAT, [message('user', str(n)) if i == 0 else m for n in range(3) for i, m in enumerate(CHAT)]]
    found = data(tmp_path, name, rows[:2] * 6, lengths={'inputs': 90, 'targets': 90})
    features = found.encode('train')
    assert len(features['decoder_input_tokens']) > 5
    for number, conversation in enumerate(found.examples('train')):
        chat = CHAT[: len(conversation.turns)]
        assert of_row(vocabulary, {k: v[number] for k, v in features.items()}) == expected(theirs, chat)
    packed = data(tmp_path, name, rows[:2] * 6, pack=True).first()
    first = {k: np.where(packed['decoder_segment_ids'] == 1, v, 0) for k, v in packed.items()}
    assert of_row(vocabulary, first) in (expected(theirs, CHAT), expected(theirs, CHAT[:2]))


def test_a_reply_that_is_only_read_is_not_learned(base, tmp_path):
    _, name, vocabulary = base
    chat = [*CHAT[:1], CHAT[1] | {'weight': 0}, *CHAT[2:]]
    _, targets, weights = of_row(vocabulary, data(tmp_path, name, [chat] * 12).first())
    learned = [i for i, w in zip(targets, weights, strict=True) if w]
    text = vocabulary._tokenizer.decode(learned, skip_special_tokens=False)
    assert text.startswith('16 😀<') and '9' not in text


def test_prompts_end_where_the_reply_begins(base, tmp_path):
    theirs, name, vocabulary = base
    found = data(tmp_path, name, [CHAT] * 30)
    prompt = theirs.apply_chat_template(CHAT[:3], add_generation_prompt=True, return_dict=True)['input_ids']
    assert vocabulary.original_ids[list(found.prompt(CHAT[:3]))].tolist() == prompt
    alone = theirs.apply_chat_template(CHAT[:1], add_generation_prompt=True, return_dict=True)['input_ids']
    assert vocabulary.original_ids[list(found.prompt('What is 3²?'))].tolist() == alone
    assert found.stop == (() if theirs.eos_token == '<|im_end|>' else ('<end_of_turn>',))
    assert sorted(vocabulary.original_ids[list(p.ids)].tolist() for p in found.prompts()) == sorted([alone, prompt])


def test_what_is_too_long_loses_its_oldest_messages(base, tmp_path, caplog):
    _, name, vocabulary = base
    chat = [message(role, f'{n} ' + 'word ' * 4) for n in range(6) for role in ('user', 'assistant')]
    found = data(tmp_path, name, [chat] * 12, lengths={'inputs': 70, 'targets': 40})
    sequences, was_truncated = found._format.sequences(found.examples('train')[0].turns)
    assert len(sequences) > 1 and all(len(s.ids) <= 110 for s in sequences) and not was_truncated
    learned = ''.join(
        vocabulary.decode([i for i, keep in zip(*sequence, strict=True) if keep]) for sequence in sequences
    )
    assert [learned.count(f'{n} word') for n in range(6)] == [1] * 6  # every reply once, after messages before it
    for sequence in sequences:
        text = vocabulary.decode(sequence.ids)
        first = text[: text.index('word')].split()[-1]
        assert text.count(f'{first} word') == 2  # the oldest message is a question, with its reply
    # A message that is too long alone is cut at its end; so is a reply.
    prompt = vocabulary.decode(found.prompt([message('user', 'begin ' + 'x y ' * 99)]))
    assert 'begin x y' in prompt and len(found.prompt('x y ' * 99)) <= 70
    long = [message('user', 'q'), message('assistant', 'z ' * 99)]
    found = data(tmp_path, name, [long] * 12, lengths={'inputs': 70, 'targets': 20})
    weights = found.first()['decoder_loss_weights']
    assert weights.sum() <= 21 and found.first()['decoder_target_tokens'][np.flatnonzero(weights)[-1]] != 0
    assert '12 examples' in caplog.text or 'are truncated' in caplog.text
    with pytest.raises(UserError, match='chat template alone takes'):
        data(tmp_path, name, [long] * 12, lengths={'inputs': 4, 'targets': 20}).first()


def test_a_chat_that_the_template_refuses_is_named(base, tmp_path):
    theirs, name, vocabulary = base
    chat = [*CHAT[:2], *CHAT[:1] * 2, CHAT[1]]
    if theirs.eos_token == '<|im_end|>':  # its template takes roles in any order
        assert of_row(vocabulary, data(tmp_path, name, [chat] * 12).first()) == expected(theirs, chat)
        return
    with pytest.raises(UserError, match=r'chats\.jsonl, line \d+.*refuses the messages: roles must alternate'):
        data(tmp_path, name, [chat] * 12).first()


def test_without_it_turns_are_as_ever(base, tmp_path):
    _, name, vocabulary = base
    found = data(tmp_path, name, [CHAT[:2]] * 12)
    found._uses_template = False
    assert vocabulary.decode(found.prompt('a b')) == 'a b' and found.stop == ()
