"""Tables as Markdown and HTML."""

from palm_jax.reports import pages

TABLES = {'Errors': [('text', 'label'), ('a | b\nc', '<i>')]}
WILD = '<script>alert(1)</script> ![x](http://y) *a* _b_ snake_case `c` $d$ ~~e~~ \\| &amp; [f]: g\r\n\u2028# h'


def test_markdown_keeps_a_row_on_its_line():
    page = pages.markdown('a run', TABLES, ['loss.png'])
    assert page.startswith('# a run\n\n![loss.png](loss.png)\n\n## Errors\n\n| text | label |\n|---|---|\n')
    assert '| a \\| b c | &lt;i&gt; |' in page


def test_markdown_shows_what_users_wrote():
    page = pages.markdown('run_$1_<b>', {'Errors': [('text',), (WILD,)]}, [], ['no *better*'])
    assert page.startswith('# run\\_\\$1\\_&lt;b&gt;\n\n> **no \\*better\\***\n')
    (row,) = [line for line in page.splitlines() if 'script' in line]
    assert row == (
        '| &lt;script&gt;alert(1)&lt;/script&gt; !\\[x\\](http://y) \\*a\\* \\_b\\_ snake_case \\`c\\` \\$d\\$ '
        '\\~\\~e\\~\\~ \\\\\\| &amp;amp; \\[f\\]: g   # h |'
    )


def test_html_escapes_what_users_wrote():
    page = pages.html_page('a & b', TABLES, ['loss.png'], ['a < b'])
    assert '<strong>a &lt; b</strong>' in page
    assert '<title>a &amp; b</title>' in page and '<td>&lt;i&gt;</td>' in page and '<img src="loss.png"' in page
