"""python -m examples.customer_service.desk --model=runs/desk --answers=answers.csv --calibration=calibration.csv

A desk that answers customers. A classifier names the intent of a question; its confidence is the probability of the
intent (the baseline of Hendrycks and Gimpel, arXiv 1610.02136, for what a model was not trained on). Then:

    confidence below `known`     unknown: none of the intents; nothing is answered
    confidence below `certain`   a person takes over, with the intent as a suggestion
    otherwise                    the answer to the intent, or one that a second model writes

Both limits are chosen on questions with known intents that the model has not seen: `known` is below 95% of them, and
`certain` is the lowest confidence from which on the answers are right as often as --target asks for.
With --test (and --unknown) the desk is measured, otherwise it answers the questions of standard input, one per
line; for a line that cannot be read it writes an error, and goes on.
"""

from __future__ import annotations

import dataclasses
import json
import math
import sys
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import numpy as np
from sklearn.metrics import roc_auc_score

from examples import tables
from palm_jax import api
from palm_jax.bounds import Above, AtMost
from palm_jax.cli import command_line
from palm_jax.cli.parser import Parser, number
from palm_jax.errors import UserError, located
from palm_jax.predictors.generator import Generator
from palm_jax.predictors.label_predictor import LabelPredictor

Action = Literal['answer', 'person', 'unknown']
_KNOWN_ABOVE = 0.95  # share of known questions that are to be above `known`


@dataclasses.dataclass(frozen=True)
class Reply:
    """What the desk does with a question.

    Attributes:
      action: whether it answers, hands over to a person, or does not know the intent.
      intent: likeliest intent.
      confidence: probability of the intent.
      text: the answer; empty without one.
    """

    action: Action
    intent: str
    confidence: float
    text: str = ''


@dataclasses.dataclass(frozen=True)
class Desk:
    """A classifier of intents, their answers, and the limits of its confidence.

    Attributes:
      classifier: model that predicts the probabilities of intents.
      answers: answers by intent.
      known: confidence below which a question is of no known intent.
      certain: confidence below which a person takes over.
      writer: model that writes the answers that `answers` lacks; None leaves them to a person.
    """

    classifier: Any
    answers: Mapping[str, str]
    known: float
    certain: float
    writer: Any = None

    def reply(self, questions: Sequence[str]) -> list[Reply]:
        """Return what the desk does with each question."""
        replies = []
        for question, probabilities in zip(questions, self.classifier.predict(questions), strict=True):
            intent, confidence = next(iter(probabilities.items()))
            if confidence < self.known:
                replies.append(Reply('unknown', intent, confidence))
            elif confidence < self.certain or not (text := self._answer(question, intent)):
                replies.append(Reply('person', intent, confidence))
            else:
                replies.append(Reply('answer', intent, confidence, text))
        return replies

    def _answer(self, question: str, intent: str) -> str:
        if intent in self.answers or self.writer is None:
            return self.answers.get(intent, '')
        return self.writer.predict([question])[0].strip()


def limits(confidences: Sequence[float], right: Sequence[bool], target: float) -> tuple[float, float]:
    """Return `known` and `certain` from questions with known intents.

    Args:
      confidences: confidence of each question.
      right: whether its intent was predicted.
      target: share of answers that must be right.

    Returns:
      The limits; `certain` is infinite if no confidence is high enough.
    """
    order = np.argsort(confidences)[::-1]
    sorted_E = np.asarray(confidences)[order]
    accuracy_E = np.cumsum(np.asarray(right)[order]) / np.arange(1, len(order) + 1)
    is_last_of_equals = np.append(sorted_E[1:] < sorted_E[:-1], True)
    enough = np.flatnonzero((accuracy_E >= target) & is_last_of_equals)
    certain = float(sorted_E[enough[-1]]) if len(enough) else math.inf
    return float(np.quantile(confidences, 1 - _KNOWN_ABOVE)), certain


def open_desk(
    classifier: Any, answers: Mapping[str, str], calibration: Sequence[tuple[str, str]], target: float, writer: Any
) -> Desk:
    """Return a desk with limits from (question, intent) pairs that the model has not seen."""
    predictions = [next(iter(p.items())) for p in classifier.predict([question for question, _ in calibration])]
    right = [intent == of for (intent, _), (_, of) in zip(predictions, calibration, strict=True)]
    return Desk(classifier, answers, *limits([confidence for _, confidence in predictions], right, target), writer)


def measure(desk: Desk, test: Sequence[tuple[str, str]], unknown: Sequence[str]) -> dict[str, float]:
    """Return what the desk does with questions of known and of unknown intents, as shares.

    Args:
      desk: desk.
      test: questions with their intents.
      unknown: questions of other intents; none leaves their figures out.
    """
    replies = desk.reply([question for question, _ in test])
    right = np.array([reply.intent == intent for reply, (_, intent) in zip(replies, test, strict=True)])
    answered = np.array([reply.action == 'answer' for reply in replies])
    found = {
        'accuracy of the classifier': right.mean(),
        'answered': answered.mean(),
        'answers that are right': right[answered].mean() if answered.any() else math.nan,
        'handed over': np.mean([reply.action == 'person' for reply in replies]),
        'known taken for unknown': np.mean([reply.action == 'unknown' for reply in replies]),
    }
    if unknown:
        others = desk.reply(unknown)
        confidences = [reply.confidence for reply in (*replies, *others)]
        is_known = [True] * len(replies) + [False] * len(others)
        found['unknown that were answered'] = np.mean([reply.action == 'answer' for reply in others])
        found['unknown that were recognized'] = np.mean([reply.action == 'unknown' for reply in others])
        found['known above unknown (AUROC)'] = roc_auc_score(is_known, confidences)
    return {name: float(value) for name, value in found.items()}


def main(arguments: Sequence[str]) -> int:
    """Measure the desk, or answer questions."""
    parser = Parser(
        prog='python -m examples.customer_service.desk',
        description=__doc__,
        example='python -m examples.customer_service.desk --model=runs/desk --answers=a.csv --calibration=c.csv',
    )
    parser.add_argument('--model', required=True, help='MODEL_DIR of the classifier of intents')
    parser.add_argument('--answers', required=True, help='table with the columns intent and answer')
    parser.add_argument('--calibration', required=True, help='table (text, label) that the model has not seen')
    parser.add_argument('--target', type=number(Annotated[float, Above(0), AtMost(1)]), default=0.95,
                        help='share of answers that must be right')  # fmt: skip
    parser.add_argument('--writer', help='MODEL_DIR of a model that writes what --answers lacks; default: a person')
    parser.add_argument('--test', help='table (text, label) to measure on; default: standard input is answered')
    parser.add_argument(
        '--unknown',
        needs='--test',
        help='with --test: table (text) of questions that no intent covers; default: none',
    )
    options = parser.parse_args(arguments)
    answers: dict[str, str] = {
        intent: answer for intent, answer in _columns(options.answers, '--answers', 'intent', 'answer')
    }
    calibration = _columns(options.calibration, '--calibration', 'text', 'label')
    test = _columns(options.test, '--test', 'text', 'label') if options.test else []
    unknown = [text for (text,) in _columns(options.unknown, '--unknown', 'text')] if options.unknown else []
    writer = api.load(options.writer) if options.writer else None
    if writer is not None and not isinstance(writer.predictor, Generator):
        raise UserError(
            f'--writer={options.writer} was trained {writer.predictor.purpose}; the desk needs one that writes.'
        )
    classifier = api.load(options.model)
    _check(options.model, classifier, [label for _, label in calibration])
    desk = open_desk(classifier, answers, calibration, options.target, writer)
    print(f'limits     known from {desk.known:.3f}, certain from {desk.certain:.3f}', file=sys.stderr)
    if options.test:
        for name, value in measure(desk, test, unknown).items():
            print(f'{name:<30} {value:.3f}')
        return 0
    for line_number, line in enumerate(sys.stdin.buffer, 1):
        if line.strip():
            print(json.dumps(_answer(desk, line, line_number), ensure_ascii=False), flush=True)
    return 0


def _check(name: str, classifier: Any, labels: Sequence[str]) -> None:
    """Refuse a model that does not give a single text one of several intents.

    Raises:
      UserError: says what the model is for.
    """
    predictor = classifier.predictor
    kind = predictor.label_kind if isinstance(predictor, LabelPredictor) else None
    if kind is None or not (kind.has_classes and kind.is_exclusive) or predictor.reads_pairs(classifier):
        what = predictor.purpose
        if kind is not None:
            what = 'to give texts several labels' if kind.has_classes else 'to predict numbers'
            what = 'to label pairs of texts' if predictor.reads_pairs(classifier) else what
        raise UserError(
            f'--model={name} was trained {what}; the desk needs one label for each text: a model of '
            'gin/finetune_lora.gin with the table of your questions.'
        )
    known = set(classifier.data.labels)
    if not known & set(labels):
        raise UserError(f'--calibration has no label of --model={name}, which are {", ".join(sorted(known))}.')


def _answer(desk: Desk, line: bytes, line_number: int) -> dict[str, Any]:
    """Return what the desk does with a line of standard input, or why it cannot be read."""
    where = f'standard input, line {line_number}'
    try:
        with located(where):
            (reply,) = desk.reply([line.decode().strip()])
    except UnicodeDecodeError as error:
        return {'error': f'{where}: byte {error.start + 1} is not UTF-8.'}
    except UserError as error:
        return {'error': str(error)}
    return dataclasses.asdict(reply)


def _columns(path: str, flag: str, *names: str) -> list[tuple[str, ...]]:
    """Return columns of the table that a flag names."""
    return [texts for _, texts in tables.read(path, flag, *names)]


if __name__ == '__main__':
    command_line.run(main)
