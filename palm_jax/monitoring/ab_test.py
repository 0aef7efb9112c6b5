"""An A/B test: which of two models that answered requests users found right more often.

For each of two checkpoints, what a server kept (`request_log`) gives the share of answers that users corrected and the
share of thumbs that are up. The difference of two shares has Newcombe's interval (1998, method 10: from Wilson's
intervals of the two), and the p-value of Fisher's exact test, with Bonferroni's correction for the two shares.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

from palm_jax.errors import UserError
from palm_jax.metrics.statistics import difference_of_shares
from palm_jax.monitoring.request_log import Kept

_LEVEL = 0.05
_SHARES = 2  # shares that are compared


@dataclasses.dataclass
class Arm:
    """What users said to the answers of a checkpoint.

    Attributes:
      checkpoint: checkpoint that answered.
      answers: number of answers.
      confirmed: answers whose right label, by a user, is the one predicted.
      corrected: answers whose right label is another.
      up: thumbs up.
      down: thumbs down.
    """

    checkpoint: str
    answers: int = 0
    confirmed: int = 0
    corrected: int = 0
    up: int = 0
    down: int = 0

    def add(self, kept: Kept) -> None:
        """Count an answer and the feedback to it."""
        self.answers += 1
        if kept.label is not None:
            is_right = _is_right(kept.answer, kept.label)
            self.confirmed += is_right
            self.corrected += not is_right
        self.up += kept.rating == 'up'
        self.down += kept.rating == 'down'


@dataclasses.dataclass(frozen=True)
class Difference:
    """A share of the first and of the second model.

    Attributes:
      name: what is counted.
      first: number of cases of the first model, and of answers that count.
      second: the same of the second.
      lower: lower end of the 95% interval of the second share minus the first.
      upper: upper end.
      p_value: p-value of Fisher's exact test, corrected.
    """

    name: str
    first: tuple[int, int]
    second: tuple[int, int]
    lower: float
    upper: float
    p_value: float

    @property
    def gain(self) -> float:
        """The second share minus the first."""
        return self.second[0] / self.second[1] - self.first[0] / self.first[1]

    @property
    def is_significant(self) -> bool:
        """Whether the shares differ at 5%."""
        return self.p_value < _LEVEL


def arms(kept: Iterable[Kept]) -> list[Arm]:
    """Return the checkpoints that answered, in order of their first answer."""
    found: dict[str, Arm] = {}
    for answer in kept:
        found.setdefault(answer.checkpoint, Arm(answer.checkpoint)).add(answer)
    return list(found.values())


def choose(found: Sequence[Arm], wanted: Sequence[str]) -> tuple[Arm, Arm]:
    """Return the two arms to compare.

    Args:
      found: all arms.
      wanted: the first and the second checkpoint, or parts of their paths that name one each; none for the only two.

    Raises:
      UserError: there are more or fewer than two, or a part names none or several.
    """
    known = ''.join(f'\n  {arm.checkpoint} ({arm.answers:,} answers)' for arm in found)
    if not wanted:
        if len(found) != 2:
            advice = ' Name the first and the second: --first=... --second=...' if len(found) > 2 else ''
            raise UserError(f'An A/B test compares two checkpoints; {len(found)} answered:{known or " none"}.{advice}')
        return found[0], found[1]
    chosen = []
    for part in wanted:
        fitting = [arm for arm in found if part in arm.checkpoint]
        if len(fitting) != 1:
            raise UserError(f'{part!r} names {len(fitting)} of the checkpoints that answered:{known or " none"}')
        chosen.append(fitting[0])
    first, second = chosen
    if first is second:
        raise UserError(f'{wanted[0]!r} and {wanted[1]!r} name one checkpoint, {first.checkpoint}.')
    return first, second


def differences(first: Arm, second: Arm) -> list[Difference]:
    """Return the shares of corrected answers and of thumbs up; those that nothing is known of are left out."""
    counts = {
        'corrected answers': [(arm.corrected, arm.answers) for arm in (first, second)],
        'thumbs up': [(arm.up, arm.up + arm.down) for arm in (first, second)],
    }
    has_labels = any(arm.confirmed + arm.corrected for arm in (first, second))
    if not has_labels:
        del counts['corrected answers']
    return [difference(name, *of_arms) for name, of_arms in counts.items() if all(total for _, total in of_arms)]


def difference(name: str, first: tuple[int, int], second: tuple[int, int]) -> Difference:
    """Compare two shares.

    Args:
      name: what is counted.
      first: number of cases of the first model, and number of answers.
      second: the same of the second.
    """
    (lower, upper), p_value = difference_of_shares(first, second)
    return Difference(name, first, second, lower, upper, min(1.0, _SHARES * p_value))


def verdict(found: Sequence[Difference]) -> str:
    """Return the result in a sentence."""
    better = {
        'second' if (difference.gain > 0) == (difference.name == 'thumbs up') else 'first'
        for difference in found
        if difference.is_significant
    }
    if not found:
        return 'Nothing to compare: no feedback was given to the answers of both models.'
    if not better:
        return 'No significant difference yet.'
    return f'The {better.pop()} model is better.' if len(better) == 1 else 'The two shares disagree.'


def _is_right(answer: Any, label: Any) -> bool:
    """Return whether an answer of a head, or a text, is what a user says is right."""
    if answer.get('labels') is not None:
        return set(answer['labels']) == (set(label) if isinstance(label, list) else {label})
    return label in [answer.get(name) for name in ('number', 'text', 'entities')]
