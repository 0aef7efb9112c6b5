"""The documentation site: it builds without a warning, asks nothing of other servers, and is complete and right."""

import math
import re
import subprocess
import sys

import jax
import pytest

from palm_jax.configuration.load import load
from palm_jax.training import setup, state
from tests.support.paths import ROOT
from tests.support.source import imports, modules, room_of

DOCS = ROOT / 'docs'
METHODS = {path.stem for path in (ROOT / 'gin' / 'peft').glob('*.gin')} | {'dora'}
TABLE = re.findall(
    r'^\| \[[^\]]+\]\((\w+)\.md\)[^|]*\| `(gin/peft/\w+\.gin)`(?: and `--gin\.([\w.]+=\w+)`)? \| ([\d,]+) \|',
    (DOCS / 'finetuning' / 'index.md').read_text(),
    re.MULTILINE,
)


@pytest.fixture(scope='module')
def site(tmp_path_factory):
    """The built site; a warning is an error."""
    pytest.importorskip('mkdocs')
    folder = tmp_path_factory.mktemp('site')
    command = [sys.executable, '-m', 'mkdocs', 'build', '--strict', '--site-dir', str(folder)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr[-5000:]
    return folder


def test_every_page_is_built_and_asks_nothing_of_other_servers(site):
    for source in DOCS.rglob('*.md'):
        name = source.relative_to(DOCS).with_suffix('').as_posix()
        page = site / (name.removesuffix('index') if name.endswith('index') else name) / 'index.html'
        assert page.is_file(), name
    for page in site.rglob('*.html'):
        loaded = re.findall(r'<(?:script|img|iframe)[^>]* src="?(https?:[^" >]+)', page.read_text())
        loaded += re.findall(r'<link(?![^>]*rel="?canonical)[^>]* href="?(https?:[^" >]+)', page.read_text())
        assert not loaded, (page, loaded)


def test_pages_of_the_root_and_linked_files_are_part_of_the_site(site):
    for name in ('changelog', 'contributing', 'benchmarks', 'results', 'effects', 'reference/bindings'):
        assert (site / name / 'index.html').is_file(), name
    page = (site / 'extending' / 'index.html').read_text()
    assert 'repository/examples/my_task/my_task.py' in page
    assert (site / 'repository/examples/my_task/my_task.py').read_text().startswith('"""A task of your own')


def test_the_reference_has_the_public_classes_and_their_attributes(site):
    reference = site / 'reference' / 'api'
    for page, name in (
        ('', 'palm_jax.api.loading.load'),
        ('models', 'palm_jax.models.palm.PaLM'),
        ('peft', 'palm_jax.peft.lora.LoRA'),
        ('training', 'palm_jax.training.loop.train'),
        ('inference', 'palm_jax.inference.generate.Sampler'),
        ('data', 'palm_jax.data.pretraining.objectives.SpanCorruption'),
    ):
        assert f'id="{name}"' in (reference / page / 'index.html').read_text(), name


def test_the_floors_of_the_house_are_as_drawn():
    rows = re.findall(r'^\| (\d) \| (.*) \|$', (DOCS / 'architecture.md').read_text(), re.MULTILINE)
    floor = {room: int(number) for number, rooms in rows for room in re.findall(r'`([\w/]+)`', rooms)}
    outside = {'', '__init__', '__main__', 'train', 'data', '__version__'}
    for path in modules():
        room = room_of('.'.join(path.relative_to(ROOT).with_suffix('').parts))
        for name in imports(path):
            imported = room_of(name) if name.startswith('palm_jax.') else room
            if room != imported and not {room, imported} & outside:
                assert floor.get(imported, 99) < floor.get(room, -1), (
                    f'{path} imports {name}: draw it in architecture.md'
                )


def test_every_method_has_a_page_in_the_same_form():
    pages = {path.stem: path.read_text() for path in (DOCS / 'finetuning').glob('*.md')}
    assert pages.keys() - {'index', 'tasks'} == METHODS
    for name in METHODS:
        for part in ('**Where it attaches.**', '**When to take it.**', '**Cost.**', '## Train', '## Merge and export'):
            assert part in pages[name], (name, part)
    assert {name for name, *_ in TABLE} == METHODS


@pytest.mark.parametrize('name, part, binding, count', TABLE, ids=[row[0] for row in TABLE])
def test_the_parameters_of_a_method_are_those_of_its_page(name, part, binding, count, monkeypatch):
    if name == 'head_only':  # which trains what the table leaves out
        assert count == '0'
        return
    monkeypatch.chdir(ROOT)
    flags = [('VOCABULARY', 'bytes'), ('VOCABULARY_SIZE', '256000')]
    flags += [tuple(binding.split('='))] if binding else []
    arguments = load('loop.train', ['gin/pretrain_tiny.gin', 'gin/models/8b.gin', part], flags).build('loop.train')
    model, selection = setup.adapt_from_arguments(arguments)
    shapes = state.unbox(jax.eval_shape(lambda rng: state.init_params(model, rng), jax.random.key(0)))
    trained, _ = jax.eval_shape(selection.split, shapes)
    total = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(trained))
    assert f'{total:,}' == count
    assert f'{count} at 8B' in (DOCS / 'finetuning' / f'{name}.md').read_text()
