"""Tables as Markdown and HTML."""

from palm_jax.reports import pages

TABLES = {'Errors': [('text', 'label'), ('a | b\nc', '<i>')]}


def test_markdown_keeps_a_row_on_its_line():
    page = pages.markdown('a run', TABLES, ['loss.png'])
    assert page.startswith('# a run\n\n![loss.png](loss.png)\n\n## Errors\n\n| text | label |\n|---|---|\n')
    assert '| a \\| b c | <i> |' in page


def test_html_escapes_what_users_wrote():
    page = pages.html_page('a & b', TABLES, ['loss.png'])
    assert '<title>a &amp; b</title>' in page and '<td>&lt;i&gt;</td>' in page and '<img src="loss.png"' in page
