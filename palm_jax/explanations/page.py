"""Explanations as text for a terminal and as a web page without scripts."""

from __future__ import annotations

import html
from collections.abc import Sequence

import numpy as np

from palm_jax.explanations.explain import Explanation
from palm_jax.explanations.faithfulness import RANDOM

_SHOWN = 8  # words in the terminal
_STYLE = (
    'body{font:15px system-ui,sans-serif;margin:2rem auto;max-width:60rem;padding:0 1rem}'
    'table{border-collapse:collapse}td,th{border-bottom:1px solid #ddd;padding:.25rem .75rem;text-align:left}'
    'section{border-top:2px solid #ccc;margin-top:2rem}.text{line-height:2;font-size:1.1rem}'
    '.text span{padding:.15rem .1rem;border-radius:.2rem}'
)
_FOR, _AGAINST = '30,110,220', '230,120,20'  # blue and orange, which colour-blind readers can tell apart


def as_text(explanation: Explanation) -> str:
    """Return an explanation for the terminal: the words that matter most, and how far it can be trusted."""
    lines = [f'{explanation.input + 1:>3}  {_headline(explanation)}']
    for method, found in explanation.attributions.items():
        lines.append(f'     {_title(method)}')
        ranked = explanation.ranked(method)
        largest = max((abs(score) for _, score in ranked), default=0.0) or 1.0
        width = max((len(word) for word, _ in ranked[:_SHOWN]), default=0)
        for word, score in ranked[:_SHOWN]:
            lines.append(f'       {word:<{width}}  {score:+9.4f}  {"█" * round(12 * abs(score) / largest)}')
        if len(ranked) > _SHOWN:
            lines.append(f'       ... and {len(ranked) - _SHOWN} more words')
        if found.completeness_error is not None and found.baseline_value is not None:
            lines.append(f'       {completeness(explanation, method)}')
    lines += [f'     {line}' for line in (*_faithful_lines(explanation), *_counterfactual_lines(explanation))]
    return '\n'.join(lines)


def completeness(explanation: Explanation, method: str) -> str:
    """Return how far the attributions add up to the difference that they explain."""
    found = explanation.attributions[method]
    assert found.baseline_value is not None and found.completeness_error is not None
    difference = explanation.value - found.baseline_value
    share = f' ({found.completeness_error / abs(difference):.1%})' if difference else ''
    return (
        f'sum {found.words.sum():+.4f}, f(input) − f(baseline) {difference:+.4f}: '
        f'completeness error {found.completeness_error:.2g}{share}'
    )


def words_for_and_against(explanation: Explanation, method: str, most: int = 4) -> tuple[str, str]:
    """Return the words that speak most for what is explained, and those against it, with their contributions."""
    ranked = explanation.ranked(method)
    sides = ([pair for pair in ranked if pair[1] > 0], [pair for pair in ranked if pair[1] < 0])
    shown = [', '.join(f'{word} {score:+.2f}' for word, score in side[:most]) for side in sides]
    return shown[0], shown[1]


def html_page(title: str, explanations: Sequence[Explanation], notes: Sequence[str] = ()) -> str:
    """Return a page of explanations.

    Args:
      title: heading.
      explanations: in order.
      notes: sentences at the top.
    """
    parts = [f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{html.escape(title)}</title>']
    parts += [f'<style>{_STYLE}</style><h1>{html.escape(title)}</h1>']
    parts += [f'<p>{html.escape(note)}</p>' for note in notes]
    parts.append(
        f'<p><span style="background:rgba({_FOR},.5)">blue</span> words speak for what is explained, '
        f'<span style="background:rgba({_AGAINST},.5)">orange</span> ones against it.</p>'
    )
    parts += [as_html(explanation) for explanation in explanations]
    return '\n'.join(parts) + '\n'


def as_html(explanation: Explanation) -> str:
    """Return an explanation as a section of a page: the text with its words coloured, and a table."""
    methods = list(explanation.attributions)
    parts = [f'<section><h2>{explanation.input + 1}. {html.escape(_headline(explanation))}</h2>']
    for method in methods:
        parts.append(f'<p><em>{_title(method)}</em></p><p class="text">{_coloured(explanation, method)}</p>')
        if explanation.attributions[method].completeness_error is not None:
            parts.append(f'<p>{html.escape(completeness(explanation, method))}</p>')
    if explanation.words:
        parts.append('<details><summary>all words</summary><table><tr><th>word</th>')
        parts += [f'<th>{_title(method)}</th>' for method in methods]
        for i in np.argsort(-np.abs(explanation.attributions[methods[0]].words), kind='stable'):
            cells = ''.join(f'<td>{explanation.attributions[method].words[i]:+.4f}</td>' for method in methods)
            parts.append(f'<tr><td>{html.escape(explanation.words[i].text)}</td>{cells}')
        parts.append('</table></details>')
    parts += [f'<p>{html.escape(line)}</p>' for line in _counterfactual_lines(explanation)]
    if explanation.faithfulness:
        parts.append('<table><tr><th></th><th>comprehensiveness (high is good)</th><th>sufficiency (low is good)</th>')
        for name, found in explanation.faithfulness.items():
            parts.append(
                f'<tr><td>{_title(name)}</td><td>{found.comprehensiveness:.4f}</td><td>{found.sufficiency:.4f}</td>'
            )
        parts.append('</table>')
    return '\n'.join([*parts, '</section>'])


def _headline(explanation: Explanation) -> str:
    probability = explanation.probability
    shown = '' if probability is None else f'{_probability(explanation)} {probability:.4f}, '
    label = ' '.join(explanation.label.split())
    label = label if len(label) <= 80 else f'{label[:79]}…'
    return f'{label or "(empty)"}  ({shown}{explanation.unit} {explanation.value:+.4f})'


def _probability(explanation: Explanation) -> str:
    return 'probability per token' if explanation.unit == 'log-probability' else 'probability'


def _faithful_lines(explanation: Explanation) -> list[str]:
    found = explanation.faithfulness
    if not found:
        return []
    width = max(len(_title(name)) for name in found)
    header = f'{"":<{width}}  comprehensiveness (high is good)  sufficiency (low is good)'
    rows = [f'{_title(name):<{width}}  {f.comprehensiveness:<32.4f}  {f.sufficiency:.4f}' for name, f in found.items()]
    return [header, *rows]


def _counterfactual_lines(explanation: Explanation) -> list[str]:
    found = explanation.counterfactual
    if found is None:
        return []
    words = ', '.join(repr(explanation.words[i].text) for i in found.removed)
    instead = 'otherwise' if found.instead is None else repr(found.instead)
    return [f'without {words} the model would decide {instead}']


def _title(method: str) -> str:
    names = {'gradient_x_input': 'gradient × input', 'leave_one_out': 'leave-one-out', RANDOM: 'random words'}
    return names.get(method, method.replace('_', ' '))


def _coloured(explanation: Explanation, method: str) -> str:
    """Return the words as HTML, each on a background as strong as its contribution."""
    scores = explanation.attributions[method].words
    largest = float(np.abs(scores).max(initial=0.0)) or 1.0
    parts: list[str] = []
    for i, word in enumerate(explanation.words):
        if i and word.part != explanation.words[i - 1].part:
            parts.append('<br>')
        colour, strength = (_FOR if scores[i] > 0 else _AGAINST), abs(float(scores[i])) / largest
        parts.append(
            f'<span style="background:rgba({colour},{0.7 * strength:.2f})" title="{scores[i]:+.4f}">'
            f'{html.escape(word.text)}</span>'
        )
    return ' '.join(parts)
