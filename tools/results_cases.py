"""What `tools.results` compares: cases (a task and how much of its data is used) and methods with their flags."""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import random
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

_GROUPS = {'banking77': 'category', 'e2e_nlg': 'mr'}  # the column by which rows of a table are chosen


@dataclasses.dataclass(frozen=True)
class Case:
    """A task, and the rows and the steps that a run takes.

    Attributes:
      task: file in gin/tasks.
      metric: metric of summary.json that is compared.
      steps: steps of 32 examples; as many as fifteen minutes allow on a base of 135M parameters.
      per_class: rows of each class that are trained on, drawn by the seed of the run; None takes all.
      held_out_inputs: number of inputs that are held out, in the order of their hashes; None leaves it to the task.
    """

    task: str
    metric: str
    steps: int
    per_class: int | None = None
    held_out_inputs: int | None = None

    def flags(self, folder: Path, seed: int) -> dict[str, str]:
        """Return the files of the case as flags; those that are a part of the task's own are written to `folder`."""
        source = Path('data') / self.task
        if self.per_class is not None:
            train = folder / f'{self.task}_{self.per_class}_{seed}.csv'
            write_table(train, _rows_per_class(_read(source / 'train.csv'), _GROUPS[self.task], self.per_class, seed))
            return {'TRAIN_FILES': str(train)}
        if self.held_out_inputs is not None:
            rows, column = _read(source / 'devset.csv'), _GROUPS[self.task]
            inputs = sorted({row[column] for row in rows}, key=lambda text: hashlib.sha256(text.encode()).digest())
            held_out = set(inputs[: self.held_out_inputs])
            files = {name: folder / f'{self.task}_{name}.csv' for name in ('train', 'validation')}
            write_table(files['train'], [row for row in rows if row[column] not in held_out])
            write_table(files['validation'], [row for row in rows if row[column] in held_out])
            return {f'{name.upper()}_FILES': str(path) for name, path in files.items()}
        return {}


CASES = {
    'banking77': Case('banking77', 'accuracy', 400),
    'banking77_50': Case('banking77', 'accuracy', 360, per_class=50),
    'banking77_20': Case('banking77', 'accuracy', 300, per_class=20),
    'banking77_10': Case('banking77', 'accuracy', 240, per_class=10),
    'banking77_5': Case('banking77', 'accuracy', 160, per_class=5),
    'wnut17': Case('wnut17', 'entity_f1', 240),
    'e2e_nlg': Case('e2e_nlg', 'bleu', 120),
    'e2e_nlg_200': Case('e2e_nlg', 'bleu', 120, held_out_inputs=200),
}
DEFAULT_CASES = ('banking77_10', 'banking77', 'wnut17', 'e2e_nlg_200')


@dataclasses.dataclass(frozen=True)
class Method:
    """A way of fine-tuning.

    Attributes:
      rate: middle of the learning rates that are tried, see `rates`.
      part: file in gin/peft; None is that of the name.
      flags: further bindings.
    """

    rate: float
    part: str | None = None
    flags: tuple[tuple[str, str], ...] = ()

    @property
    def rates(self) -> tuple[float, float, float]:
        """The learning rates of the search."""
        low, high = (float(f'{rate:.2g}') for rate in (self.rate / 3, self.rate * 3))
        return low, self.rate, high


METHODS = {
    'full': Method(3e-4),
    'top_k_layers': Method(3e-4),
    'lora': Method(5e-3),
    'nf4_lora': Method(5e-3, 'lora', (('BASE_WEIGHTS', 'nf4'),)),
    'dora': Method(5e-3),
    'adalora': Method(3e-3),
    'adapter': Method(1e-3),
    'prefix': Method(1e-2),
    'prompt': Method(3e-2),
    'ia3': Method(1e-2),
    'bitfit': Method(3e-3),
    'norms_only': Method(1e-2),
    'embeddings_only': Method(1e-3),
    'head_only': Method(1e-2),
}
WITHOUT_HEAD = ('e2e_nlg',)  # tasks without a head, to which head_only does not apply


def _read(path: Path) -> list[dict[str, str]]:
    with path.open(encoding='utf-8', newline='') as file:
        return list(csv.DictReader(file))


def write_table(path: Path, rows: Sequence[dict[str, str]]) -> None:
    """Write rows as a CSV file, with the names of the first row's columns."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open('w', encoding='utf-8', newline='') as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def _rows_per_class(rows: list[dict[str, str]], column: str, count: int, seed: int) -> list[dict[str, str]]:
    """Return `count` rows of each class, or all that it has, drawn by the seed."""
    by_class = defaultdict(list)
    for row in rows:
        by_class[row[column]].append(row)
    rng = random.Random(seed)
    return [row for name in sorted(by_class) for row in rng.sample(by_class[name], min(count, len(by_class[name])))]
