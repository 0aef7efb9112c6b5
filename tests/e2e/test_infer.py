"""A file in, a file out: the order, what is bad, what was begun."""

import dataclasses
import json
import re
import shutil
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jax
import pytest

from palm_jax.api import loading, predictions, shared_predictions
from palm_jax.errors import UserError
from tests.support.programs import run_here
from tests.support.waiting import wait_until


def infer(*arguments):
    return run_here('palm_jax.cli.infer', *arguments)


def read(path):
    return [json.loads(line) for line in path.read_bytes().split(b'\n')[:-1]]


def test_every_row_is_answered_in_its_place(classifier, tmp_path):
    rows = [json.dumps({'id': i, 'text': f'number {i} is even'}) for i in range(40)]
    rows[7], rows[20] = '{"text": ', '{"txt": "x"}'
    (tmp_path / 'in.jsonl').write_text('\n'.join(rows))
    flags = ('--input', tmp_path / 'in.jsonl', '--output', tmp_path / 'out.jsonl', '--batch_size=16')
    result = infer(f'--gin_file={classifier}/config.gin', *flags)
    assert result.returncode == 0, result.stderr[-3000:]
    assert (
        'predicted  38 of 40 rows; 2 rows could not be, and the output says why: ' in result.stdout
        and 'rows/s' in result.stderr
    )
    lines = read(tmp_path / 'out.jsonl')
    assert [line.get('id') for line in lines] == [None if i in (7, 20) else i for i in range(40)]
    assert 'in.jsonl, line 8' in lines[7]['error'] and 'Did you mean txt?' in lines[20]['error']
    model = loading.load(classifier)
    for line, said in zip((lines[0], lines[39]), model.predict([lines[0]['text'], lines[39]['text']]), strict=True):
        assert line['probabilities'] == pytest.approx(said, abs=1e-5) and line['predicted'] == next(iter(said))
    shutil.copytree(classifier, broken := tmp_path / 'broken')  # an output is refused before the model is loaded
    shutil.rmtree(next((broken / 'checkpoints').iterdir()) / 'state' / 'd')
    refused = lambda *more: infer(f'--gin_file={broken}/config.gin', *flags, *more)  # noqa: E731
    complete = refused()
    assert complete.returncode == 2 and 'exists already, and is complete: nothing has changed' in complete.stderr
    assert f'--output={tmp_path}/out_2.jsonl, or remove it: rm {tmp_path}/out.jsonl' in complete.stderr
    assert "is of something else: flags [], now [['BATCH_SIZE', '3']]" in refused('--gin.BATCH_SIZE=3').stderr
    (tmp_path / 'in.jsonl').write_text('\n'.join(rows[1:]))
    with (broken / 'config.gin').open('a') as file:
        file.write('# changed\n')
    changed = refused().stderr
    expected = r"something else: input '\w+', now '\w+', config.gin '\w+', now '\w+'\. To make it again"
    assert re.search(expected, changed) and 'Traceback' not in changed, changed


def cut_after(whole, cut, note, lines):
    """What a kill leaves that comes while line `lines` is written."""
    content = whole.read_bytes().splitlines(keepends=True)  # of bytes: at line feeds only
    cut.with_name(f'{cut.name}.part').write_bytes(b''.join(content[:lines]) + content[lines][:9])
    cut.with_name(f'{cut.name}.part.json').write_text(note)


@pytest.fixture
def begun(made, tmp_path):
    """A base, rows, their predictions, and a function that leaves the first of them as a kill would."""
    model, source, whole = loading.load(made / 'base'), tmp_path / 'in.jsonl', tmp_path / 'whole.jsonl'
    lines = [{'text': f'the square\u2028of {i}', 'error': 'mine'} for i in range(11)]
    lines[4] = {'txt': 'no text here'}
    source.write_text('\n'.join(json.dumps(line, ensure_ascii=False) for line in lines))
    assert predictions.write(model, str(source), str(whole), {'flags': [('A', '1')]}, batch_size=4) == (10, 1)
    note = whole.with_name('whole.jsonl.made_from.json').read_text()

    def cut(name, lines):
        cut_after(whole, tmp_path / name, note, lines)
        return str(tmp_path / name)

    return model, source, whole, cut


def test_a_finished_output_says_what_has_changed_since(begun, tmp_path):
    model, source, whole, _ = begun
    flags = {'flags': [('A', '1')]}
    with pytest.raises(UserError, match=r'whole.jsonl exists already, and is complete: nothing has changed since'):
        predictions.write(model, str(source), str(whole), flags)
    checkpoint = tmp_path / 'run' / '7'
    shutil.copytree(model.checkpoint, checkpoint)
    with pytest.raises(
        UserError, match=r"is of something else: checkpoint '2 \(\w+\)', now '7 \(\w+\)'. To make it again"
    ):
        predictions.write(dataclasses.replace(model, checkpoint=checkpoint), str(source), str(whole), flags)
    whole.with_name('whole.jsonl.made_from.json').unlink()
    with pytest.raises(UserError, match=r'whole.jsonl exists already\. To make it again, name another file'):
        predictions.write(model, str(source), str(whole), flags)


def test_what_was_begun_is_continued_line_by_line(begun, tmp_path, capsys):
    model, source, whole, cut = begun
    flags = {'flags': [('A', '1')]}
    assert all(line['error'] == 'mine' for i, line in enumerate(read(whole)) if i != 4)  # a column of the user's
    for done, size in ((0, 4), (3, 4), (6, 4), (6, 11), (10, 1)):  # drawn by number, however the rows are batched
        name = cut(f'cut_{done}_{size}.jsonl', done)
        assert predictions.write(model, str(source), name, flags, batch_size=size) == (10, 1)
        assert not done or f'resuming after row {done} of {name}.part' in capsys.readouterr().out
        assert Path(name).read_bytes() == whole.read_bytes()
    all_lines = Path(cut('at_the_end.jsonl', 10))  # a kill between the last two names
    Path(f'{all_lines}.part').write_bytes(whole.read_bytes())
    Path(f'{all_lines}.part.json').rename(f'{all_lines}.made_from.json')
    assert predictions.write(model, str(source), str(all_lines), flags) == (10, 1)
    assert all_lines.read_bytes() == whole.read_bytes()
    moved = source.rename(tmp_path / 'moved.jsonl')  # the same rows under another name
    assert predictions.write(model, str(moved), cut('of_moved.jsonl', 6), flags) == (10, 1)
    assert not [path.name for path in tmp_path.iterdir() if '.part' in path.name or '.lock' in path.name]


def test_what_it_depends_on_must_be_the_same(begun, made, tmp_path):
    model, source, _, cut = begun
    output, flags = cut('cut.jsonl', 6), {'flags': [('A', '1')]}
    part = (tmp_path / 'cut.jsonl.part').read_bytes()
    with pytest.raises(UserError, match=r"another run \(flags \[\['A', '1'\]\], now \[\['A', '2'\]\]\). Remove it"):
        predictions.write(model, str(source), output, {'flags': [('A', '2')]})
    with pytest.raises(UserError, match=r"another run \(model '\w+', now '\w+'\)"):
        predictions.write(dataclasses.replace(model, params=jax.tree.map(lambda x: x * 1.01, model.params)),
                          str(source), output, flags)  # fmt: skip
    assert (tmp_path / 'cut.jsonl.part').read_bytes() == part
    source.write_text(source.read_text().replace('of 7', 'of 8'))
    with pytest.raises(UserError, match=r"another run \(input '\w+', now '\w+'\)"):
        predictions.write(model, str(source), output, flags)
    (tmp_path / 'cut.jsonl.part.json').write_text('{"mod')
    with pytest.raises(UserError, match=r'cut.jsonl.part.json does not say of which'):
        predictions.write(model, str(source), output, flags)


def test_two_processes_do_not_write_one_output(begun, tmp_path):
    model, source, _, _ = begun
    output = str(tmp_path / 'out.jsonl')
    with (
        predictions.reserve(output),
        pytest.raises(UserError, match=r'(?s)out.jsonl is in use by process \d+.*COMPLETION_INDEX'),
    ):
        predictions.write(model, str(source), output)
    assert predictions.write(model, str(source), output) == (10, 1)


def test_several_write_what_one_does_and_go_on_where_all_were_interrupted(begun, tmp_path, monkeypatch):
    model, source, whole, cut = begun
    flags = {'flags': [('A', '1')]}
    made_from = lambda: predictions.origin(model.config, model.checkpoint, str(source), flags)  # noqa: E731
    answer, answered = predictions.answer, []

    def write(output, batch_size=4):
        with shared_predictions.join(output, made_from) as joined:
            return joined.write(model, str(source), flags, batch_size)

    def interrupted(model, batch, first, batch_size):
        if first == 4:
            raise KeyboardInterrupt
        answered.append(first)
        return answer(model, batch, first, batch_size)

    output = cut('together.jsonl', 3)  # one process had begun, and was killed
    monkeypatch.setattr(predictions, 'answer', interrupted)
    with pytest.raises(KeyboardInterrupt):
        write(output)
    assert answered == [0] and shared_predictions.are_begun(output)
    with pytest.raises(UserError, match=r'together.jsonl.pieces is of another run \(batch_size 4, now 3\)'):
        write(output, batch_size=3)
    monkeypatch.setattr(predictions, 'answer', lambda *inputs: answered.append(inputs[2]) or answer(*inputs))
    with ThreadPoolExecutor(3) as pool:
        assert list(pool.map(write, [output] * 3)) == [(10, 1)] * 3
    assert sorted(answered) == [0, 4, 8] and Path(output).read_bytes() == whole.read_bytes()
    assert write(output) == (10, 1) and len(answered) == 3  # the others have finished it
    source.write_text(source.read_text() + '\n')
    with pytest.raises(UserError, match=r'together\.jsonl exists already, but is of something else: input'):
        write(output)
    assert not [path.name for path in tmp_path.iterdir() if '.pieces' in path.name or '.lock' in path.name]


def test_an_interrupted_command_is_continued_by_the_same_command(made, tmp_path, forks):
    (tmp_path / 'in.txt').write_text('\n'.join(f'the square of {i}' for i in range(120)))
    part, output = tmp_path / 'out.jsonl.part', tmp_path / 'out.jsonl'
    flags = [f'--gin_file={made}/base/config.gin', f'--input={tmp_path}/in.txt', f'--output={output}', '--batch_size=1']
    flags.append('--gin.TEMPERATURE=0.0')  # flags are compared with those of the beginning
    process = forks.open('palm_jax.cli.infer', *flags)
    wait_until(lambda: part.exists() and part.read_text().count('\n') >= 2, seconds=120)
    process.send_signal(signal.SIGINT)
    shown, _ = process.communicate(timeout=120)
    assert process.returncode == 130 and 'finished rows are kept' in shown, shown[-2000:]
    assert 'Traceback' not in shown
    assert 2 <= part.read_text().count('\n') < 120
    again = infer(*flags)
    assert again.returncode == 0 and 'resuming after row' in again.stdout, again.stderr[-2000:]
    assert len(read(output)) == 120


def test_mistakes_are_one_message(classifier, made, tmp_path):
    long = tmp_path / 'long.txt'
    long.write_text('short\n' + 'x' * 500 + '\n')
    empty = tmp_path / 'empty.csv'
    empty.write_text('text,label\n')
    (tmp_path / 'folder.jsonl').mkdir()
    model = loading.load(made / 'base')
    assert predictions.write(model, str(long), str(tmp_path / 'o.jsonl'), {}) == (1, 1)
    assert 'longer than the 64 tokens' in read(tmp_path / 'o.jsonl')[1]['error']
    config = f'--gin_file={classifier}/config.gin'
    for flags, message in (
        ([config, '--input=nothing.jsonl', '--output=o.jsonl'], "--input = 'nothing.jsonl': no such file"),
        ([config, f'--input={long}', f'--output={tmp_path}/no/o.jsonl'], 'there is no folder'),
        ([config, f'--input={long}', f'--output={tmp_path}/folder.jsonl'], 'is a folder. Name a file in it'),
        ([config, f'--input={empty}', f'--output={tmp_path}/none.jsonl'], "empty.csv': the file contains no rows"),
        ([config, f'--input={long}', '--output=gs://bucket/o.jsonl'], 'are written to a local file'),
        (['--gin_file=gin/finetune_lora.gin', f'--input={long}', '--output=o.jsonl'], 'name the config.gin'),
    ):
        result = infer(*flags)
        assert result.returncode == 2 and message in result.stderr and 'Traceback' not in result.stderr, result.stderr
