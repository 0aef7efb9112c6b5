"""The file of made texts: what is kept, what the filter leaves out, an interrupted call, and training on it."""

import json
import logging

import pytest

from palm_jax import api
from palm_jax.data.augmentation.augmented import augment
from palm_jax.data.augmentation.made_texts import MadeTexts
from palm_jax.data.readers import tables
from palm_jax.data.supervised.labelled_text import LabelledTable
from palm_jax.data.supervised.tagged_text import TaggedTable
from palm_jax.errors import UserError
from palm_jax.synthesis import write
from palm_jax.synthesis.back_translation import BackTranslation, CommandTranslator
from palm_jax.synthesis.confidence import Confidence
from palm_jax.synthesis.maker import Maker
from tests.support.old_runs import RUNS
from tests.support.programs import run_here
from tests.support.runs import run


class Numbered(Maker):
    """Puts the numbers of the copy and of the row after a text."""

    name = 'numbering'

    def __init__(self, fails_at=None):
        self.fails_at = fails_at

    def make(self, rows, texts, copy, first):
        if self.fails_at is not None and first >= self.fails_at:
            raise KeyboardInterrupt
        return [f'{text} {copy} {number}' if number % 3 else text for number, text in enumerate(texts, first)]

    def depends_on(self):
        return 'numbers'


@pytest.fixture
def table(tmp_path):
    path = tmp_path / 'table.csv'
    rows = [f'number {i} is {"odd" if i % 2 else "even"},{"no" if i % 2 else "yes"}' for i in range(40)]
    path.write_text('\n'.join(['text,label', *rows]) + '\n')
    return path


def rows_of(table):
    return tables.read(str(table), (('--text_column', 'text'),), '--input')


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_every_made_text_is_a_line_with_its_origin(table, tmp_path):
    counts = write.write(rows_of(table), str(tmp_path / 'made.jsonl'), Numbered(), copies=2)
    found = lines(tmp_path / 'made.jsonl')
    assert (counts.made, counts.unchanged, counts.kept) == (80, 28, 52) == (80, 80 - len(found), len(found))
    assert found[:2] == [
        {'text': 'number 1 is odd', 'augmented': f'number 1 is odd {copy} 1', 'origin': 'numbering'} for copy in (0, 1)
    ]
    assert sorted(path.name for path in tmp_path.iterdir() if 'made' in path.name) in (
        ['made.jsonl'],
        ['made.jsonl', 'made.jsonl.lock'],
    )
    with pytest.raises(UserError, match='exists'):
        write.write(rows_of(table), str(tmp_path / 'made.jsonl'), Numbered(), copies=2)


def test_an_interrupted_call_goes_on_and_another_one_is_refused(table, tmp_path, monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(write, '_FIRST_CHUNK', 7)
    monkeypatch.setattr(write, '_LONG_CHUNK', 0.0)
    rows = rows_of(table)
    whole = write.write(rows, str(tmp_path / 'whole.jsonl'), Numbered())
    part = tmp_path / 'part.jsonl'
    with pytest.raises(KeyboardInterrupt):
        write.write(rows, str(part), Numbered(fails_at=20))
    with (tmp_path / 'part.jsonl.part').open('a') as file:
        file.write('{"half')
    with pytest.raises(UserError, match=r'is of another call \(copies\)'):
        write.write(rows, str(part), Numbered(), copies=2)
    with pytest.raises(UserError, match=r'is of another call \(input\)'):
        write.write(rows[:-1], str(part), Numbered())
    assert write.write(rows, str(part), Numbered()) == whole
    assert part.read_text() == (tmp_path / 'whole.jsonl').read_text() and 'resuming after row 21' in caplog.text


def test_little_is_lost_at_the_beginning_and_chunks_grow_while_they_are_fast(table, tmp_path):
    sizes = []

    class Watched(Numbered):
        def make(self, rows, texts, copy, first):
            sizes.append(len(rows))
            return super().make(rows, texts, copy, first)

    rows, part = rows_of(table), tmp_path / 'part.jsonl'
    with pytest.raises(KeyboardInterrupt):
        write.write(rows, str(part), Numbered(fails_at=1))
    assert len(lines(tmp_path / 'part.jsonl.part')) == 5  # of the first eight rows three are unchanged
    write.write(rows, str(part), Watched())
    assert sizes == [8, 16, 8] and [line['augmented'] for line in lines(part)][:1] == ['number 1 is odd 0 1']
    write.write(rows * 30, str(tmp_path / 'many.jsonl'), Watched())
    assert sizes[3:] == [8, 16, 32, 64, 128, 256, 256, 256, 184]


def test_a_classifier_keeps_what_it_is_sure_of(table, tmp_path, monkeypatch):
    monkeypatch.chdir(RUNS)
    model = api.load('classifier')
    texts = [f'number {i} is {"odd" if i % 2 else "even"} 0 {i}' for i in range(40) if i % 3]
    p = {t: q['no' if 'odd' in t else 'yes'] for t, q in zip(texts, model.predict(texts), strict=True)}
    threshold = sorted(p.values())[len(p) // 2]
    counts = write.write(
        rows_of(table), str(tmp_path / 'made.jsonl'), Numbered(), confidence=Confidence(model, 'label', threshold)
    )
    found = {line['augmented']: line['confidence'] for line in lines(tmp_path / 'made.jsonl')}
    assert found == pytest.approx({text: q for text, q in p.items() if q >= threshold}, abs=1e-5)
    assert 0 < counts.doubtful == len(p) - len(found) and counts.kept == len(found)
    other = tmp_path / 'other.csv'
    other.write_text('text,label\none,maybe\ntwo,yes\n')
    with pytest.raises(UserError, match=r"other\.csv, line 2: .*knows no label 'maybe'.* Known: no, yes"):
        write.write(rows_of(other), str(tmp_path / 'x.jsonl'), Numbered(), confidence=Confidence(model))
    with pytest.raises(UserError, match=r'--filter=.*regressor.* needs a run that predicts one class per text'):
        Confidence(api.load('regressor'))


def test_training_takes_the_texts_of_its_own_part_alone(table, tmp_path):
    write.write(rows_of(table), str(tmp_path / 'made.jsonl'), Numbered(), copies=3)
    source = LabelledTable(str(table))
    originals, held_out = source.examples('train'), source.examples('validation')
    augmented = augment(source, [MadeTexts(str(tmp_path / 'made.jsonl'))], copies=2)
    made = augmented.examples('train')[len(originals) :]
    assert augmented.examples('validation') == held_out
    by_text = {example.text: example for example in originals}
    for example in made:
        text, copy, _ = example.text.rsplit(' ', 2)
        assert example.label == by_text[text].label and copy in '01'
        assert example.location.startswith(f'{by_text[text].location}, augmented by numbering (')
        assert 'made.jsonl, line' in example.location
    numbers = [int(text.split()[1]) for text in by_text]
    assert len(made) == 2 * sum(number % 3 != 0 for number in numbers)
    rare = augment(source, [MadeTexts(str(tmp_path / 'made.jsonl'))], copies=2, classes=['yes']).examples('train')
    assert {example.label for example in rare[len(originals) :]} == {'yes'}


def test_files_that_do_not_fit_are_refused(table, tmp_path):
    source = LabelledTable(str(table))
    with pytest.raises(UserError, match='AUGMENTED_FILES is not set: name what palm-jax augment'):
        augment(source, [MadeTexts()]).examples('train')
    with pytest.raises(UserError, match=r"not a file of palm-jax augment: .*line 2: no column 'augmented'"):
        augment(source, [MadeTexts(str(table))]).examples('train')
    (tmp_path / 'other.jsonl').write_text('{"text": "a", "augmented": "b", "origin": "c"}\n')
    with pytest.raises(UserError, match='none of its 1 text is in the training part'):
        augment(source, [MadeTexts(str(tmp_path / 'other.jsonl'))]).examples('train')
    path = tmp_path / 'tags.conll'
    path.write_text(''.join(f'Ann{i} B-PER\nis O\n\n' for i in range(30)))
    with pytest.raises(UserError, match='A text made beforehand changes the words of texts, and tags would'):
        augment(TaggedTable(str(path)), [MadeTexts(str(tmp_path / 'other.jsonl'))]).examples('train')


@pytest.mark.slow
def test_a_denoiser_fills_in_what_was_cut_out(table, tmp_path):
    flags = '--gin_file=gin/objectives/span_corruption.gin', '--gin.VOCABULARY_SIZE=399', '--gin.TRAIN_STEPS=400'
    sizes = "--gin.TASK_FEATURE_LENGTHS={'targets': 96}", '--gin.LEARNING_RATE=1e-2', '--gin.BATCH_SIZE=16'
    (tmp_path / 'text.txt').write_text('\n'.join(f'number {i} is {"odd" if i % 2 else "even"}' for i in range(2000)))
    result = run(tmp_path / 'text.txt', tmp_path / 'denoiser', *flags, *sizes)
    assert result.returncode == 0, result.stderr[-3000:]
    command = f'--input={table}', f'--output={tmp_path}/made.jsonl', f'--infill={tmp_path}/denoiser', '--copies=3'
    result = run_here('palm_jax.cli.augment', *command)
    assert result.returncode == 0, result.stderr[-3000:]
    found = lines(tmp_path / 'made.jsonl')
    assert len(found) > 30 and all(line['origin'] == 'infilling' for line in found)
    assert sum(line['augmented'].startswith('number') for line in found) > len(found) / 2


def test_copies_and_empty_files_are_not_silent(table, tmp_path, caplog):
    count = len(table.read_text().splitlines()) - 1
    same = BackTranslation([CommandTranslator('cat')])
    counts = write.write(rows_of(table), str(tmp_path / 'made.jsonl'), same, copies=3)
    assert (counts.made, counts.kept) == (count, 0)
    assert 'one copy instead of 3: back-translation samples in no step' in caplog.text
    assert 'no text was kept' in caplog.text
    with pytest.raises(UserError, match=r"--through_command='sed s/\\d/x/ missing' ended with code"):
        CommandTranslator(r'sed s/\d/x/ missing').translate(['a'], 0, 0)


def test_the_program(table, tmp_path):
    augment_with = lambda *flags: run_here(  # noqa: E731
        'palm_jax.cli.augment', f'--input={table}', f'--output={tmp_path}/made.jsonl', *flags, cwd=RUNS
    )
    result = augment_with()
    assert result.returncode == 2 and 'Say in one way how texts are made' in result.stderr
    for flags, message in (
        (['--generate=base'], '--generate=base was trained on text alone; name a run from text to text'),
        (['--generate=writer', '--confidence=0.9'], '--confidence requires --filter'),
        (['--generate=writer', '--text_column=words'], 'Name yours with --text_column=...'),
    ):
        result = augment_with(*flags)
        assert result.returncode == 2 and message in result.stderr and '--gin.' not in result.stderr
    (tmp_path / 'old.csv').write_bytes('text,label\nZażółć gęślą jaźń,yes\n'.encode('cp1250'))
    result = augment_with('--generate=writer', f'--input={tmp_path}/old.csv')
    assert result.returncode == 2 and 'convert the file' in result.stderr and '--gin.' not in result.stderr
    result = augment_with('--infill=base')
    assert result.returncode == 2 and '--infill=base has not learned to fill spans in' in result.stderr
    result = augment_with('--generate=writer', '--filter=classifier', '--confidence=0', '--copies=2', '--temperature=2')
    assert result.returncode == 0, result.stderr[-3000:]
    assert 'made       80 texts of 40 rows by generation' in result.stdout
    found = lines(tmp_path / 'made.jsonl')
    assert found and all(line['origin'] == 'generation' and 0 <= line['confidence'] <= 1 for line in found)
