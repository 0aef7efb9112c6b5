"""Chats with imported bases: as their template writes them, by HTTP, in Python, and after fine-tuning on dialogues."""

import json

import numpy as np
import pytest

from palm_jax import api
from palm_jax.errors import UserError
from palm_jax.exchange import imports
from palm_jax.inference.beam import BeamSearch
from palm_jax.inference.generate import Sampler
from palm_jax.serving.models import ServedModel
from tests.support import http
from tests.support.chats import template, write_chat_tokenizer
from tests.support.random_models import made
from tests.support.server import running

CHAT = [{'role': 'user', 'content': 'What is 3²?'}, {'role': 'assistant', 'content': '9'},
        {'role': 'user', 'content': 'And 4²?'}]  # fmt: skip
GREEDY = Sampler(temperature=0.0, max_tokens=6)


@pytest.fixture(scope='module')
def bases(tmp_path_factory):
    """(tokenizer of Transformers, MODEL_DIR of the imported base) by the style of its template."""
    found = {}
    for style, eos in (('chatml', '<|im_end|>'), ('turns', '</s>')):
        folder = tmp_path_factory.mktemp(style)
        made('Llama', {'max_position_embeddings': 128}, folder / 'theirs')
        tokenizer = write_chat_tokenizer(folder / 'theirs', template(style), eos)
        imports.from_hf(folder / 'theirs', folder / 'ours')
        found[style] = tokenizer, folder / 'ours'
    return found


def test_a_base_that_was_not_fine_tuned_answers_a_chat(bases):
    """Until the token of its template, which is not the EOS of this base."""
    for style, (tokenizer, folder) in bases.items():
        model = api.load(folder)
        prompt = tokenizer.apply_chat_template(CHAT, add_generation_prompt=True, return_dict=True)['input_ids']
        ids, stop = model.predictor.chat_prompt(model, CHAT)
        assert model.data.vocabulary.text.original_ids[list(ids)].tolist() == prompt
        assert stop == (('<end_of_turn>',) if style == 'turns' else ())
    ((first, *_),) = model.predictor.complete_ids(model, [ids], GREEDY)
    model = api.load(folder)
    output = np.array(model.params['embed']['output'])
    output[model.data.vocabulary.encode('<end_of_turn>')] = 1.5 * output[first.ids[1]]  # written in place of the second
    model.params['embed']['output'] = output
    said = model.chat(CHAT, GREEDY)
    assert said == model.data.vocabulary.decode(first.ids[:1]).lstrip()
    assert '<end_of_turn>' not in model.chat(CHAT, BeamSearch(num_beams=2, max_tokens=6))
    body = {'model': 'it', 'messages': CHAT, 'temperature': 0, 'max_tokens': 6}
    refused = [{'role': 'system', 'content': 'Be brief.'}, *CHAT]
    with running({'it': ServedModel('it', model)}, slots=1) as site:
        answer = http.post(f'{site.url}/v1/chat/completions', json=body).json()
        assert answer['usage']['prompt_tokens'] == len(prompt)
        (choice,) = answer['choices']
        assert (choice['finish_reason'], choice['message']['content']) == ('stop', said)
        answer = http.post(f'{site.url}/v1/chat/completions', json=body | {'messages': refused})
        assert answer.status_code == 400
        assert 'chat template refuses the messages: a system message is not' in answer.json()['error']['message']
        assert http.get(f'{site.url}/health').status_code == 200
    with pytest.raises(UserError, match='a system message is not supported'):
        model.chat(refused)


@pytest.mark.parametrize(
    'given, message',
    [
        (None, 'The messages are None'),
        ([], 'no message to reply to'),
        ({'role': 'user', 'content': 'a'}, 'give a text, or a list'),
        (['a'], "Message 1 is 'a'"),
        ([{'role': 'user'}], "Message 1 has no text under 'content'. Its keys: role"),
        ([*CHAT, {'role': 'bot', 'content': 'a'}], "Message 4 has the role 'bot'. Known: system"),
        ([{'role': 'user', 'content': 'a\0'}], 'Message 1'),
        ('x ' * 200, 'the context length is 128'),
    ],
)
def test_what_is_not_a_chat_is_one_message(bases, given, message):
    with pytest.raises(UserError, match=message.replace('.', r'\.')):
        api.load(bases['chatml'][1]).chat(given)


@pytest.mark.slow
def test_fine_tuning_on_dialogues_reads_and_writes_as_the_base(bases, tmp_path):
    tokenizer, base = bases['chatml']
    rows = [{'messages': [*CHAT[:1], {'role': 'assistant', 'content': f'{n}'}]} for n in range(20)]
    rows += [{'messages': [*CHAT, {'role': 'assistant', 'content': f'{n}'}]} for n in range(20)]
    (tmp_path / 'chats.jsonl').write_text('\n'.join(map(json.dumps, rows)))
    options = {'TRAIN_STEPS': 2, 'BATCH_SIZE': 2, 'METRICS': ['chrf'], 'EVAL_EXAMPLES': 1, 'MAX_NEW_TOKENS': 4,
               'TASK_FEATURE_LENGTHS': {'inputs': 90, 'targets': 20}}  # fmt: skip
    model = api.finetune(
        tmp_path / 'chats.jsonl',
        base,
        tmp_path / 'mine',
        ['gin/finetune_lora.gin', 'gin/heads/dialogue.gin'],
        **options,
    )
    (tmp_path / 'chats.jsonl').unlink()  # a trained model no longer needs it
    prompt = tokenizer.apply_chat_template(CHAT, add_generation_prompt=True, return_dict=True)['input_ids']
    ids, _ = model.predictor.chat_prompt(model, CHAT)
    assert model.data.vocabulary.original_ids[list(ids)].tolist() == prompt
    assert model.chat(CHAT) == model.generate([CHAT])[0]
    own = api.load(tmp_path / 'mine', CHAT_TEMPLATE=False)
    assert own.data.vocabulary.decode(own.data.prompt(CHAT)) == ''.join(m['content'] for m in CHAT)
