"""Every task of gin/tasks as a whole run: on small invented data in its format, and on the real data where that is."""

import json
import re

import pytest

from palm_jax.api import predictions
from palm_jax.api.loading import load
from palm_jax.errors import UserError
from tests.support.paths import ROOT
from tests.support.runs import finetune

DATA = ROOT / 'data' if (ROOT / 'data').is_dir() else ROOT.parent / 'shared' / 'data'
METRICS = {
    'banking77': 'macro_f1',
    'clinc150': 'macro_f1',
    'sst2': 'macro_f1',
    'wnut17': 'entity_f1',
    'weibo_ner': 'entity_f1',
    'xquad_en': 'f1',
    'xquad_zh': 'f1',
    'e2e_nlg': 'bleu',
    'tatoeba_en_zh': 'bleu',
    'kdconv': 'bleu',
    'stdlib_docstrings': 'rougeL',
    'stdlib_function_names': 'f1',
    'stdlib_tokens': 'entity_f1',
    'stdlib_sessions': 'f1',
    'cldr_languages': 'macro_f1',
    'cldr_translations': 'chrf',
    'cldr_territories': 'exact_match',
    'registered_text_to_text': 'rougeL',
    'registered_labels': 'macro_f1',
    'registered_tags': 'entity_f1',
}
EVERY_DAY = ('wnut17', 'banking77')  # a tagger, classes; serving has text to text and a dialogue
WRITTEN = {
    'xquad_en': {'question': 'who?', 'context': 'Ann.'},
    'xquad_zh': {'question': '谁？', 'context': '安。'},
    'e2e_nlg': 'name[The Eagle]',
    'tatoeba_en_zh': 'Hi.',
    'kdconv': ['知道吗？', '知道。', '谢谢'],
    'stdlib_docstrings': 'def f(x):\n    return x',
    'registered_text_to_text': 'summarize: def f(x):\n    return x',
    'stdlib_function_names': 'def _(x):\n    return x',
    'stdlib_sessions': ['1 + 1', '2', '2 + 2'],
    'cldr_translations': {'target': 'German', 'name': 'Spain'},
    'cldr_territories': {'question': 'Which language?', 'context': 'Spanish.'},
}


def train(made, task, model_dir, cwd):
    lengths = "{'inputs': 48, 'targets': 16}" if task in WRITTEN else "{'inputs': 48}"
    flags = ['--gin.BATCH_SIZE=4', f'--gin.TASK_FEATURE_LENGTHS={lengths}']
    if task in WRITTEN:
        flags.append('--gin.EVAL_EXAMPLES=3')
    result = finetune(made, model_dir, f'--gin_file=gin/tasks/{task}.gin', *flags, table=None, steps=2, cwd=cwd)
    assert result.returncode == 0, result.stderr[-3000:]
    summary = json.loads((model_dir / 'summary.json').read_text())
    assert METRICS[task] in summary, summary
    for name in ('report.md', 'report.html', 'predictions.jsonl', 'loss.png'):
        assert (model_dir / name).stat().st_size > 0, name
    return result


def test_every_task_is_here():
    tasks = {path.stem for path in (ROOT / 'gin' / 'tasks').glob('*.gin')} - {'python_stdlib'}
    assert tasks == METRICS.keys()


@pytest.mark.parametrize(
    'task', [task if task in EVERY_DAY else pytest.param(task, marks=pytest.mark.slow) for task in METRICS]
)
def test_a_task_runs_from_its_files_to_a_report_and_an_answer(made, small_tasks, tmp_path, task, monkeypatch):
    train(made, task, tmp_path / 'run', small_tasks[task])
    monkeypatch.chdir(tmp_path)  # the task's files are not here, and need not be
    model = load(tmp_path / 'run')
    if task in WRITTEN:
        (answer,) = model.generate([WRITTEN[task]])
        assert isinstance(answer, str)
        with pytest.raises(UserError, match='use generate'):
            model.extract_entities(['Ann'])
    elif METRICS[task] == 'entity_f1':
        text = 'Ann met Bob, in Rome.'
        (entities,) = model.extract_entities([text])
        for entity in entities:
            assert (
                text[entity['start'] : entity['end']] == entity['text'] and f'B-{entity["type"]}' in model.data.labels
            )
        assert model.extract_entities([text.split()]) is not None and model.extract_entities([]) == []
    else:
        (probabilities,) = model.predict(['what about it?'])
        assert probabilities.keys() == set(model.data.labels) and abs(sum(probabilities.values()) - 1) < 1e-5

    # The same from a file to a file.
    row = WRITTEN.get(task, 'what about it, Ann?')
    if isinstance(row, list):
        row = {'messages': row}
    elif isinstance(row, str):
        column = getattr(model.data, 'table', None) and getattr(model.data.table, 'text_column', 'text')
        row = {column or next(iter(model.data.source.fields), 'input'): row}
    (tmp_path / 'in.jsonl').write_text(json.dumps(row) + '\n{}\n')
    assert predictions.write(model, str(tmp_path / 'in.jsonl'), str(tmp_path / 'out.jsonl'), {}) == (1, 1)
    said, error = map(json.loads, (tmp_path / 'out.jsonl').read_text().splitlines())
    if task in WRITTEN:
        assert said['predicted'] == answer
    elif METRICS[task] == 'entity_f1':
        assert said['entities'] == model.extract_entities([row['text']])[0]
    else:
        assert said['probabilities'] == pytest.approx(model.predict(list(row.values()))[0])
    assert 'line 2' in error['error']


@pytest.mark.slow
@pytest.mark.parametrize('task', [task for task in METRICS if not task.startswith(('stdlib', 'cldr', 'registered'))])
def test_a_task_runs_on_its_real_data(made, tmp_path, task):
    folder = DATA / re.search(r"'data/([\w-]+)/", (ROOT / f'gin/tasks/{task}.gin').read_text())[1]
    if not folder.is_dir():
        pytest.skip(f'{folder} is not here')
    (tmp_path / 'data').symlink_to(DATA.resolve())
    train(made, task, tmp_path / 'run', tmp_path)
