"""Text files are UTF-8 and programs print in every locale, ASCII too."""

import ast

from tests.support.paths import ROOT
from tests.support.programs import run_script


def calls_without_encoding(path):
    """Lines that open a file as text in the encoding of the locale."""
    for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
        if not isinstance(node, ast.Call):
            continue
        function = node.func
        name = function.attr if isinstance(function, ast.Attribute) else getattr(function, 'id', '')
        texts = [argument.value for argument in node.args if isinstance(argument, ast.Constant)]
        is_text_mode = any(isinstance(text, str) and set(text) <= set('rwaxt+') for text in texts)
        is_text = name in ('read_text', 'write_text') or (name == 'open' and is_text_mode)
        if is_text and not any(keyword.arg == 'encoding' for keyword in node.keywords):
            yield node.lineno


def test_text_files_are_utf_8():
    found = [
        f'{path.relative_to(ROOT)}:{line}'
        for path in sorted((ROOT / 'palm_jax').rglob('*.py'))
        for line in calls_without_encoding(path)
    ]
    assert not found, f"write encoding='utf-8': {found}"


def test_programs_print_in_an_ascii_locale(tmp_path):
    text = tmp_path / 'text.txt'
    text.write_text('naïve café 日本 ⟪ → ✓\n' * 400, encoding='utf-8')
    mine = tmp_path / 'mine.gin'
    mine.write_text("# ⟪ï⟫\ninclude 'gin/pretrain_tiny.gin'\nMODEL_DIR = 'runs/naïve'\n", encoding='utf-8')
    result = run_script(
        'prints_in_ascii', mine, text, LC_ALL='C', PYTHONIOENCODING='ascii', PYTHONUTF8='0', PYTHONCOERCECLOCALE='0'
    )
    assert result.returncode == 0, result.stderr[-3000:]
    assert 'ascii, ascii\n' in result.stdout and 'UnicodeEncodeError' not in result.stderr
    assert '\\u65e5\\u672c' in result.stdout  # of the text, in the example
    assert 'runs/na\\xefve' in result.stdout and 'A\\xb7B' in result.stdout  # of the gin file, and of a description
    assert 'error: ' in result.stderr and '\\u2192' in result.stderr
