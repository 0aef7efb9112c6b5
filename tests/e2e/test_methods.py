"""Methods around the loss and the data in whole runs: continued, they are bit for bit what they are in one piece."""

import json

import jax
import numpy as np
import pytest
from scipy.stats import rankdata

from palm_jax import api
from tests.support.programs import run_here
from tests.support.runs import MICRO, checkpoint_arrays, finetune, run

CONSTANT = '--gin_file=gin/schedules/constant.gin'
PAIRS = (
    *('--gin_file=gin/heads/text_to_text.gin', '--gin.INPUT_TEMPLATE={text}', '--gin.TARGET_TEMPLATE={label}'),
    *("--gin.TASK_FEATURE_LENGTHS={'inputs': 32, 'targets': 8}", '--gin.EVAL_EXAMPLES=4'),
)


def write_rules(folder):
    """Write rules about the labels of classes.csv, of which the last is wrong for most texts; return the file."""
    lines = 'if text contains "even" then label is yes', 'if text contains "number" then label is not no weight 0.1'
    (folder / 'rules.txt').write_text('\n'.join(lines))
    return folder / 'rules.txt'


def write_triples(folder):
    """Write triples about numbers; return the file."""
    lines = [
        f'number {i}\t{name}\tnumber {i + step}' for i in range(15) for step, name in ((1, 'next'), (2, 'after it'))
    ]
    (folder / 'facts.tsv').write_text('\n'.join(lines))
    return folder / 'facts.tsv'


def write_teacher(folder):
    """Write what a teacher predicts for classes.csv and for texts like them; return the file."""
    texts = [(f'number {i} is {"odd" if i % 2 else "even"}', i % 2) for i in range(400)]
    rows = [{'text': text, 'probabilities': {'yes': 0.02 + 0.97 * (1 - odd), 'no': 0.98 * odd}} for text, odd in texts]
    (folder / 'teacher.jsonl').write_text('\n'.join(map(json.dumps, rows)))
    return folder / 'teacher.jsonl'


def write_token_teacher(made, folder):
    """Train a teacher of classes.csv that generates the labels, and write what it predicts; return the file."""
    result = finetune(made, folder / 'teacher', *PAIRS, steps=2)
    assert result.returncode == 0, result.stderr[-3000:]
    config, output = f'--gin_file={folder}/teacher/config.gin', f'--output={folder}/teacher.npz'
    result = run_here('palm_jax.cli.main', 'teach', config, output, '--top_k=8', '--batch_size=64')
    assert result.returncode == 0 and '8 tokens each' in result.stdout, result.stderr[-3000:]
    return folder / 'teacher.npz'


def write_earlier(made, folder):
    """Train a model of the earlier task, and write its Fisher information; return flags that start from it."""
    result = finetune(made, folder / 'first', '--gin_file=gin/peft/full.gin', steps=2)
    assert result.returncode == 0, result.stderr[-3000:]
    of_first = f'--gin_file={folder}/first/config.gin', f'--output={folder}/first.npz', '--rows=8'
    result = run_here('palm_jax.cli.main', 'fisher', *of_first)
    assert result.returncode == 0 and '8 of the training table' in result.stdout, result.stderr[-3000:]
    return [f'--gin.INITIAL_CHECKPOINT_PATH={folder}/first']


def flags_of(method, made, folder):
    """The flags of a method, after writing what it reads; of a head for which it is the loss, the head."""
    if method == 'simcse':
        return ['--gin_file=gin/heads/embedding.gin', '--gin.DROPOUT_RATE=0.1']
    flags = [f'--gin_file=gin/methods/{method}.gin']
    if method in ('unlikelihood', 'distil_tokens', 'gkd', 'triples'):
        flags = [*PAIRS, *flags]
    if method == 'unlikelihood':
        flags += ['--gin.REPEAT_WINDOW=8', "--gin.UNLIKELY_PHRASES=['no']"]
    if method == 'distil_tokens':
        flags += [f'--gin.TEACHER_FILE={write_token_teacher(made, folder)}']
    if method in ('gkd', 'minilm'):
        flags += [f'--gin.TEACHER_CHECKPOINT_PATH={made}/other']
    if method == 'gkd':
        flags += ['--gin.GKD_MAX_NEW_TOKENS=4', '--gin.GKD_WEIGHT=0.5']
    if method == 'triples':
        flags += [f'--gin.TRIPLES={write_triples(folder)}', '--gin.TRAIN_FILES=@verbalized.table()']
        flags += ['--gin.INPUT_TEMPLATE={input}', '--gin.TARGET_TEMPLATE={target}']
    if method in ('ewc', 'lwf'):
        flags += write_earlier(made, folder)
    if method == 'ewc':
        flags += [f'--gin.FISHER_FILE={folder}/first.npz', '--gin.EWC_WEIGHT=1e4']
    if method in ('fixmatch', 'uda', 'pseudo_label'):
        flags += [f'--gin.UNLABELLED_FILES={made}/classes.csv', '--gin.UNLABELLED_RATIO=1']
    if method == 'replay':
        flags += [f'--gin.REPLAY_FILES={made}/classes.csv']
    if method in ('posterior_regularization', 'semantic_loss'):
        flags += [f'--gin.RULE_FILES={write_rules(folder)}']
    if method == 'transe':
        flags += [f'--gin.TRIPLES={write_triples(folder)}']
    if method == 'group_dro':
        flags += ['--gin.GROUP_COLUMN=label']
    if method == 'clp':
        flags += ["--gin.CLP_TERMS=[['even', 'odd']]"]
    if method in ('distil', 'self_training'):
        flags += [f'--gin.TEACHER_FILES={write_teacher(folder)}']
    if method == 'made_texts':
        made_of = [{'text': f'number {i} is even', 'augmented': f'{i} is', 'origin': 'me'} for i in range(0, 300, 2)]
        (folder / 'made.jsonl').write_text('\n'.join(map(json.dumps, made_of)))
        flags += [f'--gin.AUGMENTED_FILES={folder}/made.jsonl']
    if method == 'entity_replacement':
        (folder / 'tags.conll').write_text(''.join(f'Ann{i} B-PER\nis O\nhere O\n\n' for i in range(120)))
        flags = [
            '--gin_file=gin/heads/tagging.gin',
            *flags,
            f'--gin.TRAIN_FILES={folder}/tags.conll',
        ]  # a head comes first
    return flags


METHODS = (
    *('fixmatch', 'uda', 'pseudo_label', 'freelb', 'fgm', 'pgd', 'r_drop', 'supcon', 'distil', 'aeda', 'eda'),
    *('made_texts', 'entity_replacement', 'replay', 'ewc', 'lwf', 'group_dro', 'clp', 'posterior_regularization'),
    *('semantic_loss', 'transe', 'unlikelihood', 'distil_tokens', 'minilm', 'gkd'),
)


def assert_same_arrays(one, two):
    one, two = map(checkpoint_arrays, (one, two))
    assert one.keys() == two.keys()
    for name, value in one.items():
        np.testing.assert_array_equal(value, two[name], err_msg=name)


@pytest.mark.slow
@pytest.mark.parametrize('method', [*METHODS, 'simcse', 'self_training', 'triples'])
def test_a_run_that_was_interrupted_continues_bit_for_bit(made, tmp_path, method):
    flags = [*flags_of(method, made, tmp_path), CONSTANT, '--gin.CHECKPOINT_PERIOD=2']
    for name, steps in (('whole', (4,)), ('parts', (2, 4))):
        for number in steps:
            result = finetune(made, tmp_path / name, *flags, steps=number)
            assert result.returncode == 0, result.stderr[-3000:]
    assert_same_arrays(tmp_path / 'whole', tmp_path / 'parts')


OFF = {
    'freelb': ('FREELB_STEP_SIZE', 'FREELB_MAGNITUDE'),
    'distil_tokens': ('DISTIL_WEIGHT',),
    'r_drop': ('R_DROP_ALPHA',),
    'replay': ('REPLAY_RATE',),
    'posterior_regularization': ('RULE_SHARE',),
} | dict.fromkeys(('aeda', 'eda', 'entity_replacement', 'made_texts'), ('AUGMENT_COPIES',))


@pytest.mark.slow
@pytest.mark.parametrize('method', METHODS)
def test_a_method_with_a_weight_of_0_is_plain_training(made, tmp_path, method):
    flags = flags_of(method, made, tmp_path)
    names = OFF.get(method, (f'{method.upper()}_WEIGHT',))
    off = [f'--gin.{name}={0 if name == "AUGMENT_COPIES" else 0.0}' for name in names]
    kept = '/heads/', 'TRAIN_FILES', 'INITIAL_CHECKPOINT_PATH', '_TEMPLATE=', 'TASK_FEATURE_LENGTHS', 'EVAL_EXAMPLES'
    plain = [flag for flag in flags if any(part in flag for part in kept)]
    for name, given in (('off', [*flags, *off]), ('plain', plain)):
        result = finetune(made, tmp_path / name, *given, steps=2)
        assert result.returncode == 0, result.stderr[-3000:]
    assert_same_arrays(tmp_path / 'off', tmp_path / 'plain')


def test_methods_with_a_weight_of_0_are_plain_training_together(made, classifier, tmp_path):
    """A representative of the test above: what reads the batch, what changes it, and what is kept with the state."""
    methods = 'posterior_regularization', 'distil', 'group_dro', 'clp', 'fgm', 'uda'
    flags = [flag for method in methods for flag in flags_of(method, made, tmp_path)]
    off = 'RULE_SHARE', 'DISTIL_WEIGHT', 'GROUP_DRO_WEIGHT', 'CLP_WEIGHT', 'FGM_WEIGHT', 'UDA_WEIGHT'
    names = ['posterior_regularization.PosteriorRegularization', 'distillation.Distillation', 'group_dro.GroupDRO']
    names += ['clp.CLP', 'fgm.FGM', 'uda.UDA']
    flags += [f'--gin.LOSS_WRAPPERS=[{", ".join(f"@{name}()" for name in names)}]']
    flags += [
        '--gin.FURTHER_FEATURES=[@teacher.TeacherPredictions(), @groups.GroupIds(), @counterfactuals.Counterfactuals()]'
    ]
    flags += ['--gin.unlabelled.WithUnlabelled.data=@label_rules.WithRules()']
    result = finetune(made, tmp_path / 'off', *flags, *(f'--gin.{name}=0.0' for name in off), steps=3)
    assert result.returncode == 0, result.stderr[-3000:]
    assert_same_arrays(tmp_path / 'off', classifier)


def test_a_few_labels_and_many_texts_become_a_classifier_that_needs_no_tables(made, tmp_path):
    lines = (made / 'classes.csv').read_text().splitlines(keepends=True)
    (tmp_path / 'few.csv').write_text(''.join(lines[:41]))
    (tmp_path / 'many.csv').write_text(''.join([lines[0], *lines[41:]]))
    (tmp_path / 'held_out.csv').write_text(''.join([lines[0], *lines[251:]]))
    flags = '--gin_file=gin/methods/uda.gin', f'--gin.UNLABELLED_FILES={tmp_path}/many.csv', '--gin.UDA_THRESHOLD=0.5'
    few = (
        f'--gin.TRAIN_FILES={tmp_path}/few.csv',
        f'--gin.VALIDATION_FILES={tmp_path}/held_out.csv',
        '--gin.BATCH_SIZE=8',
    )
    result = finetune(made, tmp_path / 'run', *flags, *few, table=None, steps=2)
    assert result.returncode == 0, result.stderr[-3000:]
    logged = [json.loads(line) for line in (tmp_path / 'run' / 'metrics.jsonl').read_text().splitlines()]
    last = [row for row in logged if 'train/confident' in row][-1]
    assert last['train/confident'] == 1.0 and 0 <= last['train/pseudo_accuracy'] <= 1
    assert 'unlabelled 210 texts' in result.stdout + result.stderr  # those that are held out are left out
    for path in ('few.csv', 'many.csv'):
        (tmp_path / path).unlink()
    assert set(api.load(tmp_path / 'run').predict(['number 5 is odd'])[0]) == {'yes', 'no'}


@pytest.mark.slow
def test_a_teacher_that_generates_text_is_written_down_and_learned_from(made, tmp_path):
    teacher = write_token_teacher(made, tmp_path)
    methods = '--gin_file=gin/methods/distil_tokens.gin', f'--gin.TEACHER_FILE={teacher}'
    result = finetune(made, tmp_path / 'student', *PAIRS, *methods, steps=2)
    assert result.returncode == 0, result.stderr[-3000:]
    logged = (tmp_path / 'student' / 'metrics.jsonl').read_text()
    assert 'train/teacher_divergence' in logged
    config = f'--gin_file={tmp_path}/teacher/config.gin'
    result = run_here('palm_jax.cli.main', 'teach', config, '--output=x.csv')
    assert result.returncode == 2 and 'must end in .npz' in result.stderr


@pytest.mark.slow
def test_a_student_with_a_teacher_continues_bit_for_bit_and_with_no_other_one(made, tmp_path):
    flags = [
        *PAIRS,
        CONSTANT,
        '--gin_file=gin/methods/minilm.gin',
        '--gin_file=gin/methods/gkd.gin',
        '--gin.CHECKPOINT_PERIOD=2',
    ]
    flags += [
        '--gin.LOSS_WRAPPERS=[@minilm.MiniLM(), @gkd.GKD()]',
        '--gin.GKD_MAX_NEW_TOKENS=4',
        '--gin.GKD_WEIGHT=0.5',
    ]
    teacher = f'--gin.TEACHER_CHECKPOINT_PATH={made}/other'
    for name, steps in (('whole', (4,)), ('parts', (2, 4))):
        for number in steps:
            result = finetune(made, tmp_path / name, *flags, teacher, steps=number)
            assert result.returncode == 0, result.stderr[-3000:]
    assert_same_arrays(tmp_path / 'whole', tmp_path / 'parts')
    logged = [json.loads(line) for line in (tmp_path / 'whole' / 'metrics.jsonl').read_text().splitlines()]
    rows = [row for row in logged if 'train/teacher_divergence' in row]
    assert {row['train/on_policy'] for row in rows} <= {0.0, 1.0} and rows[-1]['train/relation_divergence'] > 0
    other = f'--gin.TEACHER_CHECKPOINT_PATH={made}/base'
    result = finetune(made, tmp_path / 'parts', *flags, other, '--accept_changes', steps=6)
    assert result.returncode == 2 and 'has learned from the teacher' in result.stderr
    assert api.load(tmp_path / 'whole').generate(['number 7 is odd'])  # which needs no teacher


def test_a_run_with_rules_reports_what_breaks_them(made, tmp_path, monkeypatch):
    function = 'def odd(text, label):\n    return "odd" not in text or label == "no"\n'
    (tmp_path / 'rules_in_python.py').write_text(function)
    (tmp_path / 'mine.gin').write_text(
        'from __gin__ import dynamic_registration\nimport rules_in_python\n'
        "include 'gin/methods/semantic_loss.gin'\nRULES = [(@rules_in_python.odd, 2.0)]\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    flags = f'--gin_file={tmp_path}/mine.gin', f'--gin.RULE_FILES={write_rules(tmp_path)}', '--gin.BATCH_SIZE=8'
    result = finetune(made, tmp_path / 'run', *flags, '--gin.BEST_METRIC=rule_violations_labels', steps=3)
    assert result.returncode == 0, result.stderr[-3000:]
    summary = json.loads((tmp_path / 'run' / 'summary.json').read_text())
    rows = [json.loads(line) for line in (tmp_path / 'run' / 'predictions.jsonl').read_text().splitlines()]
    # Of all texts, the second rule forbids `no`, and of odd numbers the third one `yes`.
    wrong = [row['predicted'] == 'no' or 'odd' in row['text'] for row in rows]
    assert summary['rule_violations'] == pytest.approx(np.mean(wrong))
    assert summary['rule_violations_labels'] == pytest.approx(np.mean([row['label'] == 'no' for row in rows]))
    of_even = [row for row in rows if 'even' in row['text']]
    first, second, third = summary['rules']
    assert first['applies'] == len(of_even) and first['model'] == sum(row['predicted'] == 'no' for row in of_even)
    assert first['projected'] == first['labels'] == 0 and second['applies'] == third['applies'] == len(rows)
    assert third['rule'] == 'odd' and third['labels'] == third['projected'] == 0
    assert set(summary['rule_violations_in_training']) == {'before', 'after'}
    assert (
        'Rules' in (tmp_path / 'run' / 'report.md').read_text() and 'rules, training' in result.stdout + result.stderr
    )
    (tmp_path / 'rules.txt').unlink()
    model = api.load(tmp_path / 'run', trust_modules=['rules_in_python'])
    assert set(model.predict(['number 5 is odd'])[0]) == {'yes', 'no'}


def test_a_run_with_triples_ranks_those_that_are_held_out(made, tmp_path):
    flags = '--gin_file=gin/methods/transe.gin', f'--gin.TRIPLES={write_triples(tmp_path)}', '--gin.TRIPLES_BESIDE=2'
    result = finetune(made, tmp_path / 'run', *flags, steps=3)
    assert result.returncode == 0, result.stderr[-3000:]
    summary = json.loads((tmp_path / 'run' / 'summary.json').read_text())
    model = api.load(tmp_path / 'run')
    names, relations, train, held_out = model.data._graph
    rows = [[0, *model.data.vocabulary.encode(name), 1] for name in names]
    ids = np.array([row + [0] * (16 - len(row)) for row in rows])
    features = jax.jit(lambda ids: model.model.apply({'params': model.params}, ids, method='features'))(ids)
    means = [np.float64(h[: len(row)]).mean(axis=0) for h, row in zip(features, rows, strict=True)]
    vectors = [mean / np.linalg.norm(mean) for mean in means]
    r, ranks, known = np.float64(model.params['relations']['embedding']), [], {*train, *held_out}
    for head, relation, tail in held_out:
        for right, make in ((tail, lambda e: (head, relation, e)), (head, lambda e: (e, relation, tail))):  # noqa: B023
            kept = [e for e in range(len(names)) if e == right or make(e) not in known]
            all_ = [np.linalg.norm(vectors[h] + r[relation] - vectors[t]) for h, _, t in map(make, kept)]
            ranks.append(rankdata(all_)[kept.index(right)])
    assert len(ranks) == 2 * summary['link_prediction']['held_out_triples'] > 2 and len(relations) == 2
    assert summary['mrr'] == pytest.approx(np.mean(1 / np.array(ranks)), rel=1e-3)
    assert summary['hits_at_3'] == pytest.approx(np.mean(np.array(ranks) <= 3))
    assert 'Held-out triples' in (tmp_path / 'run' / 'report.md').read_text()
    (tmp_path / 'facts.tsv').unlink()
    assert set(api.load(tmp_path / 'run').predict(['number 5 is odd'])[0]) == {'yes', 'no'}


@pytest.mark.slow
def test_a_model_that_was_pretrained_beside_triples_is_a_base_for_other_runs(made, tmp_path):
    flags = '--gin_file=gin/methods/transe.gin', f'--gin.TRIPLES={write_triples(tmp_path)}', '--gin.TRAIN_STEPS=2'
    result = run(made / 'text.txt', tmp_path / 'base', *flags)
    assert result.returncode == 0, result.stderr[-3000:]
    assert 'mrr' in json.loads((tmp_path / 'base' / 'summary.json').read_text())
    trained = checkpoint_arrays(tmp_path / 'base')
    assert any('relations' in name for name in trained) and sum('embed' in name for name in trained) > 1  # all of it
    result = finetune(made, tmp_path / 'run', base=tmp_path / 'base', steps=2)
    assert result.returncode == 0, result.stderr[-3000:]


@pytest.mark.slow
def test_triples_as_text_are_pretrained_and_fine_tuned_on(made, tmp_path):
    flags = '--gin_file=gin/methods/triples.gin', f'--gin.TRIPLES={write_triples(tmp_path)}'
    flags += ("--gin.TRIPLE_TEMPLATES={'next': '{tail} comes after {head}.'}", '--gin.TRAIN_STEPS=2')
    result = run_here('palm_jax.train', *MICRO, *flags, f'--gin.MODEL_DIR={tmp_path}/text')
    assert result.returncode == 0 and '30 triples of 2 relations as text: ' in result.stdout + result.stderr, (
        result.stderr
    )
    pairs = '--gin_file=gin/heads/text_to_text.gin', "--gin.TASK_FEATURE_LENGTHS={'inputs': 32, 'targets': 16}"
    result = finetune(made, tmp_path / 'pairs', *pairs, *flags, '--gin.EVAL_EXAMPLES=2', table=None, steps=2)
    assert result.returncode == 0, result.stderr[-3000:]
    rows = [json.loads(line) for line in (tmp_path / 'pairs' / 'predictions.jsonl').read_text().splitlines()]
    assert rows and all('comes after' in str(row) or 'after it' in str(row) for row in rows)
