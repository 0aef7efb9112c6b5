"""lm-evaluation-harness: a local task gives the numbers of the same weights through the harness's own `hf` model."""

import json

import pytest

pytest.importorskip('lm_eval', reason='pip install "palm_jax[eval]"')
import lm_eval
from lm_eval.tasks import TaskManager

from palm_jax import trained
from palm_jax.exchange import hf_directory
from palm_jax.harness import PalmJax

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


def test_the_numbers_are_those_of_transformers(made, tmp_path):
    rows = [{'n': n, 'label': n % 3, 'text': f'the square of {n} is {n * n}. ' * (1 + 5 * (n == 4))} for n in range(6)]
    (tmp_path / 'rows.jsonl').write_text('\n'.join(map(json.dumps, rows)))
    for name, task in TASKS.items():
        data = {'dataset_path': 'json', 'dataset_kwargs': {'data_files': {'test': str(tmp_path / 'rows.jsonl')}}}
        text = {'task': name, 'test_split': 'test', 'num_fewshot': 0} | data | task
        (tmp_path / f'{name}.yaml').write_text(json.dumps(text))  # JSON is YAML
    model = trained.load(made / 'base')
    hf_directory.write(model.params, model.model.arch, model.data.vocabulary, model.data.length, tmp_path / 'hf')
    manager = TaskManager(include_path=str(tmp_path), include_defaults=False)
    ours, theirs = (
        lm_eval.simple_evaluate(
            model=which, model_args=arguments, tasks=list(TASKS), task_manager=manager, log_samples=True,
            bootstrap_iters=0, batch_size=4, device='cpu',
        )
        for which, arguments in (
            (PalmJax(str(made / 'base'), batch_size=4), None),
            ('hf', {'pretrained': str(tmp_path / 'hf'), 'dtype': 'float32'}),
        )
    )  # fmt: skip
    for name in TASKS:
        for metric, value in theirs['results'][name].items():
            if isinstance(value, float) and 'stderr' not in metric:
                assert ours['results'][name][metric] == pytest.approx(value, rel=1e-4), (name, metric)
        for one, other in zip(ours['samples'][name], theirs['samples'][name], strict=True):
            if name == 'written':
                assert one['resps'] == other['resps']
            else:
                numbers = [[r[0][0] if name == 'choices' else r[0] for r in x['resps']] for x in (one, other)]
                assert numbers[0] == pytest.approx(numbers[1], rel=1e-4)
