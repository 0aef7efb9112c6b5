"""The table of results: what is there is not made again."""

import pytest

from palm_jax.errors import UserError
from tools import results


@pytest.mark.slow
def test_results_are_made_once_and_set_beside_what_no_pretraining_reaches(made, small_tasks, tmp_path, monkeypatch):
    monkeypatch.chdir(small_tasks['wnut17'])
    flags = [
        f'--base={made / "base"}',
        f'--runs={tmp_path / "runs"}',
        f'--output={tmp_path / "RESULTS.md"}',
        f'--record={tmp_path / "RESULTS.jsonl"}',
        '--steps=1',
    ]
    of_task = {task: f'--tasks={task}' for task in results.TASKS}
    for flag in of_task.values():
        assert results.main([*flags, flag, '--methods=norms_only', '--seeds=0']) == 0
    results.main([*flags, of_task['wnut17'], '--methods=norms_only', '--seeds=0,1'])
    page = (tmp_path / 'RESULTS.md').read_text()
    assert '## wnut17' in page and '| 0, 1 |' in page and ' ± ' in page and 'logistic regression on words' in page
    record = results.read(tmp_path / 'RESULTS.jsonl')
    assert [line['seed'] for line in record if line['method'] == 'norms_only'] == [0, 0, 0, 1]
    assert sum(line['method'] == results.NO_PRETRAINING for line in record) == 3
    results.main([*flags, of_task['wnut17'], '--methods=norms_only', '--seeds=0,1', f'--runs={tmp_path / "elsewhere"}'])
    assert results.read(tmp_path / 'RESULTS.jsonl') == record and not (tmp_path / 'elsewhere').exists()
    with pytest.raises(UserError, match='Known: full'):
        results.main([*flags, '--methods=lorra'])
