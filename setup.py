"""Packaging. The gin files live beside the package in a checkout and inside it in a wheel."""

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent
VERSION = re.search(r"__version__ = '(.+)'", (ROOT / 'palm_jax' / '__init__.py').read_text())[1]
GIN_FOLDERS = sorted({path.parent.relative_to(ROOT).as_posix() for path in (ROOT / 'gin').rglob('*.gin')})

CORE = [
    'jax>=0.10.2',
    'flax>=0.12.8',
    'optax>=0.2.8',
    'orbax-checkpoint>=0.12.8,<0.13',
    'qwix>=0.1.8,<0.2',
    'gin-config>=0.5,<0.6',
    'numpy>=2.2',
    'scipy>=1.15',
    'tqdm>=4.67',
    'tensorboardX>=2.6.5',
    'matplotlib>=3.10',
    'scikit-learn>=1.6',
    'sacrebleu>=2.5',
    'rouge-score>=0.1.2',
]
DATA = [
    'grain>=0.2.18',
    'seqio==0.0.20',
    'fsspec>=2025.3',
    'zstandard>=0.23',
    'chardet>=6',  # what a file looks like that is not UTF-8
    'pyarrow>=18',
    'tensorflow>=2.21,<2.22',
    'tensorflow-text>=2.21,<2.22',
    'tensorflow-datasets==4.9.10',
    'babel>=2.12',  # names in many languages, for tasks on machines without data
    'sentencepiece>=0.2.1,<0.2.3',  # 0.2.3 needs a newer protobuf than it says
    'importlib_resources',  # tensorflow-datasets needs it and does not say so
    'tensorboard>=2.21',  # seqio's metric writers need it; TensorFlow no longer brings it
]
HF = [
    'safetensors>=0.5',
    'tokenizers>=0.21',
    'transformers>=5.0,<6',
    'torch>=2.6',
    'peft>=0.17',
    'gguf>=0.17',
    'jinja2>=3.1.6',
]
FAIRNESS = ['fairlearn>=0.13']
CONTAMINATION = ['datasketch>=1.6.5']
TRIPLES = ['rdflib>=7.1']
EVAL = ['lm-eval>=0.4.13']
SERVE = ['fastapi>=0.115', 'anyio>=4.4', 'uvicorn>=0.32', 'prometheus-client>=0.21']
POSTGRES = ['psycopg[binary]>=3.2']
DOCS = ['mkdocs>=1.6,<2', 'mkdocs-material>=9.6,<10', 'mkdocstrings>=1.0,<2', 'mkdocstrings-python>=2.0,<3']
SEARCH = ['optuna>=5.0,<6']
PEERS = ['torch==2.13.0', 'transformers>=5.0,<6', 'peft>=0.17', 'PaLM-rlhf-pytorch==0.8.0']

setup(
    name='palm_jax',
    version=VERSION,
    description='PaLM-style language models in JAX: pretrain once, adapt cheaply the part you name',
    long_description=(ROOT / 'README.md').read_text(),
    long_description_content_type='text/markdown',
    keywords=['jax', 'flax', 'language model', 'PaLM', 'fine-tuning', 'LoRA', 'TPU', 'seqio', 'gin'],
    license='Apache-2.0',
    python_requires='>=3.11',
    packages=[
        *find_packages(include=['palm_jax', 'palm_jax.*']),
        *(f'palm_jax.{f.replace("/", ".")}' for f in GIN_FOLDERS),
    ],
    package_dir={f'palm_jax.{folder.replace("/", ".")}': folder for folder in GIN_FOLDERS},
    package_data={f'palm_jax.{folder.replace("/", ".")}': ['*.gin'] for folder in GIN_FOLDERS}
    | {'palm_jax': ['py.typed'], 'palm_jax.serving': ['*.html']},
    install_requires=CORE + DATA,
    extras_require={
        'gpu': ['jax[cuda13]'],
        'tpu': ['jax[tpu]'],
        'wandb': ['wandb>=0.20'],
        'hf': HF,  # weights to and from Transformers, verified by it
        'serve': SERVE,  # palm-jax serve
        'postgres': POSTGRES,  # palm-jax serve --keep=postgresql://...
        'eval': EVAL,  # lm-evaluation-harness
        'fairness': FAIRNESS,  # palm-jax fairness
        'contamination': CONTAMINATION,  # near-duplicates of palm-jax contamination
        'triples': TRIPLES,  # Turtle files of gin/methods/triples.gin
        'search': SEARCH,  # palm-jax search
        'peers': PEERS,
        'docs': DOCS,  # mkdocs serve
        'dev': ['pre-commit>=4', 'mypy>=2.0,<3', 'codespell>=2.4', 'ruff>=0.12'],
        'test': [
            *('pytest>=8', 'pytest-xdist>=3.6', 'wandb>=0.20', 'nbclient>=0.10', 'ipykernel>=6'),
            *('ruff>=0.12', 'mypy>=2.0,<3', 'codespell>=2.4'),
            *('openai>=1.60', 'schemathesis>=4', 'selenium>=4.20'),
            *(*SERVE, *POSTGRES, *SEARCH, *EVAL, *FAIRNESS, *CONTAMINATION, *TRIPLES, *HF, *PEERS, *DOCS),
        ],
    },
    entry_points={
        'console_scripts': ['palm-jax = palm_jax.cli.main:console'],
        'lm_eval.models': ['palm_jax = palm_jax.exchange.lm_eval:PalmJax'],
    },
    classifiers=[
        'Programming Language :: Python :: 3.11',
        'Programming Language :: Python :: 3.12',
        'Programming Language :: Python :: 3.13',
    ],
)
