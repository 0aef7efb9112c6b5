"""Batches of pairs, questions and conversations: the loss counts the targets, and only them."""

import json

import jax
import numpy as np
import pytest

from palm_jax.data.readers import tables
from palm_jax.data.supervised.conversations import Dialogues, PairTable
from palm_jax.data.supervised.text_to_text import TextToText
from palm_jax.errors import UserError
from palm_jax.training.losses import LanguageModelLoss


def learned(data, row):
    """Return the text that the loss counts in a row."""
    return data.vocabulary.decode(row['decoder_target_tokens'][row['decoder_loss_weights'] > 0])


def rows(data):
    return [{name: values[0] for name, values in data.batch(i, 1).items()} for i in range(data.num_sequences)]


@pytest.fixture
def pairs(tmp_path):
    path = tmp_path / 'pairs.csv'
    path.write_text('mr,ref\n"cold","It is cold."\nhot,It is hot.\nhot,So hot!\n')
    return PairTable(str(path), str(path), 'say: {mr}', '{ref}')


def test_the_loss_is_on_the_target_and_its_end(pairs):
    data = TextToText(pairs, {'inputs': 16, 'targets': 16}, 'bytes')
    assert data.num_sequences == 3 and data.length == 32
    for row in rows(data):
        ids = row['decoder_target_tokens']
        end = np.flatnonzero(ids)[-1]
        assert ids[end] == 1 and row['decoder_loss_weights'][end] == 1  # the end mark is learned
        assert learned(data, row) in ('It is cold.', 'It is hot.', 'So hot!')
        np.testing.assert_array_equal(row['decoder_input_tokens'][1 : end + 1], ids[:end])
        assert row['decoder_input_tokens'][0] == 0 and data.vocabulary.decode(ids).startswith('say: ')


def test_a_prefix_is_seen_both_ways_up_to_the_first_learned_token(pairs):
    data = TextToText(pairs, {'inputs': 16, 'targets': 16}, 'bytes', bidirectional=True)
    for row in rows(data):
        prefix, weights = row['decoder_causal_attention'], row['decoder_loss_weights']
        # the input that predicts the first learned target is the prefix's last: the input's end mark
        assert prefix.sum() == np.flatnonzero(weights)[0] + 1
        assert row['decoder_input_tokens'][prefix.sum() - 1] == 1


def test_prompts_are_what_training_reads_and_equal_ones_share_their_references(pairs):
    data = TextToText(pairs, {'inputs': 16, 'targets': 16}, 'bytes')
    prompts = {prompt.text: prompt for prompt in data.prompts()}
    assert prompts['say: hot'].references == ('It is hot.', 'So hot!')
    assert prompts['say: cold'].ids == (0, *data.vocabulary.encode('say: cold'), 1)


def test_what_is_too_long_is_cut_where_it_says(pairs, caplog):
    data = TextToText(pairs, {'inputs': 7, 'targets': 5}, 'bytes')
    for row in rows(data):
        assert learned(data, row) in ('It i', 'So h')
        assert data.vocabulary.decode(row['decoder_target_tokens']).startswith('say: ')
    assert '3 of 3 train examples (100%) are longer than 7 + 5 tokens' in caplog.text
    assert all(len(prompt.ids) <= 7 for prompt in data.prompts())


def dialogue(*texts, roles=None):
    by_role = [{'role': role} for role in roles] if roles else [{} for _ in texts]
    return {'messages': [{'message': text} | role for text, role in zip(texts, by_role, strict=True)]}


def test_replies_are_learned_and_long_dialogues_become_several_sequences(tmp_path):
    path = tmp_path / 'chat.json'
    path.write_text(json.dumps([dialogue('q1', 'a1', 'q2', 'a2', 'q3', 'a3')]))
    whole = TextToText(Dialogues(str(path), str(path)), {'inputs': 16, 'targets': 16}, 'bytes')
    (row,) = rows(whole)
    assert learned(whole, row) == 'a1a2a3' and whole.vocabulary.decode(row['decoder_target_tokens']) == 'q1a1q2a2q3a3'
    parts = TextToText(Dialogues(str(path), str(path)), {'inputs': 10, 'targets': 4}, 'bytes')
    assert sorted(learned(parts, row) for row in rows(parts)) == ['a1a2', 'a3']
    # The last reply is learned behind as much of its history as fits: the oldest turn is left out.
    (last,) = (row for row in rows(parts) if learned(parts, row) == 'a3')
    assert parts.vocabulary.decode(last['decoder_target_tokens']) == 'q2a2q3a3'
    assert [prompt.references for prompt in whole.prompts()] == [('a1',), ('a2',), ('a3',)]
    assert whole.prompts()[1].text == 'q1\na1\nq2'


def test_roles_say_who_is_learned(tmp_path):
    path = tmp_path / 'chat.jsonl'
    roles = ['system', 'user', 'assistant']
    path.write_text(json.dumps(dialogue('be kind', 'hello', 'hi', roles=roles)) + '\n')
    data = TextToText(Dialogues(str(path), str(path)), {'inputs': 32, 'targets': 16}, 'bytes')
    assert learned(data, rows(data)[0]) == 'hi'
    path = tmp_path / 'mistake.jsonl'
    path.write_text(json.dumps(dialogue('a', 'b', roles=['user', 'asistant'])) + '\n')
    with pytest.raises(UserError, match=r"line 1, message 2: the role 'asistant' is unknown.*mean assistant"):
        Dialogues(str(path), None, held_out=1).examples('validation')


def test_questions_of_squad(tmp_path):
    answers = [{'text': text, 'answer_start': 0} for text in ('blue', 'Blue', 'blue')]
    qas = [{'id': 'x', 'question': 'What?', 'answers': answers}, {'id': 'y', 'question': 'Why?', 'answers': []}]
    path = tmp_path / 'squad.json'
    path.write_text(json.dumps({'data': [{'paragraphs': [{'context': 'The sky is blue.', 'qas': qas}]}]}))
    table = PairTable(str(path), str(path), '{question} {context}', '{answer}', references_column='answers')
    first, second = table.examples('train')
    assert first.turns[0].text == 'What? The sky is blue.' and first.references == ('blue', 'Blue')
    assert second.turns[1].text == 'unanswerable' and first.location.endswith('question x')


def test_files_without_a_header_and_parts_of_json(tmp_path):
    (tmp_path / 'en_zh.txt').write_text('"Hi", he said.\t嗨。\n')
    table = PairTable(str(tmp_path / 'en_zh.txt'), None, '{en}', '{zh}', columns=['en', 'zh'], held_out=1)
    assert table.examples('validation')[0].turns == (('"Hi", he said.', False, 'user'), ('嗨。', True, 'assistant'))
    by_place = PairTable(str(tmp_path / 'en_zh.txt'), None, '{1}', '{0}', columns=['en', 'zh'], held_out=1)
    assert by_place.examples('validation')[0].turns[0].text == '嗨。'
    with pytest.raises(UserError, match=r'name its columns: --gin.COLUMNS'):
        PairTable(str(tmp_path / 'en_zh.txt'), None).examples('train')


def test_parts_of_a_json_file(tmp_path):
    parts = {'train': [['a', 'x']], 'oos_train': [['b', 'y']], 'val': [['c', 'z']]}
    (tmp_path / 'parts.json').write_text(json.dumps(parts))
    columns = (('TEXT_COLUMN', '0'), ('LABEL_COLUMN', '1'))
    read = tables.read(f'{tmp_path}/parts.json#*train', columns, 'TRAIN_FILES')
    assert [row.values for row in read] == [{'0': 'a', '1': 'x'}, {'0': 'b', '1': 'y'}]
    mistakes = {
        '#dev': "no list called 'dev'.*Its lists: train, oos_train, val",
        '#val': "item 1: no column 'text'.*Columns: 0, 1",
        '': 'Name a list in it: .*parts.json#train',
    }
    for part, message in mistakes.items():
        with pytest.raises(UserError, match=message):
            tables.read(f'{tmp_path}/parts.json{part}', (('TEXT_COLUMN', 'text'),), 'TRAIN_FILES')


def test_what_is_held_out_stays_together(tmp_path):
    path = tmp_path / 'pairs.csv'
    path.write_text('input,target,group\n' + ''.join(f'i{i},t{i},{"abcdefgh"[i % 8]}\n' for i in range(64)))
    table = PairTable(str(path), split_by='{group}', held_out=2)
    train, held_out = ({e.turns[0].text for e in table.examples(split)} for split in ('train', 'validation'))
    groups = [{int(text[1:]) % 8 for text in part} for part in (train, held_out)]
    assert not groups[0] & groups[1] and groups[0] | groups[1] == set(range(8))


def test_lengths_are_for_both_sides(pairs):
    with pytest.raises(UserError, match="it needs 'inputs' and 'targets'"):
        TextToText(pairs, {'inputs': 16}, 'bytes')


@pytest.mark.parametrize('bidirectional', [False, True])
def test_packed_examples_are_learned_as_if_they_were_alone(tmp_path, micro, bidirectional, caplog):
    caplog.set_level('INFO')
    path = tmp_path / 'pairs.csv'
    path.write_text('input,target\n' + ''.join(f'{"q" * (1 + i % 5)},{"a" * (1 + i % 3)}\n' for i in range(23)))
    table = PairTable(str(path), str(path))
    made = [TextToText(table, {'inputs': 12, 'targets': 12}, 'bytes', bidirectional, pack) for pack in (False, True)]
    alone, together = (data.encode('train') for data in made)
    assert len(together['decoder_segment_ids']) < len(alone['decoder_loss_weights']) / 2
    assert f'23 examples in {len(together["decoder_segment_ids"])} rows' in caplog.text
    tokens = [np.mean(features['decoder_target_tokens'] != 0) for features in (alone, together)]
    assert tokens[0] < 0.5 < 0.8 < tokens[1]
    model, params = micro(vocab_size=260)
    sums = []
    for features in (alone, together):
        total, metrics = jax.jit(lambda batch: LanguageModelLoss(z_loss=0.0)(model, params, batch))(features)
        sums.append((float(total), float(metrics['loss'].count)))
    assert sums[0][1] == sums[1][1] == sum(2 + i % 3 for i in range(23))
    assert sums[0][0] == pytest.approx(sums[1][0], rel=1e-5)


def test_a_line_of_a_text_file_fills_a_template_of_one_column():
    source = PairTable(None, input='translate: {english}')
    for given in ('hello', {'text': 'hello'}, {'english': 'hello', 'id': '7'}):
        assert source.prompt_turns(given)[0].text == 'translate: hello'
    with pytest.raises(UserError, match='give a dict with english'):
        source.prompt_turns({'French': 'hello'})
    with pytest.raises(UserError, match='give a dict with english, to'):
        PairTable(None, input='{english} to {to}').prompt_turns({'text': 'hello'})
