"""Triples of a knowledge graph as text: a table that everything which reads tables can read."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator, Mapping

from palm_jax.cache_directory import cache_dir
from palm_jax.data.readers import triples
from palm_jax.data.readers.triples import Triple, Triples
from palm_jax.data.supervised.templates import Template
from palm_jax.errors import UserError, closest
from palm_jax.run_directory import write_whole
from palm_jax.wording import counted

_LOGGER = logging.getLogger(__name__)
_DEFAULT = '{head} {relation} {tail}.'


def table(
    files: str | None,
    templates: Mapping[str, str] | None = None,
    default: str = _DEFAULT,
    encoding: str | None = None,
    bad_rows: str | None = None,
) -> str:
    """Return the path of a table with a row for every triple, for TRAIN_FILES; it is in the cache.

    Its columns are `text`, the filled template; `input` and `target`, the same text divided before its last field, for
    text to text; `head`, `relation` and `tail`, the names in it; and `source`, where the triple is from.

    Args:
      files: path or glob of triples, see `triples.read`.
      templates: templates by relation, which is named as the file has it, by the last part of its IRI or in words. Each
        has fields {head}, {relation} and {tail}: `{head} is the capital of {tail}.`
      default: template of all other relations.
      encoding: encoding of files that are not UTF-8, as Python names it; None: all are UTF-8.
      bad_rows: file that collects unusable lines; None makes the first of them an error.

    Raises:
      UserError: a file or a template is unusable, or no triple has a relation that `templates` names.
    """
    found = triples.read(files, 'TRIPLES', encoding, bad_rows)
    rows = [json.dumps(row, ensure_ascii=False) + '\n' for row in verbalize(found, templates or {}, default)]
    content = ''.join(rows)
    path = cache_dir() / 'triples' / f'{hashlib.sha256(content.encode()).hexdigest()[:16]}.jsonl'
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, content)
    num_relations = len({triple.relation for triple in found.facts})
    _LOGGER.info(f'{counted(len(rows), "triple")} of {counted(num_relations, "relation")} as text: {path}')
    return str(path)


def verbalize(found: Triples, templates: Mapping[str, str], default: str = _DEFAULT) -> Iterator[dict[str, str]]:
    """Yield a row of `table` for every triple."""
    by_relation = _templates(found, templates)
    of_others = _template(default, 'TRIPLE_TEMPLATE')
    for triple in found.facts:
        template = by_relation.get(triple.relation, of_others)
        names = _names(found, triple)
        last = template.fields[-1]
        given = Template(template.text[: template.text.rindex(f'{{{last}}}')], template.binding)
        text = template.fill(names, triple.location)
        before = given.fill(names, triple.location, may_be_empty=True).rstrip()
        yield {'text': text, 'input': before, 'target': text[len(before) :].strip(), **names, 'source': triple.location}


def _names(found: Triples, triple: Triple) -> dict[str, str]:
    return {
        'head': found.entity(triple.head),
        'relation': found.relation(triple.relation),
        'tail': found.entity(triple.tail),
    }


def _templates(found: Triples, templates: Mapping[str, str]) -> dict[str, Template]:
    """Return the templates by the identifier of their relation."""
    known: dict[str, list[str]] = {}
    for relation in sorted({triple.relation for triple in found.facts}):
        for name in {relation, triples.local_name(relation), found.relation(relation)}:
            known.setdefault(name, []).append(relation)
    chosen: dict[str, Template] = {}
    for name, text in templates.items():
        if name not in known:
            names = sorted({found.relation(relation) for relations in known.values() for relation in relations})
            raise UserError(
                f'TRIPLE_TEMPLATES: no triple has the relation {name!r}.{closest(name, known)} Relations: '
                f'{", ".join(names[:20])}{" ..." if len(names) > 20 else ""}.'
            )
        template = _template(text, 'TRIPLE_TEMPLATES')
        chosen |= dict.fromkeys(known[name], template)
    return chosen


def _template(text: str, binding: str) -> Template:
    template = Template(text, binding)
    unknown = [name for name in template.fields if name not in ('head', 'relation', 'tail')]
    if unknown or not {'head', 'tail'} & set(template.fields):
        what = f'names {{{unknown[0]}}}' if unknown else 'names neither {head} nor {tail}'
        raise UserError(f'{binding}: the template {text!r} {what}. Its fields are {{head}}, {{relation}} and {{tail}}.')
    return template
