"""Which program works on which kind of model: the table in docs/finetuning/tasks.md, tried on micro runs."""

import csv
import json
from types import SimpleNamespace

import pytest

from tests.support.bbq import QUESTION
from tests.support.paths import ROOT
from tests.support.programs import run_here
from tests.support.runs import finetune, run

COUNT = 80
KINDS = {  # column of the table in docs/finetuning/tasks.md: (table, further flags of the run)
    'one label': ('labels.csv', []),
    'several labels': ('several.csv', ['--gin_file=gin/heads/multilabel.gin']),
    'numbers': ('numbers.csv', ['--gin_file=gin/heads/regression.gin']),
    'pairs of texts': ('pairs.csv', ['--gin.SECOND_TEXT_COLUMN=second']),
    'tags': ('tags.conll', ['--gin_file=gin/heads/tagging.gin']),
    'text to text': (
        'labels.csv',
        [
            '--gin_file=gin/heads/text_to_text.gin',
            '--gin.INPUT_TEMPLATE={text}',
            '--gin.TARGET_TEMPLATE={label}',
            "--gin.TASK_FEATURE_LENGTHS={'inputs': 32, 'targets': 8}",
        ],
    ),
    'dialogue': (
        'dialogues.jsonl',
        ['--gin_file=gin/heads/dialogue.gin', "--gin.TASK_FEATURE_LENGTHS={'inputs': 64, 'targets': 8}"],
    ),
    'text alone': None,
    'embeddings': ('labels.csv', ['--gin_file=gin/heads/embedding.gin']),
}


def table_of_programs():
    """The table of the docs: for each program whether it works, by kind of model."""
    text = (ROOT / 'docs' / 'finetuning' / 'tasks.md').read_text()
    lines = [line for line in text.partition('## What is done with a trained model')[2].splitlines() if '|' in line]
    cells = [[cell.strip() for cell in line.strip('|').split('|')] for line in lines]
    header, _, *rows = cells[: next((i for i, row in enumerate(cells) if len(row) != len(cells[0])), len(cells))]
    return {row[0]: dict(zip(header[1:], row[1:], strict=True)) for row in rows}


def write_files(folder):
    """Writes all tables that runs and programs read."""

    def table(name, rows):
        with (folder / name).open('w', newline='') as file:
            csv.writer(file).writerows(rows)

    texts = [f'number {i} is {("even", "odd")[i % 2]}' for i in range(COUNT)]
    sex = ['fm'[i % 3 == 0] for i in range(COUNT)]
    labels = [('yes', 'no')[i % 2] for i in range(COUNT)]
    seconds = [f'it is {("even", "odd")[i % 3 == 0]}' for i in range(COUNT)]
    table('labels.csv', [('text', 'label', 'sex'), *zip(texts, labels, sex, strict=True)])
    several = [f'{label}|small' if i < 30 else label for i, label in enumerate(labels)]
    table('several.csv', [('text', 'label', 'sex'), *zip(texts, several, sex, strict=True)])
    table('numbers.csv', [('text', 'label', 'sex'), *zip(texts, range(COUNT), sex, strict=True)])
    table('pairs.csv', [('text', 'second', 'label', 'sex'), *zip(texts, seconds, labels, sex, strict=True)])
    new = range(100, 160)
    table('labels_new.csv', [('text', 'label'), *((f'number {i}', ('yes', 'no')[i % 2]) for i in new)])
    table('several_new.csv', [('text', 'label'), *((f'number {i}', ('yes|small', 'no', '')[i % 3]) for i in new)])
    table('numbers_new.csv', [('text', 'label'), *((f'number {i}', i) for i in new)])
    table('pairs_new.csv', [('text', 'second', 'label'), *((f'number {i}', 'it is odd', 'no') for i in new)])
    table('few.csv', [('text', 'label'), ('number 3 is odd', 'no'), ('number 4 is even', 'yes')])
    table('pool.csv', [('text', 'second'), *((f'letter {c}', f'it is {c}') for c in 'abcdefgh')])
    table('crows.csv', [
        ('sent_more', 'sent_less', 'stereo_antistereo', 'bias_type'),
        *((f'an old {i}', f'a {i}', 'stereo', 'age') for i in range(4)),
    ])  # fmt: skip
    for name, tag, numbers in (('tags', 'B-PER', range(60)), ('tags_new', 'O', new)):
        (folder / f'{name}.conll').write_text(''.join(f'Ann{i} {tag}\nis B-PER\nodd O\n\n' for i in numbers))
    for name, asked in (('dialogues', texts), ('dialogues_new', [f'number {i}' for i in new])):
        chats = ([{'role': 'user', 'content': text}, {'role': 'assistant', 'content': 'no'}] for text in asked)
        (folder / f'{name}.jsonl').write_text(''.join(json.dumps({'messages': chat}) + '\n' for chat in chats))
    rule = {'name': 'own', 'label': 'yes', 'threshold': 0.5}
    for kind in KINDS:
        rules = [rule | {'model': str(folder / directory(kind))} | ({'label': None} if kind == 'numbers' else {})]
        (folder / f'{directory(kind)}.json').write_text(json.dumps(rules))
    (folder / 'texts.txt').write_text('\n'.join(texts) + '\n')
    (folder / 'text.txt').write_text('\n'.join(f'the square of {i} is {i * i}.' for i in range(1500)))
    (folder / 'bbq.jsonl').write_text(
        f'{json.dumps(QUESTION)}\n{json.dumps(QUESTION | {"context_condition": "disambig"})}\n'
    )
    (folder / 'rules.json').write_text(json.dumps([{'name': 'letters', 'pattern': '[a-m]', 'threshold': 0.5}]))
    (folder / 'sets.json').write_text(json.dumps([['even', 'odd'], ['number', 'letter']]))
    groups = {'a': {'name': ['Anna']}, 'b': {'name': ['Bob']}}
    (folder / 'own.json').write_text(json.dumps({'templates': ['{name} is odd'], 'groups': groups}))
    (folder / 'prompts.txt').write_text('an apple\nxyz\n')


def directory(kind, seed=0):
    """The name of the MODEL_DIR of a kind."""
    return f'{kind.replace(" ", "_")}_{seed}'


def train(made, folder, kind, seed=0):
    """Trains a run of a kind for a step on the bases of the fixture `made`; returns its MODEL_DIR."""
    model_dir = folder / directory(kind, seed)
    if (model_dir / 'summary.json').exists():
        return model_dir
    common = '--gin.BATCH_SIZE=8', f'--gin.SEED={seed}'
    if KINDS[kind] is None:
        start = f'--gin.INITIAL_CHECKPOINT_PATH={made / "base"}'
        result = run(folder / 'text.txt', model_dir, '--gin.TRAIN_STEPS=1', start, *common)
    else:
        table, flags = KINDS[kind]
        result = finetune(made, model_dir, *common, *flags, table=folder / table, steps=1)
    assert result.returncode == 0, (kind, result.stderr[-3000:])
    return model_dir


def files_of(kind):
    """The tables of a kind: what it is trained on, what it is renewed with, and what it is asked."""
    name = (KINDS[kind] or ('labels.csv', ()))[0]
    stem, _, suffix = name.partition('.')
    asked = {'tags': 'texts.txt', 'text alone': 'texts.txt'}.get(kind, name)
    return name, f'{stem}_new.{suffix}', asked


PAIR = ('--second_text=it is odd',)
COMMANDS = {  # row of the table: the command for a model m and an output o, without its suffix
    '`explain-prediction`': lambda m, o: [
        'explain-prediction', m.config, '--text=number 3 is odd', *(PAIR if m.kind == 'pairs of texts' else ()),
        '--steps=2', '--random=1', '--counterfactual=1', f'--output={o}.html',
    ],
    '`explain-prediction --substitutes`': lambda m, o: [
        'explain-prediction', m.config, '--text=number 3 is odd', *(PAIR if m.kind == 'pairs of texts' else ()),
        '--steps=1', '--random=0', '--counterfactual=1', f'--substitutes={m.folder}/sets.json', f'--output={o}.html',
    ],
    '`inspect step`': lambda m, o: ['inspect', 'step', m.config, '--step=1', '--rows=1', f'--output={o}.html'],
    '`rank-examples`': lambda m, o: ['rank-examples', m.config, f'--output={o}.html'],
    '`rank-examples --by=disagreement`': lambda m, o: [
        'rank-examples', m.config, '--by=disagreement', f'--other={m.other}', f'--output={o}.html',
    ],
    '`probe`': lambda m, o: [
        'probe', m.config, '--probes=typos', '--examples=2', f'--table=new={m.folder}/{files_of(m.kind)[1]}',
        f'--output={o}.html',
    ],
    '`fairness --groups`': lambda m, o: [
        'fairness', m.config, f'--input={m.folder}/{m.labelled}', '--groups=sex', f'--output={o}.html',
    ],
    '`fairness --templates`': lambda m, o: [
        'fairness', m.config, f'--templates={m.folder}/own.json', f'--output={o}.html',
    ],
    '`fairness --pairs`': lambda m, o: ['fairness', m.config, f'--pairs={m.folder}/crows.csv', f'--output={o}.html'],
    '`fairness --bbq`': lambda m, o: ['fairness', m.config, f'--bbq={m.folder}/bbq.jsonl', f'--output={o}.html'],
    '`toxicity`': lambda m, o: [
        'toxicity', m.config, f'--rules={m.folder}/rules.json', f'--input={m.folder}/prompts.txt', '--samples=2',
        '--max_tokens=3', f'--output={o}.html',
    ],
    '`memorization`': lambda m, o: [
        'memorization', m.config, '--tokens=8', '--examples=4', f'--output={o}.html',
    ],
    '`contamination`': lambda m, o: ['contamination', m.config, '--words=3', f'--output={o}.html'],
    '`drift`': lambda m, o: [
        'drift', m.config, f'--input={m.asked}', f'--reference={m.asked}', f'--output={o}.html',
    ],
    '`retune`': lambda m, o: ['retune', f'--registry={o}', f'--champion={m.run}'],
    '`select`': lambda m, o: ['select', m.config, f'--input={m.folder}/pool.csv', f'--output={o}.csv', '--count=3'],
    '`select --strategy=coreset`': lambda m, o: [
        'select', m.config, f'--input={m.folder}/pool.csv', f'--output={o}.csv', '--count=3', '--strategy=coreset',
    ],
    '`augment --generate`, `--through_run`': lambda m, o: [
        'augment', f'--input={m.folder}/few.csv', f'--output={o}.jsonl', f'--through_run={m.run}',
    ],
    '`augment --filter`': lambda m, o: [
        'augment', f'--input={m.folder}/few.csv', f'--output={o}.jsonl', '--through_command=rev', f'--filter={m.run}',
    ],
    'rules with a `model`': lambda m, o: [
        'filter', f'--rules={m.folder}/{directory(m.kind)}.json', f'--input={m.folder}/few.csv', f'--output={o}.csv',
    ],
    '`teach`': lambda m, o: ['teach', m.config, f'--output={o}.npz', '--top_k=3'],
    '`fisher`': lambda m, o: ['fisher', m.config, f'--output={o}.npz', '--rows=4'],
    '`fuse`': lambda m, o: ['fuse', str(m.run), str(m.other), str(o)],
    '`compare`': lambda m, o: ['compare', str(m.run), str(m.other)],
    '`infer`': lambda m, o: ['infer', m.config, f'--input={m.asked}', f'--output={o}.jsonl'],
    '`eval`': lambda m, o: ['eval', m.config, f'--output={o}.json'],
    '`export`': lambda m, o: ['export', m.config, str(o)],
}  # fmt: skip


def described(made, folder, kind, model_dir=None):
    """What the commands of a kind ask for; other runs are trained when a command names them."""
    table, _, asked = files_of(kind)
    run_of = model_dir or train(made, folder, kind)
    labelled = table if table.endswith('.csv') else 'labels.csv'
    other = made / 'base' if kind == 'text alone' else folder / directory(kind, 1)
    return SimpleNamespace(
        kind=kind, folder=folder, run=run_of, config=f'--gin_file={run_of}/config.gin', other=other,
        asked=folder / asked, labelled=labelled,
    )  # fmt: skip


def differences(model, rows, table):
    """Where the table and the programs disagree, in words."""
    found = []
    for number, row in enumerate(rows):
        arguments = COMMANDS[row](model, model.folder / f'out_{directory(model.kind)}_{number}')
        result = run_here('palm_jax.cli.main', *arguments)
        expected = 0 if table[row][model.kind].startswith('yes') else 2
        message = result.stderr.strip().splitlines()[-1:] or ['']
        if result.returncode != expected or (expected and not message[0].startswith('error: ')):
            found.append(f'{model.kind}, {row}: {result.returncode}, {message[0][:300]}')
    return found


def test_the_table_has_a_command_for_each_row_and_a_model_for_each_column():
    table = table_of_programs()
    assert list(table) == list(COMMANDS)
    assert all(list(row) == list(KINDS) for row in table.values())
    assert all(cell.split(',')[0].split()[0] in ('yes', 'no') for row in table.values() for cell in row.values())


def test_what_a_language_model_cannot_do_is_refused_with_a_message(made, tmp_path):
    write_files(tmp_path)
    table, model = table_of_programs(), described(made, tmp_path, 'text alone', made / 'base')
    rows = [row for row in table if table[row]['text alone'] == 'no' and row != 'rules with a `model`']
    assert len(rows) > 5 and not differences(model, rows, table)


@pytest.mark.slow
@pytest.mark.parametrize('kind', KINDS)
def test_every_program_does_what_the_table_says(made, tmp_path, kind):
    write_files(tmp_path)
    model = described(made, tmp_path, kind)
    if kind != 'text alone':
        train(made, tmp_path, kind, seed=1)
    assert differences(model, COMMANDS, table_of_programs()) == []
