"""palm-jax doctor: checks this installation and prints the command that fixes each problem."""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import platform
import shutil
import subprocess
from collections.abc import Iterator, Sequence

from packaging.requirements import Requirement

from palm_jax.cache_directory import cache_dir

_NIGHTLIES = {'seqio-nightly': 'seqio==0.0.20', 'tfds-nightly': 'tensorflow-datasets==4.9.10'}


def main(arguments: Sequence[str]) -> int:
    """Print the findings; return 1 if something that every run needs is wrong."""
    argparse.ArgumentParser(prog='palm-jax doctor', description=__doc__.partition(': ')[2]).parse_args(arguments)
    problems = 0
    print(f'python {platform.python_version()} on {platform.platform()}')
    for ok, what, fix in (*_packages(), *_conflicts(), *_extras(), *_devices()):
        print(f'  {"✓" if ok else ("·" if ok is None else "✗")} {what}' + (f'\n      fix: {fix}' if fix else ''))
        problems += ok is False
    print(f'cache  {cache_dir()}  (vocabularies and tokens; PALM_JAX_CACHE moves it)')
    print('all is well' if not problems else f'{problems} problem(s)')
    return 1 if problems else 0


def _packages() -> Iterator[tuple[bool | None, str, str]]:
    """Every requirement of palm_jax itself: installed, in bounds, importable."""
    try:
        requirements = importlib.metadata.requires('palm_jax') or []
    except importlib.metadata.PackageNotFoundError:
        yield False, 'palm_jax is not installed', 'pip install .'
        return
    for requirement in map(Requirement, requirements):
        if requirement.marker is not None:
            continue
        try:
            version = importlib.metadata.version(requirement.name)
        except importlib.metadata.PackageNotFoundError:
            yield False, f'{requirement.name} is missing', f'pip install "{requirement}"'
            continue
        fits = requirement.specifier.contains(version, prereleases=True)
        bounds = '' if fits else f', but palm_jax needs {requirement.specifier}'
        yield fits, f'{requirement.name} {version}{bounds}', '' if fits else f'pip install "{requirement}"'


def _conflicts() -> Iterator[tuple[bool | None, str, str]]:
    """Nightly builds, which t5 requires and which overwrite the releases' files."""
    for nightly, release in _NIGHTLIES.items():
        try:
            version = importlib.metadata.version(nightly)
        except importlib.metadata.PackageNotFoundError:
            continue
        yield (
            False,
            f'{nightly} {version} shares its files with {release}: the package that was unpacked last wins',
            f'pip uninstall -y {nightly} && pip install --force-reinstall --no-deps {release}',
        )


def _extras() -> Iterator[tuple[bool | None, str, str]]:
    for name, module, use, command in (
        ('wandb', 'wandb', 'logging to Weights & Biases', 'pip install "palm_jax[wandb]"'),
        ('t5', 't5', 'the T5 tasks and preprocessors', 'pip install --no-deps t5==0.9.4'),
        ('fastapi', 'fastapi', 'palm-jax serve', 'pip install "palm_jax[serve]"'),
        ('transformers', 'transformers', 'palm-jax export and import', 'pip install "palm_jax[hf]"'),
        ('lm-eval', 'lm_eval', 'lm-evaluation-harness', 'pip install "palm_jax[eval]"'),
        ('torch', 'torch', 'the comparisons with PyTorch peers', 'pip install "palm_jax[peers]"'),
    ):
        found = importlib.util.find_spec(module) is not None
        yield (
            (True if found else None),
            f'{name}: {"here" if found else f"not installed, only needed for {use}"}',
            ('' if found else command),
        )


def _devices() -> Iterator[tuple[bool | None, str, str]]:
    """The devices that jax finds, and a GPU that it does not find."""
    import jax

    try:
        devices = jax.devices()
    except RuntimeError as error:
        yield False, f'jax finds no device: {error}', 'JAX_PLATFORMS=cpu, or reinstall jax for this machine'
        return
    yield True, f'{len(devices)} × {devices[0].device_kind} ({devices[0].platform})', ''
    if devices[0].platform == 'cpu' and shutil.which('nvidia-smi'):
        listing = subprocess.run(['nvidia-smi', '-L'], capture_output=True, text=True, check=False)
        if listing.returncode == 0:
            yield False, f'jax does not see {listing.stdout.strip()}', 'pip install "jax[cuda13]"'
