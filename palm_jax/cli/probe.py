"""palm-jax probe --gin_file=runs/finetuned/config.gin [--tests=tests.jsonl]

Changes the held-out texts of a fine-tuned run (typing mistakes, case, blanks, punctuation, homoglyphs, gender,
numbers, negation; with --synonyms, words for others of a thesaurus) and shows what that costs: the drop of the score
with McNemar's exact test, the share of answers that flip, and examples. --table compares the held-out texts with those
of another domain, and --rewriting with their translations. Tests of your own (a text with the right label, or two
texts with an expectation) are run besides.
Writes a web page, and JSON beside it.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from palm_jax.bounds import Seed
from palm_jax.cli import command_line
from palm_jax.cli.parser import Parser, file_name, number, positive
from palm_jax.errors import UserError

if TYPE_CHECKING:
    from palm_jax.probing.probe import Finding, Outcome

_WITHOUT_ANSWERS = (
    'there are no right answers that a change of the text could make wrong. Probe a model that was fine-tuned on a '
    'table.'
)


def main(arguments: Sequence[str]) -> int:
    """Probe a model; the code is 1 if a test of the user's fails."""
    options, run = command_line.parse_run(_parser(), arguments)
    output = command_line.writable(options.output or Path(run.path / 'probes.html'))

    from palm_jax.data.augmentation import thesaurus
    from palm_jax.data.readers.files import refuse_blank
    from palm_jax.probing import answers, probe
    from palm_jax.probing.perturbations import PERTURBATIONS, of_synonyms

    names = [name.strip() for name in options.probes.split(',') if name.strip()] if options.probes else [*PERTURBATIONS]
    perturbations = [] if names == ['none'] else probe.perturbations_of(names)
    if options.synonyms:
        perturbations.append(of_synonyms(thesaurus.read(options.synonyms, '--synonyms').synonyms))
    tables, rewritings = (('--table', text) for text in options.table), (('--rewriting', t) for t in options.rewriting)
    files = _named_files([*rewritings, *tables])
    for flag, file in files.values():
        refuse_blank(file, flag)
    tests = _read_tests(options.tests) if options.tests else []
    if not (perturbations or files or tests):
        raise UserError('Nothing to probe: --probes=none without --table, --rewriting, --synonyms or --tests.')
    model = run.load()
    held_out = answers.cases(model, _WITHOUT_ANSWERS)
    others = {name: answers.cases_of_files(model, file, flag) for name, (flag, file) in files.items()}
    for name, (flag, file) in files.items():
        if flag == '--rewriting':
            probe.check_rewriting(model, held_out, others[name], f'{flag}={file}')
    cases = answers.spread(held_out, options.examples)
    before = answers.answers(model, cases, options.batch_size) if perturbations or others else None
    findings = probe.probe(model, cases, perturbations, options.seed, options.batch_size, before)
    of_tables = []
    for name, other in others.items():
        has_pairs = True if files[name][0] == '--rewriting' else None
        more = options.examples, options.batch_size, before, has_pairs
        of_tables.append(probe.probe_table(model, held_out, other, name, *more))
    results = probe.run_tests(model, tests, options.batch_size) if tests else []
    content = {'model': str(run.path), 'checkpoint': str(model.checkpoint), 'seed': options.seed} | {
        'probes': [_to_json(f) for f in findings],
        'tables': [_to_json(f) | {'file': files[f.name][1]} for f in of_tables],
        'tests': [dataclasses.asdict(r) for r in results],
    }
    _show(f'Probes of {run.path.name}', findings, of_tables, results, content, output)
    return 1 if any(r.failures for r in results) else 0


def _show(
    title: str,
    findings: Sequence[Finding],
    of_tables: Sequence[Finding],
    results: Sequence[Outcome],
    content: dict[str, Any],
    output: Path,
) -> None:
    """Write the page and the JSON, and print the tables."""
    from palm_jax.reports import pages

    tables: dict[str, Any] = {}
    if findings:
        tables['Probes'] = _rows(findings)
    if of_tables:
        tables['Other texts'] = _table_rows(of_tables)
    if results:
        tables['Tests'] = _test_rows(results)
    printed = list(tables.values())
    examples = [
        (f.name, ' / '.join(e['text']), ' / '.join(e['changed']), f'{e["before"]}', f'{e["after"]}')
        for f in (*findings, *of_tables)
        for e in f.examples
    ]
    if examples:
        tables['Flips'] = [('probe', 'text', 'changed', 'answer before', 'after'), *examples]
    if failures := [
        (r.name, f'{f["text"]}', f'{f["changed"] or ""}', f'{f["expected"]}', f'{f["found"]}')
        for r in results
        for f in r.failures
    ]:
        tables['Failed tests'] = [('tests', 'text', 'changed', 'expected', 'found'), *failures]
    output.write_text(pages.html_page(title, tables, []), encoding='utf-8')
    output.with_suffix('.json').write_text(json.dumps(content, ensure_ascii=False, indent=1) + '\n', encoding='utf-8')
    for table in printed:
        print(_text(table))
    print(f'page       {output} (and {output.with_suffix(".json").name})')


def _parser() -> Parser:
    parser = command_line.parser(
        'probe', __doc__ or '', '--gin_file=runs/finetuned/config.gin', command_line.RUN_CONFIG
    )
    parser.add_argument('--probes', help='names of probes, separated by commas, or none; default: all')
    parser.add_argument(
        '--synonyms', help='thesaurus, whose words are probed besides; see docs/methods/augmentation.md; default: none'
    )
    parser.add_argument(
        '--table',
        action='append',
        default=[],
        help='[NAME=]FILE: labelled texts of another domain, or in another language, with the columns of the run; may '
        'be given several times; default: none',
    )
    parser.add_argument(
        '--rewriting',
        action='append',
        default=[],
        help='[NAME=]FILE: the held-out rows in another form, such as a translation, in their order; may be given '
        'several times; default: none',
    )
    parser.add_argument(
        '--tests', help='.jsonl file of tests: text with label, or text, changed and expect; default: none'
    )
    parser.add_argument('--examples', type=positive, default=500, help='most held-out examples')
    parser.add_argument('--seed', type=number(Seed), default=0, help='seed of the changes')
    parser.add_argument('--batch_size', type=positive, default=32, help='texts per forward pass')
    parser.add_argument('--output', type=file_name('.html'), help='.html file; default: probes.html in MODEL_DIR')
    command_line.add_trust(parser)
    return parser


def _named_files(given: Sequence[tuple[str, str]]) -> dict[str, tuple[str, str]]:
    """Return the flag and the file of each `[NAME=]FILE`, which is parted at the first `=`, by name.

    Args:
      given: the flag, and its value.

    Raises:
      UserError: a file is missing, or two have the same name.
    """
    found: dict[str, tuple[str, str]] = {}
    for flag, text in given:
        name, equals, file = text.partition('=')
        if not equals or Path(text).is_file():
            name, file = Path(text).name.split('.')[0], text
        if not name or not file:
            raise UserError(f'{flag}={text}: write [NAME=]FILE, e.g. {flag}=german=german.csv')
        if name in found:
            raise UserError(
                f'{flag}={text}: the name {name!r} is that of {found[name][1]}. Give another: {flag}=NAME={file}'
            )
        found[name] = flag, file
    return found


def _read_tests(name: str) -> list[dict[str, Any]]:
    """Return the rows of a file of tests.

    Raises:
      UserError: there is no such file, or a line is not an object.
    """
    from palm_jax.data.readers.files import File

    if not Path(name).is_file():
        raise UserError(f'--tests={name} does not exist.')
    rows = []
    for row_number, line in enumerate(File(name).text().split('\n'), 1):
        if line.strip():
            try:
                rows.append(dict(json.loads(line)))
            except (ValueError, TypeError, RecursionError):
                raise UserError(f'--tests={name}, line {row_number} is not a JSON object.') from None
    return rows


def _rows(findings: Sequence[Finding]) -> list[tuple[str, ...]]:
    header = ('probe', 'expected', 'texts changed', 'metric', 'before', 'after', 'drop', 'p', 'flips')
    rows: list[tuple[str, ...]] = [header]
    for f in findings:
        count = f'{f.changed} of {f.cases}'
        if not f.changed:
            rows.append((f.name, f.expectation, count, f.metric, *['n/a'] * 5))
            continue
        p = 'n/a' if f.p_value is None else f'{f.p_value:.2g}'
        numbers = (f'{f.before:.4f}', f'{f.after:.4f}', f'{f.drop:+.4f}', p, f'{f.flips:.1%}')
        rows.append((f.name, f.expectation, count, f.metric, *numbers))
    return rows


def _table_rows(findings: Sequence[Finding]) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = [
        ('table', 'texts', 'held-out texts', 'compared', 'metric', 'held out', 'here', 'drop', '95%', 'p', 'flips')
    ]
    for f in findings:
        compared = 'apart' if f.flips is None else 'in pairs'
        low_high = None if f.drop_interval is None else '{:+.4f} to {:+.4f}'.format(*f.drop_interval)
        flips = 'n/a' if f.flips is None else f'{f.flips:.1%}'
        numbers = (f'{f.before:.4f}', f'{f.after:.4f}', f'{f.drop:+.4f}', low_high or 'n/a', f'{f.p_value:.2g}', flips)
        rows.append((f.name, f'{f.changed}', f'{f.cases}', compared, f.metric, *numbers))
    return rows


def _to_json(finding: Finding) -> dict[str, Any]:
    return dataclasses.asdict(finding) | {'drop': finding.drop, 'drop_interval': finding.drop_interval}


def _test_rows(results: Sequence[Outcome]) -> list[tuple[str, ...]]:
    rows = [(r.name, f'{len(r.failures)} of {r.count}', f'{len(r.failures) / r.count:.1%}') for r in results]
    return [('tests', 'failed', 'share'), *rows]


def _text(rows: Sequence[tuple[str, ...]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return '\n'.join('  '.join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in rows)
