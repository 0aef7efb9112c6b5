"""palm-jax toxicity --gin_file=runs/tiny/config.gin --rules=rules.json --input=prompts.txt

Lets a model continue prompts, several times each, and scores what it writes by rules: words, patterns, your own
classifiers and functions, services over HTTP. Shows the expected maximum toxicity, the share of prompts with a toxic
continuation, and the worst texts. Writes a web page, and JSON beside it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from palm_jax.bounds import Above, AtLeast, AtMost, Seed
from palm_jax.cli import command_line
from palm_jax.cli.parser import Parser, file_name, number, positive
from palm_jax.errors import UserError

if TYPE_CHECKING:
    from palm_jax.monitoring.toxicity import Toxicity

_WORST = 20  # continuations on the page


def main(arguments: Sequence[str]) -> int:
    """Score continuations; the code is 1 if a toxicity probability is larger than --fail_on."""
    options, run = command_line.parse_run(_parser(), arguments)
    output = command_line.writable(options.output or Path(run.path / 'toxicity.html'))

    from palm_jax.inference.generate import Sampler
    from palm_jax.monitoring import content_filter, toxicity
    from palm_jax.monitoring.audit_log import AuditLog
    from palm_jax.monitoring.content_filter import ContentFilter
    from palm_jax.reports import pages
    from palm_jax.serving.models import Loader

    rules = content_filter.load(options.rules, Loader((), options.trust_modules).scorer)
    model = run.load()
    sampler = Sampler(
        max_tokens=options.max_tokens,
        temperature=options.temperature,
        top_p=options.top_p,
        num_decodes=options.samples,
        seed=options.seed,
        batch_size=options.batch_size,
    )
    inputs, texts = _read(model, options.input)
    prompts = toxicity.generate(model, inputs, texts, sampler)
    found: list[Toxicity] = []
    worst: list[tuple[float, str, str, str]] = []
    scores: dict[str, Any] = {}
    with contextlib.ExitStack() as stack:
        log = stack.enter_context(AuditLog(options.audit)) if options.audit else None
        for rule in rules:
            of_rule, scores_PS = toxicity.score(rule, prompts, ContentFilter(rules, log), model=str(run.path))
            found += of_rule
            scores[rule.name] = scores_PS.tolist()
            worst += [
                (scores_PS[p, s], rule.name, prompt.text, text)
                for p, prompt in enumerate(prompts)
                for s, text in enumerate(prompt.continuations)
                if scores_PS[p, s] > 0
            ]
    worst.sort(key=lambda row: -row[0])
    tables: dict[str, Any] = {
        'Toxicity of continuations': _rows(found),
        'The worst': [('score', 'rule', 'prompt', 'continuation'), *((f'{w[0]:.3f}', *w[1:]) for w in worst[:_WORST])],
    }
    output.write_text(pages.html_page(f'Toxicity of {run.path.name}', tables, []), encoding='utf-8')
    content = {
        'model': str(run.path),
        'checkpoint': str(model.checkpoint),
        'samples': options.samples,
        'rules': [{'name': r.name, 'version': r.version, 'threshold': r.threshold} for r in rules],
        'toxicity': [dataclasses.asdict(part) for part in found],
        'prompts': [dataclasses.asdict(p) | {'scores': {r: s[i] for r, s in scores.items()}}
                    for i, p in enumerate(prompts)],
    }  # fmt: skip
    output.with_suffix('.json').write_text(json.dumps(content, ensure_ascii=False, indent=1) + '\n', encoding='utf-8')
    rows = tables['Toxicity of continuations']
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print('  '.join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip())
    print(f'page       {output} (and {output.with_suffix(".json").name})')
    return 1 if options.fail_on is not None and max(part.probability for part in found) > options.fail_on else 0


def _parser() -> Parser:
    parser = command_line.parser(
        'toxicity',
        __doc__ or '',
        '--gin_file=runs/tiny/config.gin --rules=rules.json --input=prompts.txt',
        command_line.RUN_CONFIG,
    )
    parser.add_argument('--rules', type=file_name('.json'), required=True, help='.json file of rules, as for serve')
    parser.add_argument('--input', required=True, help='prompts: .txt with one per line, or a table')
    parser.add_argument('--samples', type=positive, default=25, help='continuations of each prompt')
    parser.add_argument('--max_tokens', type=positive, default=20, help='most tokens of a continuation')
    parser.add_argument(
        '--temperature', type=number(Annotated[float, AtLeast(0)]), default=1.0, help='divisor of the logits'
    )
    parser.add_argument(
        '--top_p', type=number(Annotated[float, Above(0), AtMost(1)]), default=0.9, help='nucleus sampling threshold'
    )
    parser.add_argument('--seed', type=number(Seed), default=0, help='seed of the sampling')
    parser.add_argument(
        '--fail_on',
        type=number(Annotated[float, AtLeast(0), AtMost(1)]),
        help='share of prompts with a toxic continuation above which the exit code is 1; default: none',
    )
    parser.add_argument(
        '--audit',
        metavar='FILE',
        type=file_name('.jsonl'),
        help='.jsonl file to which every continuation that reaches a threshold is appended, by its hash; default: none',
    )
    parser.add_argument('--batch_size', type=positive, default=8, help='prompts per batch')
    parser.add_argument('--output', type=file_name('.html'), help='.html file; default: toxicity.html in MODEL_DIR')
    command_line.add_trust(parser)
    return parser


def _read(model: Any, source: str) -> tuple[list[Any], list[str]]:
    """Return the inputs of a file, and the text of each.

    Raises:
      UserError: a row cannot be read, or there are none.
    """
    from palm_jax.api.predictions import read_rows
    from palm_jax.data.readers.delimited import Layout

    inputs, texts = [], []
    for row in read_rows(source, getattr(model.data, 'layout', Layout())):
        if isinstance(row, UserError):
            raise row
        if row.is_line and not next(iter(row.values.values())).strip():
            continue
        given = model.predictor.parse(model, row)
        inputs.append(given)
        texts.append(given if isinstance(given, str) else '\n'.join(v for v in row.values.values() if type(v) is str))
    if not inputs:
        raise UserError(f'--input={source} has no prompts.')
    return inputs, texts


def _rows(found: Sequence[Toxicity]) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = [
        ('rule', 'part', 'prompts', 'expected maximum', '95% interval', 'any is toxic', '95% interval', 'mean')
    ]
    for part in found:
        ends = part.expected_maximum_interval
        rows.append(
            (
                part.rule,
                part.part,
                f'{part.prompts:,}',
                f'{part.expected_maximum:.3f}',
                'n/a' if ends is None else f'{ends[0]:.3f} to {ends[1]:.3f}',
                f'{part.probability:.1%}',
                '{:.1%} to {:.1%}'.format(*part.probability_interval),
                f'{part.mean:.4f}',
            )
        )
    return rows
