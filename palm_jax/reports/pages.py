"""Tables and pictures as one page, in Markdown and in HTML."""

from __future__ import annotations

import html
import re
from collections.abc import Mapping, Sequence

Table = Sequence[Sequence[str]]  # the first row is the header

_STYLE = (
    'body{font:15px system-ui,sans-serif;margin:2rem auto;max-width:70rem;padding:0 1rem}'
    'table{border-collapse:collapse}td,th{border-bottom:1px solid #ddd;padding:.25rem .75rem;text-align:left}'
    'img{max-width:100%}.warning{border-left:.3rem solid #c60;padding:.25rem .75rem}'
)
# What Markdown reads as markup: an underscore only where it is not inside a word.
_MARKUP = re.compile(r'[\\`*\[\]|~$]|(?<!\w)_|_(?!\w)')


def markdown(title: str, tables: Mapping[str, Table], pictures: Sequence[str], warnings: Sequence[str] = ()) -> str:
    """Return a page as Markdown; all texts are shown as they are, none as markup.

    Args:
      title: heading of the page.
      tables: tables by heading; the first row of each is its header.
      pictures: file names, relative to the page.
      warnings: sentences at the top.
    """
    lines = [f'# {escape_markdown(title)}', '', *(f'> **{escape_markdown(warning)}**\n' for warning in warnings)]
    lines += [*(f'![{p}]({p})' for p in pictures), '']
    for heading, (header, *rows) in tables.items():
        lines += [f'## {escape_markdown(heading)}', '', _line(header), '|' + '---|' * len(header)]
        lines += [*map(_line, rows), '']
    return '\n'.join(lines)


def escape_markdown(text: str) -> str:
    """Return Markdown that shows a text as it is, on one line."""
    one_line = re.sub(r'\s', ' ', text)
    return _MARKUP.sub(r'\\\g<0>', html.escape(one_line, quote=False))


def _line(cells: Sequence[str]) -> str:
    return f'| {" | ".join(map(escape_markdown, cells))} |'


def html_page(title: str, tables: Mapping[str, Table], pictures: Sequence[str], warnings: Sequence[str] = ()) -> str:
    """Return a page as HTML; arguments as in `markdown`."""
    parts = [f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{html.escape(title)}</title>']
    parts += [f'<style>{_STYLE}</style><h1>{html.escape(title)}</h1>']
    parts += [f'<p class="warning"><strong>{html.escape(warning)}</strong></p>' for warning in warnings]
    parts += [f'<img src="{p}" alt="{p}">' for p in pictures]
    for heading, (header, *rows) in tables.items():
        parts.append(f'<h2>{html.escape(heading)}</h2><table><tr>')
        parts += [f'<th>{html.escape(h)}</th>' for h in header]
        parts += ['<tr>' + ''.join(f'<td>{html.escape(c)}</td>' for c in row) for row in rows]
        parts.append('</table>')
    return '\n'.join(parts) + '\n'
