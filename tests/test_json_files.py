"""JSON that programs left: damage is one message with its place."""

import pytest

from palm_jax.cli import compare
from palm_jax.errors import UserError
from palm_jax.json_files import read_json, read_json_lines
from palm_jax.retuning import forms

DAMAGED = {
    'empty': b'',
    'cut': b'{"label": "yes", "te',
    'not text': b'\xff\xfe{}',
    'deep': b'[' * 100_000,
    'a list': b'["label"]',
    'null': b'null',
    'zeros': bytes(30),
    'a number of 5,000 digits': b'{"label": ' + b'7' * 5000 + b'}',
}
WHOLE = '{"text": "a\u2028b\x85", "label": "yes", "predicted": "no"}\n'.encode()


def test_what_is_whole_is_read(tmp_path):
    path = tmp_path / 'rows.jsonl'
    path.write_bytes(WHOLE * 2)
    assert [row['text'] for row in read_json_lines(path)] == ['a\u2028b\x85'] * 2
    path.write_bytes(WHOLE)
    assert read_json(path)['label'] == 'yes'


@pytest.mark.parametrize('damage', DAMAGED)
def test_damage_is_one_message(tmp_path, damage):
    path = tmp_path / 'predictions.jsonl'
    path.write_bytes(DAMAGED[damage])
    with pytest.raises(UserError, match=r'predictions\.jsonl is damaged: it is not an object in JSON\.$'):
        read_json(path)
    path.write_bytes(WHOLE + DAMAGED[damage] + b'\n' + WHOLE)
    if DAMAGED[damage]:
        with pytest.raises(UserError, match=r'predictions\.jsonl, line 2 is damaged'):
            compare.read(str(tmp_path))
        with pytest.raises(UserError, match=r'predictions\.jsonl, line 2 is damaged'):
            forms.read_rows(path, ['text', 'label'])


def test_rows_that_lack_something_are_named(tmp_path):
    path = tmp_path / 'predictions.jsonl'
    path.write_bytes(WHOLE + b'{"text": "a"}\n')
    with pytest.raises(UserError, match=r"line 2 is damaged: it has no 'label'"):
        compare.read(str(tmp_path))
    with pytest.raises(UserError, match=r"line 2 is damaged: it has no 'label'"):
        forms.read_rows(path, ['text', 'label'])
    with pytest.raises(UserError, match=r'nothing\.json cannot be read: No such file'):
        read_json(tmp_path / 'nothing.json')
