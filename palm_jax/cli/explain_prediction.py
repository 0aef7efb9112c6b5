"""palm-jax explain-prediction --gin_file=runs/finetuned/config.gin --text='I lost my card'

Shows why a trained model predicts what it predicts: what each word of an input contributes to the log-odds of a class
or a tag, to a number, or to the log-probability of a written answer. Writes a web page, and JSON beside it.

Integrated gradients add up to the difference between the input and a baseline without its words; the completeness
error says how exactly. Comprehensiveness and sufficiency say whether the model depends on the words that are named,
beside random words.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from palm_jax.bounds import AtLeast, Seed
from palm_jax.cli import command_line
from palm_jax.cli.parser import Parser, file_name, number, positive
from palm_jax.errors import UserError
from palm_jax.wording import counted

if TYPE_CHECKING:
    from palm_jax.api.trained_model import TrainedModel


def main(arguments: Sequence[str]) -> int:
    """Explain the predictions for texts of the command line or of a file."""
    parser = _parser()
    options, run = command_line.parse_run(parser, arguments)
    if bool(options.text) == bool(options.input):
        raise UserError("Give either --text='...', which may be repeated, or --input with a file of texts.")
    if options.second_text and len(options.second_text) != len(options.text):
        raise UserError(f'There are {len(options.text)} --text, but {len(options.second_text)} --second_text.')
    output = command_line.writable(options.output or Path(run.path / 'explanations.html'))

    from palm_jax.explanations import page
    from palm_jax.explanations.explain import Settings

    settings = Settings(
        methods=tuple(name.strip() for name in options.methods.split(',')),
        steps=options.steps,
        baseline=options.baseline,
        num_random=options.random,
        counterfactual_words=options.counterfactual,
        batch_size=options.batch_size,
        seed=options.seed,
    )
    sets = _read_sets(options.substitutes) if options.substitutes else None
    model = run.load()
    if sets:
        _check_substitutes(model)
    inputs = _read(model, options)
    explanations = model.explain(inputs, options.label, settings)
    others = _substitute(model, inputs, sets, options) if sets else {}
    if not explanations:
        print(f'nothing to explain: the model found no entities in {counted(len(inputs), "text")}')
    for explanation in explanations:
        print(page.as_text(explanation))
        if explanation.input in others:
            print(f'     {_sentence(others[explanation.input])}')
        elif sets:
            print('     no replacement by the words of --substitutes changes the decision')
    about = {'checkpoint': str(model.checkpoint), 'baseline': options.baseline, 'steps': options.steps}
    notes = [
        f'Model: {run.path}. Baseline of an absent word: {options.baseline}. Gauss–Legendre steps: {options.steps}.'
    ]
    notes += [f'{inputs[place]}: {_sentence(found)}' for place, found in others.items()]
    output.write_text(page.html_page('Explanations', explanations, notes), encoding='utf-8')
    rows = [
        {'text': inputs[e.input], **e.to_json(), 'substitution': _as_json(others.get(e.input))} for e in explanations
    ]
    beside = output.with_suffix('.json')
    beside.write_text(json.dumps(about | {'explanations': rows}, ensure_ascii=False, indent=1) + '\n', encoding='utf-8')
    print(f'page       {output} (and {beside.name})')
    return 0


def _parser() -> Parser:
    parser = command_line.parser(
        'explain-prediction',
        __doc__ or '',
        "--gin_file=runs/finetuned/config.gin --text='I lost my card'",
        command_line.RUN_CONFIG,
    )
    parser.add_argument(
        '--text', action='append', default=[], help='text to explain; may be repeated; default: those of --input'
    )
    parser.add_argument(
        '--second_text',
        action='append',
        default=[],
        needs='--text',
        help='second text of each --text, for pairs; default: none',
    )
    parser.add_argument('--input', help='.jsonl, .csv, .tsv, .parquet, or .txt with one text per line; default: --text')
    parser.add_argument(
        '--examples',
        type=positive,
        default=20,
        needs='--input',
        help='number of rows of --input, from its beginning',
    )
    parser.add_argument(
        '--label',
        help='class, type of entity, or text of an answer to explain; default: what the model predicts',
    )
    parser.add_argument(
        '--methods',
        default='integrated_gradients,gradient_x_input,leave_one_out',
        help='methods, separated by commas; the first one orders the words of the page',
    )
    parser.add_argument('--steps', type=positive, default=50, help='Gauss–Legendre points of integrated gradients')
    parser.add_argument(
        '--baseline',
        choices=('padding', 'zero', 'mean'),
        default='padding',
        help='embedding of an absent word: that of the padding id, zero, or the mean over the vocabulary',
    )
    parser.add_argument(
        '--random',
        type=number(Annotated[int, AtLeast(0)]),
        default=5,
        help='random attributions beside comprehensiveness and sufficiency; 0 computes neither',
    )
    parser.add_argument(
        '--counterfactual',
        type=number(Annotated[int, AtLeast(0)]),
        default=5,
        help='most words that are taken away to find the fewest without which the decision changes; 0 looks for none',
    )
    parser.add_argument(
        '--substitutes',
        help='.json file with sets of words that may take each other\'s place: [["lost", "found"]]; the fewest '
        'replacements (at most --counterfactual) that change the decision of a model that labels texts are shown; '
        'default: none',
    )
    parser.add_argument('--seed', type=number(Seed), default=0, help='seed of the random attributions')
    parser.add_argument('--batch_size', type=positive, default=16, help='rows of up to 512 tokens per pass')
    parser.add_argument('--output', type=file_name('.html'), help='.html file; default: explanations.html in MODEL_DIR')
    command_line.add_trust(parser)
    return parser


def _read_sets(name: str) -> dict[str, tuple[str, ...]]:
    """Return the substitutes of a file.

    Raises:
      UserError: it cannot be read, or does not hold sets of words.
    """
    from palm_jax.explanations.substitution import substitutes_of

    try:
        content = json.loads(Path(name).read_text(encoding='utf-8'))
    except OSError as error:
        raise UserError(f'--substitutes={name} cannot be read: {error.strerror or error}.') from None
    except ValueError as error:
        raise UserError(f'--substitutes={name} is not JSON: {error}.') from None
    return substitutes_of(content, f'--substitutes={name}')


def _check_substitutes(model: TrainedModel) -> None:
    """Refuse a model whose decisions no substitution changes.

    Raises:
      UserError: the model does not give single texts labels.
    """
    from palm_jax.predictors.label_predictor import LabelPredictor
    from palm_jax.predictors.predictor import purpose_of

    predictor = model.predictor
    if (
        not isinstance(predictor, LabelPredictor)
        or not predictor.label_kind.has_classes
        or predictor.reads_pairs(model)
    ):
        raise UserError(
            f'--substitutes is for models that label single texts; this one was trained {purpose_of(model)}.'
        )


def _substitute(
    model: TrainedModel, inputs: Sequence[Any], sets: dict[str, tuple[str, ...]], options: Any
) -> dict[int, Any]:
    """Return the substitutions that change the decisions for inputs, by number of the input."""
    from palm_jax.explanations import substitution

    predictor: Any = model.predictor
    kind, found = predictor.label_kind, {}
    predict = lambda texts: [  # noqa: E731
        kind.to_json(p)['probabilities'] for p in model.predict(texts, batch_size=options.batch_size)
    ]
    for place, (text, probabilities) in enumerate(zip(inputs, predict(inputs), strict=True)):
        label = max(probabilities, key=probabilities.get)
        margins = substitution.margins_of(predict, label, kind.is_exclusive)
        if margins([text])[0] >= 0 and (other := substitution.substitute(margins, text, sets, options.counterfactual)):
            (changed,) = predict([other.text])
            found[place] = (label, other, max(changed, key=changed.get) if kind.is_exclusive else None)
    return found


def _sentence(found: tuple[str, Any, str | None]) -> str:
    label, other, instead = found
    words = ', '.join(f'{substitute!r} for {word!r}' for word, substitute in other.words)
    decision = f'not decide {label!r}' if instead is None else f'decide {instead!r} instead of {label!r}'
    return f'with {words} the model would {decision}: {other.text}'


def _as_json(found: tuple[str, Any, str | None] | None) -> dict[str, Any] | None:
    return None if found is None else {'label': found[0], 'instead': found[2], **dataclasses.asdict(found[1])}


def _read(model: TrainedModel, options: Any) -> list[Any]:
    """Return the inputs that are named on the command line or in a file.

    Raises:
      UserError: if one of them cannot be read.
    """
    from palm_jax.api.predictions import read_rows
    from palm_jax.data.readers.delimited import Layout
    from palm_jax.data.readers.row import Row

    if options.second_text:
        if not model.predictor.reads_pairs(model):
            raise UserError(f'--second_text is for models of pairs; this one was trained {model.predictor.purpose}.')
        return list(zip(options.text, options.second_text, strict=True))
    if options.text and model.predictor.reads_pairs(model):
        raise UserError('This model reads pairs of texts: give --second_text="..." after each --text.')
    rows: list[Any] = [Row({'text': text}, f'--text={text[:20]!r}', is_line=True) for text in options.text]
    if options.input:
        for row in read_rows(options.input, getattr(model.data, 'layout', Layout())):
            rows.append(row)
            if len(rows) == options.examples:
                break
    for row in rows:
        if isinstance(row, UserError):
            raise row
    return [model.predictor.parse(model, row) for row in rows]
