"""palm-jax fairness --gin_file=runs/finetuned/config.gin [--input=audit.csv --groups=gender] [--templates=gender]

Shows whether a model treats groups alike.

--input and --groups take a table with the columns of the training table and, for each row, groups in columns of your
own: how often a model that labels texts is right in each group, how often each label is given (demographic parity),
and the true and false positive rates (equalized odds).
--templates takes texts that differ only in a name, a pronoun, an occupation or a language: how far probabilities are
apart, and how often the decision flips; of a language model, which words it associates with which group.
--pairs and --bbq take the files of CrowS-Pairs and BBQ, for models that generate text.

Several work together. Writes a web page, and JSON beside it.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from palm_jax.bounds import Above, Seed
from palm_jax.cli import command_line
from palm_jax.cli.parser import Parser, file_name, number, positive
from palm_jax.errors import UserError, located

if TYPE_CHECKING:
    from argparse import Namespace

    from palm_jax.api.trained_model import TrainedModel

_SHOWN = 12  # rows of each table in the terminal


@dataclasses.dataclass
class _Findings:
    """What the parts of an audit have found.

    Attributes:
      tables: tables by title.
      sentences: results in words.
      content: JSON by part.
      gaps: what --fail_on is compared with.
    """

    tables: dict[str, Any] = dataclasses.field(default_factory=dict)
    sentences: list[str] = dataclasses.field(default_factory=list)
    content: dict[str, Any] = dataclasses.field(default_factory=dict)
    gaps: list[float] = dataclasses.field(default_factory=list)


def main(arguments: Sequence[str]) -> int:
    """Compare groups; the code is 1 if a gap is larger than --fail_on."""
    options, run = command_line.parse_run(_parser(), arguments)
    _check(options)
    output = command_line.writable(options.output or Path(run.path / 'fairness.html'))

    from palm_jax.fairness import templates
    from palm_jax.reports import pages

    sets = [templates.load(name) for name in _names(options.templates)]
    model = run.load()
    findings = _Findings()
    if options.input:
        _compare_groups(model, options, findings)
    for of_set in sets:
        _fill_templates(model, of_set, options, findings)
    if options.pairs:
        _score_pairs(model, options, findings)
    if options.bbq:
        _answer_bbq(model, options, findings)
    replaced = _parts_of(output.with_suffix('.json'))
    output.write_text(pages.html_page(f'Fairness of {run.path.name}', findings.tables, []), encoding='utf-8')
    about = {'model': str(run.path), 'checkpoint': str(model.checkpoint)}
    content = json.dumps(about | findings.content, ensure_ascii=False, indent=1)
    output.with_suffix('.json').write_text(content + '\n', encoding='utf-8')
    for title, rows in findings.tables.items():
        print(f'{title}\n{_text(rows[: _SHOWN + 1])}')
    print('\n'.join(findings.sentences))
    print(f'page       {output} (and {output.with_suffix(".json").name})')
    if lost := [part for part in replaced if part not in findings.content]:
        print(f'replaced   a report of {", ".join(lost)}: ask for all parts at once, or name another --output')
    return 1 if options.fail_on is not None and max(findings.gaps, default=0.0) > options.fail_on else 0


def _parts_of(report: Path) -> list[str]:
    """Return the parts that an earlier report in JSON has; none if the file does not exist."""
    try:
        found = json.loads(report.read_text(encoding='utf-8'))
    except (OSError, ValueError):
        return []
    return [part for part in ('groups', 'templates', 'pairs', 'bbq') if isinstance(found, dict) and part in found]


def _parser() -> Parser:
    parser = command_line.parser(
        'fairness',
        __doc__ or '',
        '--gin_file=runs/finetuned/config.gin --input=audit.csv --groups=gender',
        command_line.RUN_CONFIG,
    )
    parser.add_argument('--input', help='labelled table with the groups: .jsonl, .csv, .tsv or .parquet; default: none')
    parser.add_argument('--groups', help='columns of the groups, separated by commas; default: none')
    parser.add_argument(
        '--templates',
        help='sets of templates, separated by commas: gender, pronouns, occupations, languages, territories, or files '
        '(.json, or .txt with one per line); default: none',
    )
    parser.add_argument('--most', type=positive, default=5000, help='most texts of a set of templates')
    parser.add_argument('--pairs', help='.csv file of CrowS-Pairs, with sent_more and sent_less; default: none')
    parser.add_argument('--bbq', help='.jsonl file of BBQ; default: none')
    parser.add_argument(
        '--fail_on',
        type=number(Annotated[float, Above(0)]),
        help='gap above which the exit code is 1: of a metric of groups, of mean probabilities, of a share of pairs '
        'from 50%%, or of a bias score from 0; default: none',
    )
    parser.add_argument('--seed', type=number(Seed), default=0, help='seed of the bootstrap')
    parser.add_argument('--batch_size', type=positive, default=32, help='texts per forward pass')
    parser.add_argument('--output', type=file_name('.html'), help='.html file; default: fairness.html in MODEL_DIR')
    command_line.add_trust(parser)
    return parser


def _check(options: Namespace) -> None:
    """Refuse a call that asks for nothing, or for half of something."""
    if bool(options.input) != bool(options.groups):
        missing, given = ('--groups', '--input') if options.input else ('--input', '--groups')
        what = 'columns of the groups' if options.input else 'the table that has these columns'
        raise UserError(f'{given} needs {missing}: {what}, e.g. --input=audit.csv --groups=gender')
    if not (options.input or options.templates or options.pairs or options.bbq):
        raise UserError(
            'Nothing to compare: give --input=audit.csv --groups=gender for a labelled table, --templates=gender for '
            'built-in texts, --pairs=crows_pairs.csv or --bbq=bbq.jsonl.'
        )
    for flag in ('input', 'pairs', 'bbq'):
        name = getattr(options, flag)
        if name and '*' not in name and '://' not in name and not Path(name).exists():
            raise UserError(f'--{flag}={name} does not exist.')


def _names(text: str | None) -> list[str]:
    return list(dict.fromkeys(name.strip() for name in (text or '').split(',') if name.strip()))


def _compare_groups(model: TrainedModel, options: Namespace, findings: _Findings) -> None:
    """Compare the groups of the columns of a table."""
    from palm_jax.fairness import audit, tables

    names = _names(options.groups)
    found = audit.compare(model, *_read(model, options.input, names), options.batch_size, options.seed)
    for groups in found:
        findings.tables |= tables.of_groups(groups)
        findings.sentences.append(tables.sentence_of_groups(groups))
        findings.gaps += [gap.value for gap in groups.gaps]
    findings.content |= {'input': options.input, 'groups': [dataclasses.asdict(groups) for groups in found]}


def _fill_templates(model: TrainedModel, of_set: Any, options: Namespace, findings: _Findings) -> None:
    """Compare the texts of a set of templates, by likelihoods for a language model and else by predictions."""
    from palm_jax.fairness import associations, counterfactuals, language_models, tables

    filled = of_set.fill(options.most)
    texts = [text.text for text in filled]
    found: Any
    if language_models.is_language_model(model):
        found = associations.associate(
            of_set.name, filled, language_models.log_likelihoods(model, texts, options.batch_size)
        )
        findings.tables |= tables.of_associations(found)
    else:
        predictions = language_models.predict(model, texts, options.batch_size)
        found = counterfactuals.compare(of_set.name, filled, predictions, options.seed)
        findings.tables |= tables.of_counterfactuals(found)
        findings.sentences.append(tables.sentence_of_counterfactuals(found))
        findings.gaps += [gap.value for gap in found.gaps]
    findings.content.setdefault('templates', []).append(dataclasses.asdict(found))


def _score_pairs(model: TrainedModel, options: Namespace, findings: _Findings) -> None:
    """Score the pairs of CrowS-Pairs, or of a file like it."""
    from palm_jax.fairness import language_models, stereotype_pairs, tables

    pairs = stereotype_pairs.read(_rows(options.pairs, '--pairs'))
    both = [text for pair in pairs for text in (pair.more, pair.less)]
    values = language_models.log_likelihoods(model, both, options.batch_size)
    found = stereotype_pairs.score(pairs, values[::2], values[1::2])
    findings.tables |= tables.of_pairs(found)
    findings.gaps.append(abs(found[0].score - 0.5))
    findings.content['pairs'] = [dataclasses.asdict(part) for part in found]


def _answer_bbq(model: TrainedModel, options: Namespace, findings: _Findings) -> None:
    """Let a model answer BBQ's questions."""
    from palm_jax.fairness import bbq, language_models, tables

    questions = bbq.read(_rows(options.bbq, '--bbq'))
    found = bbq.score(questions, language_models.answer(model, questions, options.batch_size))
    findings.tables |= tables.of_bbq(found)
    if found[0].without_target:
        findings.sentences.append(
            f'BBQ: {found[0].without_target:,} of {len(questions):,} questions do not tell which answer the stereotype '
            'is about; they count for the accuracy alone'
        )
    findings.gaps += [abs(b) for b in (found[0].bias_ambiguous, found[0].bias_disambiguated) if b is not None]
    findings.content['bbq'] = [dataclasses.asdict(part) for part in found]


def _rows(source: str, flag: str) -> list[Any]:
    """Return the rows of a file.

    Raises:
      UserError: a row cannot be read, or there are none.
    """
    from palm_jax.api.predictions import read_rows
    from palm_jax.data.readers.delimited import Layout

    found = []
    for row in read_rows(source, Layout(encoding='utf-8'), flag):
        if isinstance(row, UserError):
            raise row
        found.append(row)
    return found


def _read(model: TrainedModel, source: str, names: Sequence[str]) -> tuple[list[Any], list[Any], dict[str, list[str]]]:
    """Return the inputs, the labels, and the groups of each column.

    Raises:
      UserError: a row cannot be read, or lacks a label or a group.
    """
    from palm_jax.api.predictions import read_rows
    from palm_jax.data.readers import columns
    from palm_jax.fairness import audit

    audit.check_kind(model)
    wanted = [(model.data.table.label_column, 'LABEL_COLUMN'), *((name, '--groups') for name in names)]
    inputs: list[Any] = []
    labels: list[Any] = []
    groups: dict[str, list[str]] = {name: [] for name in names}
    for row in read_rows(source, model.data.layout):
        if isinstance(row, UserError):
            raise row
        for name, binding in wanted:
            columns.find(row, name, binding)
        inputs.append(model.predictor.parse(model, row))
        labels.append(row.values[model.data.table.label_column])
        with located(row.location):
            audit.check_label(model, labels[-1])
        for name in names:
            groups[name].append(str(row.values[name]).strip() or '(empty)')
    return inputs, labels, groups


def _text(rows: Sequence[tuple[str, ...]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ('  '.join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in rows)
    return '\n'.join(f'  {line}' for line in lines)
