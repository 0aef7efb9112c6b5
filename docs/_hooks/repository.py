"""mkdocs hook: pages and files of the repository outside docs/ become part of the site.

README-like files of the root (the changelog, for example) become pages. Links from a page to another file of the
repository (a gin file, an example, a notebook) become links to a copy, so that the same Markdown works here and in a
checkout.
"""

from __future__ import annotations

import os
import re
from pathlib import Path, PurePosixPath

from mkdocs.structure.files import File

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / 'docs'
PAGES = {
    'changelog.md': 'CHANGELOG.md',
    'contributing.md': 'CONTRIBUTING.md',
    'benchmarks.md': 'BENCHMARKS.md',
    'results.md': 'RESULTS.md',
    'effects.md': 'EFFECTS.md',
}
_GENERATED = 'reference/bindings.md'
_MISSING = '# Bindings\n\nThis page is generated from the code and has not been generated in this checkout.\n'
_LINK = re.compile(r'(\]\()(?!https?:|mailto:|#)([^)#\s]+)')


def on_files(files, config):
    """Add the pages of the root, and a placeholder for the generated reference where it does not exist."""
    for name, source in PAGES.items():
        files.append(File.generated(config, name, content=(ROOT / source).read_text()))
    if files.get_file_from_path(_GENERATED) is None:
        files.append(File.generated(config, _GENERATED, content=_MISSING))
    return files


def on_page_markdown(markdown, page, config, files):
    """Redirect links that leave docs/."""
    name = page.file.src_uri
    folder = ROOT if name in PAGES else (DOCS / name).parent

    def redirect(match):
        target = (folder / match[2]).resolve()
        if not target.is_relative_to(ROOT) or not target.is_file():
            return match[0]  # mkdocs reports what does not exist
        of_page = {source: page for page, source in PAGES.items()}
        inside = of_page.get(target.relative_to(ROOT).as_posix())
        if inside is None and target.is_relative_to(DOCS):
            inside = target.relative_to(DOCS).as_posix()
        if inside is None:
            inside = f'repository/{target.relative_to(ROOT).as_posix()}'
            if files.get_file_from_path(inside) is None:
                files.append(File.generated(config, inside, abs_src_path=str(target)))
        return match[1] + os.path.relpath(inside, PurePosixPath(name).parent)

    return _LINK.sub(redirect, markdown)
