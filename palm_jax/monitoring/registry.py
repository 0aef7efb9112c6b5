"""The registry of a deployed model: which run is the champion, and every decision that made it so.

    REGISTRY/
      registry.jsonl       one decision per line: adopted, promoted, rejected, rolled back
      lock                 the process that retunes, while one does
      round_0001/          what a round collected, its challenger and its comparison

`registry.jsonl` alone says who the champion is. It is replaced as a whole file, so that a decision is either written
or not, whatever interrupts, and a round is decided at most once. The runs of rounds are named by their path in the
folder, so that it can be read from any working directory, and moved.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import time
from pathlib import Path
from typing import Any, Literal

from palm_jax.errors import UserError
from palm_jax.run_directory import write_whole

Event = Literal['adopted', 'promoted', 'rejected', 'rolled_back']
_OF_ROUND = re.compile(r'round_\d+[/\\][^/\\]+$')  # the run of a round, in the registry's folder


@dataclasses.dataclass(frozen=True)
class Decision:
    """A line of the registry.

    Attributes:
      event: what was decided; `adopted` is the first champion.
      model_dir: run that the decision is about: the new champion, a rejected challenger, or the run that was rolled
        back to.
      round: number of the round; 0 for none.
      time: local time.
      details: comparison of a challenger with its champion.
    """

    event: Event
    model_dir: str
    round: int = 0
    time: str = ''
    details: dict[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Registry:
    """The decisions about a deployed model.

    Attributes:
      path: folder of the registry.
    """

    path: Path

    @property
    def file(self) -> Path:
        """The file of decisions."""
        return self.path / 'registry.jsonl'

    @property
    def lock(self) -> Path:
        """The lock of the process that retunes; see `locks`."""
        return self.path / 'lock'

    def decisions(self) -> list[Decision]:
        """Return all decisions in order.

        Raises:
          UserError: a line is not a decision.
        """
        if not self.file.is_file():
            return []
        decisions = []
        for number, line in enumerate(self.file.read_bytes().splitlines(), 1):
            try:
                decision = Decision(**json.loads(line))
                decisions.append(dataclasses.replace(decision, model_dir=self._found(decision.model_dir)))
            except (ValueError, TypeError):
                raise UserError(f'{self.file}, line {number} is not a decision of palm-jax retune.') from None
        return decisions

    def champions(self) -> list[str]:
        """Return the runs that are champions one after the other; the last one is the champion now."""
        stack: list[str] = []
        for decision in self.decisions():
            if decision.event in ('adopted', 'promoted'):
                stack.append(decision.model_dir)
            elif decision.event == 'rolled_back':
                stack.pop()
        return stack

    def rolled_back_rounds(self) -> list[int]:
        """Return the rounds whose challenger was promoted and rolled back."""
        champions = self.champions()
        return [d.round for d in self.decisions() if d.event == 'promoted' and d.model_dir not in champions]

    def champion(self) -> str:
        """Return the MODEL_DIR of the champion.

        Raises:
          UserError: the registry has none yet.
        """
        champions = self.champions()
        if not champions:
            if not self.path.exists():
                raise UserError(
                    f'{self.path} does not exist (from {Path.cwd()}). A new registry begins with --champion=MODEL_DIR.'
                )
            raise UserError(f'{self.path} has no champion yet: name the run that is deployed, --champion=MODEL_DIR.')
        return champions[-1]

    def adopt(self, model_dir: str) -> None:
        """Make a run the first champion; a registry that has this champion stays as it is.

        Raises:
          UserError: the registry has another champion.
        """
        champions = self.champions()
        if not champions:
            self._write(Decision('adopted', model_dir))
        elif os.path.abspath(model_dir) not in (os.path.abspath(champions[0]), os.path.abspath(champions[-1])):
            raise UserError(
                f'--champion={model_dir}: the champion of {self.path} is {champions[-1]}; leave --champion out, or '
                'name another --registry.'
            )

    def decide(self, decision: Decision) -> None:
        """Write the decision of a round, unless it has been decided."""
        if not self.is_decided(decision.round):
            self._write(decision)

    def is_decided(self, number: int) -> bool:
        """Return whether a round has been decided."""
        return any(d.round == number for d in self.decisions() if d.event in ('promoted', 'rejected'))

    def roll_back(self) -> Decision:
        """Make the former champion the champion again.

        Raises:
          UserError: there is no former champion.
        """
        champions = self.champions()
        if len(champions) < 2:
            raise UserError(f'{self.path} has no former champion to roll back to.')
        decision = Decision('rolled_back', champions[-2], details={'from': champions[-1]})
        self._write(decision)
        return decision

    def open_round(self) -> int:
        """Return the number of the round that is not decided, or of the next one."""
        numbers = [int(m[1]) for path in self.path.glob('round_*') if (m := re.fullmatch(r'round_(\d+)', path.name))]
        decided = [decision.round for decision in self.decisions()]
        last = max([*numbers, *decided], default=0)
        return last if last in numbers and not self.is_decided(last) else last + 1

    def round_path(self, number: int) -> Path:
        """Return the folder of a round."""
        return self.path / f'round_{number:04d}'

    def _write(self, decision: Decision) -> None:
        stamped = dataclasses.replace(decision, time=time.strftime('%Y-%m-%d %H:%M:%S'))
        decisions = [dataclasses.replace(d, model_dir=self._kept(d.model_dir)) for d in (*self.decisions(), stamped)]
        write_whole(self.file, '\n'.join(json.dumps(dataclasses.asdict(d)) for d in decisions) + '\n')

    def _kept(self, model_dir: str) -> str:
        """Return how the file names a run: one of a round by its path in the registry's folder."""
        path, folder = Path(os.path.abspath(model_dir)), Path(os.path.abspath(self.path))
        inside = str(path.relative_to(folder)) if path.is_relative_to(folder) else ''
        return inside if _OF_ROUND.fullmatch(inside) else model_dir

    def _found(self, kept: str) -> str:
        """Return the run that the file names.

        Earlier versions named every run as it had been typed; of the registry's own runs the end of the path is right.
        """
        of_round = _OF_ROUND.search(kept)
        if of_round is None:
            return kept
        own = self.path / of_round[0]
        return str(own) if of_round[0] == kept or (own.exists() and not Path(kept).exists()) else kept
