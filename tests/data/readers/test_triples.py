"""Triples in all their formats: the same facts, with rdflib as the judge; errors name the file and the line."""

import gzip
import sys

import pytest

from palm_jax.data.readers import triples
from palm_jax.errors import UserError

TURTLE = """@prefix ex: <http://example.org/> .
@prefix rdfs: <http://www.w3.org/2000/01/rdf-schema#> .
ex:Paris ex:capitalOf ex:France ; rdfs:label "Paris"@en, "Parigi"@it .
ex:New_York a ex:City ; ex:mayor "Ann \\"A\\" Bell" ; ex:area 783.8 ; ex:seen [ ex:by ex:France ] .
"""


def read(path):
    return triples.read(str(path), 'TRIPLES')


def of(found):
    return [(t.head, t.relation, t.tail) for t in found.facts]


def write(path, text):
    path.write_text(text, encoding='utf-8')
    return path


def test_columns_with_and_without_a_header_are_read_alike(tmp_path):
    lines = 'Ann\tworks_at\tthe bank\nBob\tworks_at\tIKEA, Ltd.\n\nAnn\tworks_at\tthe bank\n'
    plain = read(write(tmp_path / 'a.tsv', lines))
    assert of(plain) == [('Ann', 'works_at', 'the bank'), ('Bob', 'works_at', 'IKEA, Ltd.')]  # each once
    assert plain.facts[1].location.endswith('a.tsv, line 2')
    for header in (
        'head\trelation\ttail',
        'Subject\tPredicate\tObject',
        'head_id:token\trelation_id:token\ttail_id:token',
    ):
        assert of(read(write(tmp_path / 'b.kg', f'{header}\n{lines}'))) == of(plain)
        triples.read.cache_clear()
    assert of(read(write(tmp_path / 'c.csv', 'Ann,works_at,the bank\nBob,works_at,"IKEA, Ltd."\n'))) == of(plain)
    (tmp_path / 'd.tsv.gz').write_bytes(gzip.compress(lines.encode()))
    assert of(read(tmp_path / 'd.tsv.gz')) == of(plain)


def test_n_triples_and_turtle_hold_what_rdflib_reads(tmp_path):
    rdflib = pytest.importorskip('rdflib')
    graph = rdflib.Graph().parse(data=TURTLE, format='turtle')
    graph.add((rdflib.URIRef('http://example.org/é'), rdflib.URIRef('urn:says'), rdflib.Literal('a\tb\n\\ü 𝄞')))
    (tmp_path / 'a.ttl').write_text(graph.serialize(format='turtle'))
    escape = lambda c: c if ord(c) < 128 else f'\\u{ord(c):04X}' if ord(c) < 0x10000 else f'\\U{ord(c):08X}'  # noqa: E731
    lines = ''.join(map(escape, graph.serialize(format='nt')))
    assert '\\u00E9' in lines and '\\U' in lines
    (tmp_path / 'a.nt').write_text(f'# a comment\n{lines}\n')
    turtle, n_triples = read(tmp_path / 'a.ttl'), read(tmp_path / 'a.nt')
    label = rdflib.RDFS.label
    terms = [t for t in graph if t[1] != label and not any(isinstance(x, rdflib.BNode) for x in t)]
    expected = {tuple(f'"{x}"' if isinstance(x, rdflib.Literal) else str(x) for x in t) for t in terms}
    assert set(of(turtle)) == set(of(n_triples)) == expected and len(expected) == 5
    assert turtle.labels == n_triples.labels == {'http://example.org/Paris': 'Paris'}
    assert turtle.entity('http://example.org/New_York') == 'New York'
    assert turtle.entity('"783.8"') == '783.8' and turtle.relation('http://example.org/capitalOf') == 'capital of'


@pytest.mark.parametrize(
    ('name', 'text', 'message'),
    [
        ('a.tsv', 'Ann\tknows\tBob\nAnn\tknows\n', r'a\.tsv, line 2: .* with tabs .* this one has 2 columns'),
        ('a.tsv', 'Ann\tknows\tBob\nAnn\t\tBob\n', r'a\.tsv, line 2: .*an empty one'),
        ('a.csv', 'Ann,knows,Bob\nAnn,knows,"Bob\n', r'a\.csv, line 2'),
        ('a.nt', '<a:b> <c:d> <e:f> .\n<a:b> <c:d> "e"\n', r'a\.nt, line 2: not a statement of N-Triples'),
        ('a.nt', '<a:b> <c:d> "\\q" .\n', r"a\.nt, line 1: N-Triples has no escape '\\\\q'"),
        ('a.ttl', '@prefix ex: <http://e.org/> .\nex:a ex:b ex:c .\nex:a ex:b @@ .\n', r'a\.ttl, line 3: not Turtle'),
        ('a.xml', '<rdf/>', r"'\.xml' is not a format of triples: \.tsv"),
        ('a.tsv', '\n', 'the file contains no triples'),
    ],
)  # fmt: skip
def test_what_is_no_triple_is_named_with_its_line(tmp_path, name, text, message):
    if name.endswith('.ttl'):
        pytest.importorskip('rdflib')
    with pytest.raises(UserError, match=message):
        read(write(tmp_path / name, text))


def test_bad_lines_can_be_listed(tmp_path):
    path = write(tmp_path / 'a.tsv', 'Ann\tknows\tBob\nAnn\tknows\n')
    found = triples.read(str(path), 'TRIPLES', None, str(tmp_path / 'bad.txt'))
    assert of(found) == [('Ann', 'knows', 'Bob')] and 'line 2' in (tmp_path / 'bad.txt').read_text()


def test_without_rdflib_turtle_says_how_to_install_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, 'rdflib', None)
    with pytest.raises(UserError, match=r'Turtle needs rdflib: pip install "palm_jax\[triples\]"'):
        read(write(tmp_path / 'a.ttl', TURTLE))
    assert of(read(write(tmp_path / 'a.nt', '<a:b> <c:d> _:x .\n<a:b> <c:d> <e:f> .\n'))) == [('a:b', 'c:d', 'e:f')]


def test_no_file_is_named():
    with pytest.raises(UserError, match=r'TRIPLES is not set: .*--gin.TRIPLES=facts.tsv'):
        triples.read(None, 'TRIPLES')
