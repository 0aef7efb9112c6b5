"""Sequences of tasks: what is trained from what, measured when, and refused before anything is written."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from palm_jax.errors import UserError
from palm_jax.run_directory import RunDirectory
from palm_jax.studies import continual_table
from palm_jax.studies.continual import Continual, TaskRead
from tests.support.paths import ROOT

FLAGS = ('--gin_file=gin/finetune_lora.gin', '--gin.INITIAL_CHECKPOINT_PATH=runs/tiny')
TASKS = {
    'a': ['--gin.TRAIN_FILES=a.csv'],
    'The second': ['--gin.TRAIN_FILES=b.csv'],
    'c': ['--gin.TRAIN_FILES=c.csv'],
}
LATER = (
    '--gin_file=gin/methods/ewc.gin',
    '--gin.FISHER_FILE={fisher}',
    '--gin_file=gin/methods/replay.gin',
    '--gin.REPLAY_FILES={earlier_files}',
)
SCORES = [[0.1, 0.2, 0.3], [0.9, 0.25, 0.2], [0.7, 0.8, 0.4], [0.6, 0.85, 0.95]]


@pytest.fixture(autouse=True)
def at_the_root(monkeypatch):
    monkeypatch.chdir(ROOT)


class FakeTools:
    """Leaves what training leaves, and keeps what it was asked for."""

    def __init__(self, code=0, **changes):
        self.asked, self.code, self.changes, self.started = [], code, changes, {}

    def read(self, flags):
        name = re.search(r'TRAIN_FILES=(\w)', ' '.join(flags))[1]
        changes = self.changes.get(name, {})
        if isinstance(changes, str):
            raise UserError(changes)
        union = any(flag.startswith('--gin.LABELS=') for flag in flags)
        labels = ('yes', 'no', 'maybe') if union else {'c': ('yes', 'maybe')}.get(name, ('yes', 'no'))
        return TaskRead(**({'labels': labels, 'form': 'a head', 'files': (f'{name}.csv',)} | changes))

    def train(self, files, bindings, command):
        values = dict(bindings)
        directory = RunDirectory(Path(values['MODEL_DIR'].strip("'")))
        self.asked.append(('train', directory.path.name))
        self.started[directory.path.name] = files, values
        if self.code:
            return self.code
        directory.path.mkdir(parents=True)
        directory.summary.write_text('{}')
        return 0

    def evaluate(self, model_dir, tasks):
        number = 0 if model_dir is None else int(model_dir.name[0])
        self.asked.append(('evaluate', number))
        assert len(tasks) == 3 and not any('ewc' in flag for flags in tasks for flag in flags)
        return [{'loss': 1.0, 'accuracy': score} for score in SCORES[number]]

    def save_whole(self, model_dir, to):
        self.asked.append(('save', to.name))
        return to

    def write_fisher(self, model_dir, output, earlier, settings):
        self.asked.append(('fisher', model_dir.name, earlier and earlier.name))
        output.write_text('')


def study(folder, **changes):
    given = {'directory': str(folder / 'study'), 'flags': FLAGS, 'tasks': TASKS, 'later_flags': LATER}
    return Continual(**(given | changes))


def test_each_task_starts_from_the_one_before_and_all_are_measured_after_each(tmp_path):
    tools = FakeTools()
    assert study(tmp_path).train(tools) == 0
    assert tools.asked == [
        ('evaluate', 0),
        ('train', '1_a'),
        ('evaluate', 1),
        ('save', '1_a_whole'),
        ('fisher', '1_a', None),
        ('train', '2_the_second'),
        ('evaluate', 2),
        ('save', '2_the_second_whole'),
        ('fisher', '2_the_second', '1_a.fisher.npz'),
        ('train', '3_c'),
        ('evaluate', 3),
    ]
    files, values = tools.started['1_a']
    assert files == ['gin/finetune_lora.gin'] and 'FISHER_FILE' not in values
    assert values['INITIAL_CHECKPOINT_PATH'] == 'runs/tiny' and eval(values['LABELS']) == ['yes', 'no', 'maybe']
    files, values = tools.started['3_c']
    assert files[1:] == ['gin/methods/ewc.gin', 'gin/methods/replay.gin']
    assert values['INITIAL_CHECKPOINT_PATH'].strip("'").endswith('study/2_the_second_whole')
    assert eval(values['REPLAY_FILES']) == ['a.csv', 'b.csv']
    assert values['FISHER_FILE'].strip("'").endswith('study/2_the_second.fisher.npz')


def test_what_is_finished_is_not_done_again(tmp_path):
    interrupted = FakeTools(code=130)
    assert study(tmp_path).train(interrupted) == 130
    assert interrupted.asked == [('evaluate', 0), ('train', '1_a')]
    first = FakeTools()
    first.write_fisher = lambda *_: (_ for _ in ()).throw(KeyboardInterrupt)  # killed between two tasks
    with pytest.raises(KeyboardInterrupt):
        study(tmp_path).train(first)
    assert first.asked == [('train', '1_a'), ('evaluate', 1), ('save', '1_a_whole')]
    second = FakeTools()
    assert study(tmp_path).train(second) == 0
    done = [step[:2] for step in second.asked if step[0] != 'save']
    assert done[:2] == [('fisher', '1_a'), ('train', '2_the_second')] and ('train', '1_a') not in done
    third = FakeTools()
    assert study(tmp_path).train(third) == 0
    assert all(step[0] == 'save' for step in third.asked)
    whole = study(tmp_path / 'other')
    whole.train(FakeTools())
    assert whole.scores.read() == study(tmp_path).scores.read() == SCORES


def test_the_result_is_a_table_a_page_and_a_heat_map(tmp_path):
    study(tmp_path).train(FakeTools())
    scores, found = continual_table.measure(study(tmp_path))
    np.testing.assert_array_equal(scores, SCORES)
    shown = continual_table.text(study(tmp_path), scores, found)
    assert re.search(r'^accuracy +a +The second +c$', shown, re.MULTILINE)
    assert re.search(r'^after The second +0\.7000 +0\.8000 +0\.4000$', shown, re.MULTILINE)
    assert re.search(r'^forgetting +\+0\.1250 ', shown, re.MULTILINE)
    assert re.search(r'^backward transfer \(BWT\) +-0\.1250 ', shown, re.MULTILINE)
    assert re.search(r'^forward transfer \(FWT\) +\+0\.0750 ', shown, re.MULTILINE)
    paths = continual_table.write(study(tmp_path), scores, found)
    assert [path.suffix for path in paths] == ['.json', '.md', '.html', '.png']
    assert all(path.stat().st_size for path in paths)
    record = json.loads(paths[0].read_text())
    assert record['scores'] == SCORES[1:] and record['before'] == SCORES[0]
    assert record['forgetting'] == pytest.approx(0.125)
    assert 'not measured yet' not in paths[1].read_text()


def test_an_incomplete_result_says_so(tmp_path):
    with pytest.raises(UserError, match='holds no measured task'):
        continual_table.measure(study(tmp_path))
    study(tmp_path).train(FakeTools(code=130))
    scores, found = continual_table.measure(study(tmp_path))
    assert np.isnan(scores[1:]).all()
    paths = continual_table.write(study(tmp_path), scores, found)
    assert '3 rows of 4 not measured yet' in paths[1].read_text()
    assert json.loads(paths[0].read_text())['forgetting'] is None


@pytest.mark.parametrize(
    'changes, message',
    [
        ({'tasks': {'a': []}}, 'TASKS has one task; name at least two'),
        ({'tasks': {'a b': [], 'A_b': []}}, "'a b', 'A_b' have the same folder 'a_b'"),
        ({'tasks': {'a': [], '+': []}}, 'must have a letter or a digit'),
        ({'flags': ()}, 'it must be not empty'),
    ],
)
def test_a_study_that_makes_no_sense_is_refused(tmp_path, changes, message):
    with pytest.raises(UserError, match=message):
        study(tmp_path, **changes)


@pytest.mark.parametrize(
    'changes, of_tools, message',
    [
        ({'tasks': TASKS | {'c': ['--gin.TRAIN_FILES=c.csv', '--gin.LORA_RNAK=3']}}, {}, r"TASKS\['c'\]: .*LORA_RANK"),
        ({'tasks': TASKS | {'c': ['--gin.MODEL_DIR=x']}}, {}, r"TASKS\['c'\]: --gin.MODEL_DIR has no effect"),
        (
            {'tasks': TASKS | {'c': ['--gin.INITIAL_CHECKPOINT_PATH=x']}},
            {},
            r"TASKS\['c'\]: --gin.INITIAL_CHECKPOINT_PATH has no effect here: FLAGS has the base",
        ),
        ({'later_flags': ['--gin.FISHER_FILE={fischer}']}, {}, r'LATER_FLAGS: .*\{fischer\}. Did you mean fisher'),
        ({}, {'b': {'files': ()}}, r'LATER_FLAGS: \{earlier_files\} is the list of the files'),
        ({}, {'c': 'c.csv: no such file'}, r"TASKS\['c'\]: c.csv: no such file"),
        (
            {},
            {'b': {'form': 'no head'}},
            "one model learns all tasks, and 'The second' has no head, where 'a' has a head",
        ),
        (
            {},
            {'c': {'has_labels_of_its_own': True}},
            'LABELS of the tasks differ.*Bind it once, in FLAGS, to the 3 labels',
        ),
    ],
)
def test_mistakes_are_found_before_anything_is_written(tmp_path, changes, of_tools, message):
    tools = FakeTools(**of_tools)
    with pytest.raises(UserError, match=message):
        study(tmp_path, **changes).train(tools)
    assert tools.asked == [] and not (tmp_path / 'study').exists()


def test_a_mistyped_metric_costs_no_training(tmp_path):
    tools = FakeTools()
    with pytest.raises(UserError, match=r"METRIC is 'acuracy'.*Did you mean accuracy.*It has loss, accuracy"):
        study(tmp_path, metric='acuracy').train(tools)
    assert tools.asked == [('evaluate', 0)]


def test_a_directory_of_other_tasks_is_refused(tmp_path):
    study(tmp_path).train(FakeTools())
    with pytest.raises(UserError, match=r'holds a study of accuracy on a, The second, c, this one is of loss'):
        study(tmp_path, metric='loss').train(FakeTools())
    with pytest.raises(UserError, match=r'(?s)holds a run with other flags:.*LORA_RANK=2'):
        study(tmp_path, flags=(*FLAGS, '--gin.LORA_RANK=2')).train(FakeTools())


def test_a_run_of_other_flags_is_found_by_the_check(tmp_path):
    study(tmp_path).train(FakeTools())
    study(tmp_path).check(FakeTools())
    tasks = TASKS | {'c': [*TASKS['c'], '--gin.LORA_RANK=2']}
    with pytest.raises(UserError, match=r'(?s)3_c holds a run with other flags:\n\+--gin.LORA_RANK=2\n'):
        study(tmp_path, tasks=tasks).check(FakeTools())
    with pytest.raises(UserError, match=r'this one is of loss'):
        study(tmp_path, metric='loss').check(FakeTools())
    last = study(tmp_path).run_directory(2)
    last.summary.unlink()  # it was interrupted: what changes what it trains is refused, its number of steps is not
    last.checkpoint(5).mkdir(parents=True)
    with pytest.raises(UserError, match=r'3_c holds a run with other flags'):
        study(tmp_path, tasks=tasks).check(FakeTools())
    study(tmp_path, tasks=TASKS | {'c': [*TASKS['c'], '--gin.TRAIN_STEPS=20']}).check(FakeTools())
    shutil.rmtree(study(tmp_path).run_directory(1).path)
    with pytest.raises(UserError, match=r"3_c began from an earlier run of 'The second'.*rm -r .*3_c"):
        study(tmp_path).check(FakeTools())


def test_a_task_that_is_trained_again_is_measured_again(tmp_path):
    tools = FakeTools()
    assert study(tmp_path).train(tools) == 0
    shutil.rmtree(study(tmp_path).run_directory(1).path)
    with pytest.raises(UserError, match=r"3_c began from an earlier run of 'The second'.*rm -r .*3_c"):
        study(tmp_path).train(FakeTools())
    shutil.rmtree(study(tmp_path).run_directory(2).path)
    again = FakeTools()
    assert study(tmp_path).train(again) == 0
    asked = [step[:2] for step in again.asked if step[0] in ('train', 'evaluate', 'fisher')]
    assert asked == [
        ('train', '2_the_second'), ('evaluate', 2), ('fisher', '2_the_second'), ('train', '3_c'), ('evaluate', 3),
    ]  # fmt: skip
    assert np.array_equal(study(tmp_path).scores.read(), SCORES)
