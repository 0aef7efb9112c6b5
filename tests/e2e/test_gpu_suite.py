"""The suite for a GPU machine, rehearsed on this one with a tiny model."""

import argparse
import importlib.metadata
import importlib.util
import json
import os
import subprocess
import sys

import pytest

from palm_jax import xla_flags
from palm_jax.errors import UserError
from palm_jax.training.interfaces import Data
from tools import benchmark_finetuning, contenders, gpu_suite, kernel_profile, train_on_token_file

TINY = ['--size=tiny', '--batch=2', '--length=32', '--steps=2', '--device=cpu']


def test_the_suite_goes_on_where_it_was_stopped(tmp_path, capsys):
    """Results are lines that survive a kill, a failure costs one case, and what is there is not measured again."""
    record, calls = tmp_path / 'results.jsonl', []

    def case(name, fails=False):
        def measure():
            calls.append(name)
            if fails and calls.count(name) == 1:
                raise UserError('out of memory')
            return {'step_ms': 198.25, 'mfu': 0.576, 'equal': True, 'peak_gib': None}

        return gpu_suite.Case('train', name, measure)

    cases = [case('as it is'), case('a loop', fails=True), case('remat')]
    assert gpu_suite.run(cases, tmp_path, 60) == 1
    assert 'a loop' in capsys.readouterr().out
    record.write_text(record.read_text() + '{"part": "train", "case": "cut sho')
    record.write_text(record.read_text() + '\n')
    assert gpu_suite.run(cases, tmp_path, 0) == 1 and calls == ['as it is', 'a loop', 'remat']  # no time is left
    assert gpu_suite.run(cases, tmp_path, 60) == 0 and calls == ['as it is', 'a loop', 'remat', 'a loop']
    table = (tmp_path / 'table.md').read_text().splitlines()
    assert table[:2] == ['| train | step ms | mfu | equal | peak gib |', '|---|---|---|---|---|']
    assert table[2:] == [f'| {name} | 198.2 | 57.6% | yes |  |' for name in ('as it is', 'remat', 'a loop')]


def test_what_the_most_depends_on_comes_first():
    wanted = gpu_suite_cases([])
    names = [(case.part, case.name) for case in wanted]
    first = names[: names.index(('decode', '1b, bfloat16, batch 8'))]
    assert {('ceilings', 'matmul and memory'), ('train', 'as it is'), ('decode', '1b, bfloat16, batch 1')} < set(first)
    assert ('attention', 'eight documents, intervals') in first and ('bitwise', '400m, killed and continued') in first
    assert {('train', '2b, half as many sequences'), ('decode', '8b, bfloat16, batch 1')} < set(names)
    last = names[names.index(('train', 'eight documents a row')) :]
    assert ('train', 'remat = minimal') in last and any('WHILE' in name for part, name in last if part == 'decode')


def test_lengths_that_a_kernel_does_not_take_have_no_case_of_it():
    assert not [case.name for case in gpu_suite_cases(TINY) if 'intervals' in case.name]
    assert len([case for case in gpu_suite_cases([*TINY, '--length=128']) if 'intervals' in case.name]) == 3


def test_fine_tuning_has_all_options_that_its_benchmark_reads():
    options = [case.measure.args[0] for case in gpu_suite_cases(TINY) if case.part == 'peft']
    assert len(options) == 3 and all(len(benchmark_finetuning._batches(o)) == 1 for o in options)


def test_weights_in_int8_are_measured_with_qwix(monkeypatch):
    assert any('int8' in case.name for case in gpu_suite_cases([*TINY, '--parts=decode']))
    monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None)
    assert not any('int8' in case.name for case in gpu_suite_cases([*TINY, '--parts=decode']))


def test_attention_over_packed_documents(tmp_path):
    (case,) = (case for case in gpu_suite_cases([*TINY, '--length=64']) if case.name == 'eight documents, intervals')
    figures = case.measure()
    assert figures['shape'] == '1 × 128 × 4 × 48' and figures['error'] < 0.02


def test_the_trainers_file_of_tokens_has_what_a_run_asks_of_data(tmp_path):
    train_on_token_file.write_tokens(tmp_path / 'tokens.npy', 5 * 8)
    data = train_on_token_file.TokenFile(tmp_path / 'tokens.npy', length=8)
    assert not {name for name in vars(Data) | Data.__annotations__ if name[0] != '_' and not hasattr(data, name)}
    ((numbers, batch),) = data.validation_by_length(2)
    assert numbers.tolist() == [0] and batch['decoder_loss_weights'].sum() == 8


def test_an_unknown_part_is_refused():
    with pytest.raises(UserError, match='unknown training'):
        gpu_suite.main(['--parts=training'])


def test_one_process_of_the_suite(tmp_path):
    assert gpu_suite.main([*TINY, f'--output={tmp_path}', '--parts=ceilings']) == 0
    (line,) = map(json.loads, (tmp_path / 'results.jsonl').read_text().splitlines())
    assert line['ok'] and line['tflops_per_second'] > 0 and line['gigabytes_per_second'] > 0


@pytest.mark.slow  # every day: test_train.test_twenty_steps_equal_ten_a_kill_and_ten
def test_a_run_that_is_killed_continues_bit_for_bit(tmp_path):
    """The trainer itself, from a file of tokens, in processes of their own."""
    options = [*TINY, f'--output={tmp_path}', '--parts=bitwise']
    (case,) = gpu_suite_cases(options)
    figures = case.measure()
    assert figures['equal'] and figures['tokens_per_second'] > 0 and figures['tokens_per_second_otherwise'] > 0


def gpu_suite_cases(arguments):
    """The cases of the suite in their order, none of them measured."""
    received = []
    original, gpu_suite.run = gpu_suite.run, lambda *args: received.append(args)
    try:
        gpu_suite.main(arguments)
    finally:
        gpu_suite.run = original
    return received[0][0]


@pytest.mark.slow
def test_the_whole_suite(tmp_path):
    parts = '--parts=train,attention,decode,peft,trainer'
    assert gpu_suite.main([*TINY, '--seconds=3600', f'--output={tmp_path}', parts]) == 0
    results = gpu_suite.done(tmp_path / 'results.jsonl')
    assert len(results['train', 'as it is']['kernels']) == 30
    assert results['decode', 'tiny, bfloat16, batch 1']['weights'] == 'bfloat16'
    assert results['peft', 'lora']['share_of_full_flops'] < 0.8
    assert results['trainer', 'from a file of tokens']['tokens_per_second'] > 0
    assert {f'| {part} |' for part in ('train', 'decode', 'peft', 'trainer')} <= {
        line[: line.index('|', 2) + 1] for line in (tmp_path / 'table.md').read_text().splitlines() if line
    }


def test_kernels_are_summed_by_name_the_longest_first():
    events = [('fusion.1', 2e6), ('dot', 5e6), ('fusion.1', 1e6), ('dot', 4e6)]
    kernels = kernel_profile.longest(events, steps=2)
    assert kernels == [('dot', 1.0, 4.5, 0.75), ('fusion.1', 1.0, 1.5, 0.25)]
    shown = kernel_profile.as_text(kernels, most=1).splitlines()
    assert shown[1].split() == ['4.500', '75.0%', '1.0', 'dot'] and shown[2].endswith('1 others')


def test_other_implementations_are_looked_for_before_anything_is_measured(monkeypatch):
    monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None)
    with pytest.raises(UserError, match=r"--against=peft needs .*: torch, transformers, peft\. .*'\.\[peers\]'"):
        contenders.check_peers(['peft'], ('peft',))
    with pytest.raises(UserError, match=r"unknown 'llama'\. Known: transformers"):
        contenders.check_peers(['llama'], ('transformers',))


def test_flags_are_those_that_a_jaxlib_knows():
    assert not xla_flags.known_to('0.9.0') and not xla_flags.known_to('1.0')
    known = xla_flags.known_to(importlib.metadata.version('jaxlib'))
    assert {flag.program for flag in known} == {'train', 'decode'}
    # XLA ends a process that sets a flag, or a value of it, that it does not know.
    for settings, succeeds in (([flag.setting for flag in known], True), ([known[0].setting + '_'], False)):
        result = subprocess.run(
            [sys.executable, '-c', 'import jax; jax.devices()'],
            env=os.environ | {'XLA_FLAGS': ' '.join(settings), 'JAX_PLATFORMS': 'cpu'},
            capture_output=True,
            text=True,
        )
        assert (result.returncode == 0) == succeeds, result.stderr[-2000:]


def test_texts_are_padded_to_the_longest_of_their_batch_or_by_length(small_tasks, base_and_table, monkeypatch):
    monkeypatch.chdir(small_tasks['banking77'])
    options = argparse.Namespace(task='banking77', base=dict(base_and_table)['INITIAL_CHECKPOINT_PATH'])
    options.batch, options.length, options.steps = 4, 40, 3
    drawn, grouped = (benchmark_finetuning._batches(options, grouped) for grouped in (False, True))
    for batch in drawn:
        used = batch['decoder_segment_ids']
        assert used.shape == (4, used.sum(axis=1).max()) and used[:, -1].any() and batch['labels'].shape == (4,)
    assert len(drawn) == len(grouped) == 3 and {batch['decoder_input_tokens'].shape[0] for batch in grouped} == {4}
