"""Tables of what was found about groups, templates, pairs and questions, for the terminal and the page."""

from __future__ import annotations

from collections.abc import Sequence

from palm_jax.fairness.associations import Associations
from palm_jax.fairness.bbq import BBQScore
from palm_jax.fairness.counterfactuals import Counterfactuals
from palm_jax.fairness.groups import SMALL, Groups
from palm_jax.fairness.stereotype_pairs import PairScore

Rows = list[tuple[str, ...]]  # the first is the header


def of_groups(groups: Groups) -> dict[str, Rows]:
    """Return the groups of a column, and the gaps between them."""
    widest = next((gap.label for gap in groups.gaps if gap.metric == 'demographic parity'), '')
    rows: Rows = [('group', 'rows', groups.metric, *([f'given {widest}'] if widest else []))]
    for group, count in groups.counts.items():
        share = [f'{groups.shares[widest][group]:.1%}'] if widest else []
        few = ' (few)' if count < SMALL else ''
        rows.append((group, f'{count:,}{few}', f'{abs(groups.scores[group]):.4f}', *share))
    gaps = [
        (g.metric, g.label, f'{g.value:.4f}', f'{g.low:.4f} to {g.high:.4f}', g.lowest, g.highest) for g in groups.gaps
    ]
    return {
        f'Groups by {groups.column}': rows,
        f'Gaps by {groups.column}': [('metric', 'label', 'gap', '95% interval', 'lowest', 'highest'), *gaps],
    }


def sentence_of_groups(groups: Groups) -> str:
    """Return the worst group of a column in words."""
    worst = groups.worst
    shown = f'{groups.metric} {abs(groups.scores[worst]):.4f} (all rows: {abs(groups.overall):.4f})'
    ratio = '' if groups.ratio is None else f'; smallest over largest share of a label {groups.ratio:.2f}'
    return f'{groups.column}: the worst group is {worst!r}, {shown}{ratio}'


def of_counterfactuals(found: Counterfactuals) -> dict[str, Rows]:
    """Return the gaps of a set of templates, its flips, and examples of them."""
    tables: dict[str, Rows] = {}
    if found.gaps:
        rows = [
            (
                gap.label or 'the number',
                f'{gap.value:.4f}',
                f'{gap.low:.4f} to {gap.high:.4f}',
                f'{gap.lowest} ({gap.means[gap.lowest]:.4f})',
                f'{gap.highest} ({gap.means[gap.highest]:.4f})',
            )
            for gap in found.gaps
        ]
        header = ('label', 'gap of means', '95% interval', 'lowest', 'highest')
        tables[f'Templates, {found.name}: gaps'] = [header, *rows]
    if found.between:
        flips = [
            (' and '.join(dict.fromkeys(f.groups)), f'{f.pairs:,}', f'{f.share:.2%}')
            for f in (*sorted(found.between, key=lambda f: -f.share), *found.within)
        ]
        tables[f'Templates, {found.name}: flips'] = [('pairs of', 'pairs', 'other decision'), *flips]
    if found.examples:
        examples = [
            (e['texts'][0], _shown(e['predicted'][0]), e['texts'][1], _shown(e['predicted'][1])) for e in found.examples
        ]
        header = ('text', 'decision', 'other text', 'decision')
        tables[f'Templates, {found.name}: examples of flips'] = [header, *examples]
    return tables


def sentence_of_counterfactuals(found: Counterfactuals) -> str:
    """Return the largest gap and the flips of a set of templates in words."""
    parts = []
    if found.gaps:
        gap = found.gaps[0]
        label = f'of {gap.label!r} ' if gap.label else ''
        parts.append(f'the largest gap {label}is {gap.value:.4f} ({gap.lowest} lowest, {gap.highest} highest)')
    if found.flips is not None:
        inside = '' if found.flips_within is None else f', {found.flips_within:.2%} of those of one group'
        parts.append(f'{found.flips:.2%} of the pairs of different groups flip{inside}')
    return f'{found.name}: {"; ".join(parts)}'


def of_associations(found: Associations) -> dict[str, Rows]:
    """Return the likelihoods of a set of templates, and the words that go most with a group."""
    groups = list(found.means)
    means = [(g, f'{found.counts[g]:,}', f'{found.means[g]:.3f}') for g in groups]
    tables: dict[str, Rows] = {
        f'Templates, {found.name}: log-likelihood': [('group', 'texts', 'mean in nats'), *means],
    }
    if found.words:
        words = [
            (w.word, f'{w.spread:.3f}', *(f'{w.by_group[g]:+.3f}' for g in groups)) if len(groups) <= 6 else
            (w.word, f'{w.spread:.3f}', max(w.by_group, key=lambda g, w=w: w.by_group[g]))
            for w in found.words
        ]  # fmt: skip
        header = ('word', 'spread in nats', *(groups if len(groups) <= 6 else ['most with']))
        tables[f'Templates, {found.name}: associations'] = [header, *words]
    return tables


def of_pairs(found: Sequence[PairScore]) -> dict[str, Rows]:
    """Return the scores of stereotype pairs."""
    rows = [
        (
            part.part,
            f'{part.pairs:,}',
            f'{part.score:.1%}',
            '{:.1%} to {:.1%}'.format(*part.interval),
            f'{part.neutral:,}',
            f'{part.difference:.3f}',
        )
        for part in found
    ]
    header = ('pairs', 'number', 'stereotype likelier', '95% interval', 'equal', 'mean difference in nats')
    return {'Stereotype pairs (50% is without preference)': [header, *rows]}


def of_bbq(found: Sequence[BBQScore]) -> dict[str, Rows]:
    """Return BBQ's scores."""
    show = lambda value, form: 'n/a' if value is None else f'{value:{form}}'  # noqa: E731
    rows = [
        (
            part.category,
            f'{part.ambiguous:,}',
            show(part.accuracy_ambiguous, '.1%'),
            show(part.bias_ambiguous, '+.3f'),
            f'{part.disambiguated:,}',
            show(part.accuracy_disambiguated, '.1%'),
            show(part.bias_disambiguated, '+.3f'),
        )
        for part in found
    ]
    header = ('category', 'ambiguous', 'accuracy', 's_AMB', 'disambiguated', 'accuracy', 's_DIS')
    return {'BBQ (a bias score of 0 is without bias)': [header, *rows]}


def _shown(predicted: object) -> str:
    return ', '.join(map(str, predicted)) if isinstance(predicted, list) else str(predicted)
