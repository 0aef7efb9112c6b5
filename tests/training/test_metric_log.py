"""Several writers as one."""

from pathlib import Path

from palm_jax.training.metric_log import MetricLog
from palm_jax.training.writers import Jsonl, read_jsonl


class Recorder:
    """A writer that remembers its calls."""

    def __init__(self):
        self.calls = []

    def open(self, model_dir, first_step, config):
        self.calls.append(('open', model_dir, first_step, config))

    def write(self, step, values):
        self.calls.append(('write', step, values))

    def close(self):
        self.calls.append(('close',))


def test_every_writer_gets_everything():
    writers = [Recorder(), Recorder()]
    log = MetricLog(writers, Path('runs/a'), 'X = 1', step=3)
    log.write(4, {'train/loss': 2.0})
    log.close()
    for writer in writers:
        assert writer.calls == [('open', Path('runs/a'), 3, 'X = 1'), ('write', 4, {'train/loss': 2.0}), ('close',)]


def test_rewinding_drops_later_lines(tmp_path):
    log = MetricLog([Jsonl()], tmp_path, '', step=0)
    for step in (2, 4, 6):
        log.write(step, {'train/loss': float(step)})
    log.rewind(4)
    log.write(6, {'train/loss': 0.5})
    log.close()
    assert [(r['step'], r['train/loss']) for r in read_jsonl(tmp_path / 'metrics.jsonl')] == [
        (2, 2.0),
        (4, 4.0),
        (6, 0.5),
    ]
