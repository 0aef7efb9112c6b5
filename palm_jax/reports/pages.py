"""Tables and pictures as one page, in Markdown and in HTML."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence

Table = Sequence[Sequence[str]]  # the first row is the header

_STYLE = (
    'body{font:15px system-ui,sans-serif;margin:2rem auto;max-width:70rem;padding:0 1rem}'
    'table{border-collapse:collapse}td,th{border-bottom:1px solid #ddd;padding:.25rem .75rem;text-align:left}'
    'img{max-width:100%}'
)


def markdown(title: str, tables: Mapping[str, Table], pictures: Sequence[str]) -> str:
    """Return a page as Markdown.

    Args:
      title: heading of the page.
      tables: tables by heading; the first row of each is its header.
      pictures: file names, relative to the page.
    """

    def cell(value: str) -> str:
        return value.replace('|', '\\|').replace('\n', ' ')

    lines = [f'# {title}', '', *(f'![{p}]({p})' for p in pictures), '']
    for heading, (header, *rows) in tables.items():
        lines += [f'## {heading}', '', f'| {" | ".join(header)} |', '|' + '---|' * len(header)]
        lines += [f'| {" | ".join(map(cell, row))} |' for row in rows] + ['']
    return '\n'.join(lines)


def html_page(title: str, tables: Mapping[str, Table], pictures: Sequence[str]) -> str:
    """Return a page as HTML; arguments as in `markdown`."""
    parts = [f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{html.escape(title)}</title>']
    parts += [f'<style>{_STYLE}</style><h1>{html.escape(title)}</h1>']
    parts += [f'<img src="{p}" alt="{p}">' for p in pictures]
    for heading, (header, *rows) in tables.items():
        parts.append(f'<h2>{html.escape(heading)}</h2><table><tr>')
        parts += [f'<th>{html.escape(h)}</th>' for h in header]
        parts += ['<tr>' + ''.join(f'<td>{html.escape(c)}</td>' for c in row) for row in rows]
        parts.append('</table>')
    return '\n'.join(parts) + '\n'
