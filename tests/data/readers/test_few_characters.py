"""Files of a few bytes that are not UTF-8: what they most plausibly are is proposed, and named encodings are used."""

import pytest

from palm_jax.data.readers import encodings
from palm_jax.data.readers.files import File, check_text
from palm_jax.errors import UserError

FEW = [
    *(('caf\xe9', 'WINDOWS-1252'), ('na\xefve text', 'WINDOWS-1252'), ('“hi”', 'WINDOWS-1252')),
    *(('да', 'WINDOWS-1251'), ('Привет', 'WINDOWS-1251'), ('你好', 'GB18030'), ('こ', 'SHIFT_JIS')),
]


def read(path, content, encoding=None):
    path.write_bytes(content)
    file = File(str(path), encoding)
    return ''.join(check_text(line, f'{path}, line {number}', file) for number, line in file.lines())


@pytest.mark.parametrize(('text', 'encoding'), FEW)
@pytest.mark.parametrize('frame', ['{}', '{}\n', 'text,label\n{},b\n'])
def test_the_likeliest_encoding_is_the_first_and_can_be_named(text, encoding, frame, tmp_path):
    content = frame.format(text).encode(encoding)
    with pytest.raises(UserError, match=f'looks like {encoding}, in which the line reads .{text}') as error:
        read(tmp_path / 'few.csv', content)
    assert f'--gin.ENCODING={encoding}' in str(error.value)
    assert read(tmp_path / 'few.csv', content, encodings.check(encoding)) == frame.format(text)


@pytest.mark.parametrize(('text', 'encoding'), [('é', 'WINDOWS-1251'), ('日本', 'SHIFT_JIS'), ('한국', 'EUC-KR')])
def test_what_reads_as_well_is_named_too(text, encoding, tmp_path):
    source = {'é': 'WINDOWS-1252'}.get(text, encoding)
    with pytest.raises(UserError, match=f'It may also be .*{encoding}'):
        read(tmp_path / 'few.csv', text.encode(source))


@pytest.mark.parametrize('text', ['a', 'hi', 'a\n', 'é,b\n', 'да да', '你好 世界'])
@pytest.mark.parametrize('encoding', ['utf-16le', 'utf-16be', 'utf-32le', 'utf-32be'])
def test_wide_characters_without_a_mark(text, encoding, tmp_path):
    content = text.encode(encoding)
    with pytest.raises(UserError, match=f'this is {encoding.upper()}, not UTF-8. Name it, --gin.ENCODING={encoding}'):
        read(tmp_path / 'few.csv', content)
    assert read(tmp_path / 'few.csv', content, encoding) == text


def test_what_is_not_text_has_no_encoding(tmp_path):
    for content in (b'\0', b'a\0b', b'abc\0de of a line', b'\x7fELF\x02\x01\x01\0\0\0', b'PK\x03\x04\x14\0\0\0'):
        with pytest.raises(UserError, match=r'not text|not UTF-8'):
            read(tmp_path / 'few.csv', content)
        assert encodings.wide_encoding(content) is None, content


def test_a_file_that_was_cut_off_is_still_told_from_another_encoding(tmp_path):
    cut = 'naïve café'.encode()[:-1]
    with pytest.raises(UserError, match='it was cut off'):
        read(tmp_path / 'cut.csv', cut)
