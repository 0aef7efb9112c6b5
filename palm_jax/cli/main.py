"""palm-jax <program> [arguments]: one console command for every program of the package."""

from __future__ import annotations

import importlib
from collections.abc import Sequence

from palm_jax import __version__
from palm_jax.cli import command_line
from palm_jax.errors import UserError, closest
from palm_jax.wording import shell_command

# program: (module under palm_jax/cli, one line for --help), by the heading of --help.
_GROUPS = {
    'Train': {
        'train': ('train', 'pretrain or fine-tune a model; an existing MODEL_DIR is resumed'),
        'ablate': ('ablate', 'train variants of a run with several seeds, and compare them'),
        'search': ('search', 'search for the best values of gin bindings'),
        'continue': ('continual', 'train tasks one after another, and report what is forgotten'),
        'compare': ('compare', 'compare two runs on the same examples'),
        'fuse': ('fuse', 'make one model out of several that were fine-tuned from one base'),
        'select': ('select', 'choose the texts that are worth a label next (active learning)'),
        'augment': ('augment', 'make further training texts: by back-translation, infilling, generation'),
        'teach': ('teach', 'write what a model predicts, for distillation'),
        'fisher': ('fisher', 'write how much each weight matters for what a model has learned, for EWC'),
        'compile-for': ('compile_for', 'compile a train step for TPUs that are not attached'),
    },
    'Use': {
        'infer': ('infer', 'predict every row of a file'),
        'eval': ('eval', 'evaluate a trained model, with 95% confidence intervals'),
        'serve': ('serve', "serve trained models over HTTP (OpenAI's API, and a chat page)"),
        'export': ('export', 'write a trained model in the format of another project'),
        'import': ('import_weights', 'read weights of another project as a base model'),
        'lm-eval': ('lm_eval', 'run lm-evaluation-harness on a trained model'),
    },
    'Understand': {
        'explain-prediction': ('explain_prediction', 'show which words a prediction depends on'),
        'probe': ('probe', 'test whether predictions survive typing mistakes, case, homoglyphs, ...'),
        'fairness': ('fairness', 'compare groups: labels, errors, templates of texts, stereotypes'),
        'toxicity': ('toxicity', 'score what a model writes by words, patterns, classifiers or services'),
        'rank-examples': ('rank_examples', 'list examples by loss, near-duplicates, labels that are likely wrong'),
        'memorization': ('memorization', 'test what a language model has memorized of its training text'),
        'contamination': ('contamination', 'find held-out text in the training text, and score both parts'),
    },
    'After deployment': {
        'drift': ('drift', 'test whether a model is still asked what it was trained for'),
        'ab-test': ('ab_test', 'compare two models that answered requests by the feedback of users'),
        'audit-log': ('audit_log', 'check an audit log, and show which rules applied to what'),
        'retune': ('retune', 'train a deployed model on corrections, and promote what wins'),
    },
    'Look and prepare': {
        'doctor': ('doctor', 'check this installation and print the commands that fix it'),
        'bindings': ('bindings', 'list what gin files and --gin.NAME=value can set'),
        'inspect': ('inspect', "show a task's examples as the model sees them"),
        'checkpoint': ('checkpoint', 'list, show, diff, convert and average checkpoints'),
        'filter': ('filter', 'write a table without the rows that rules refuse'),
        'cache': ('cache', 'tokenize a registered task ahead of training'),
        'vocabulary': ('vocabulary', 'train a SentencePiece vocabulary'),
    },
}
PROGRAMS = {name: program for programs in _GROUPS.values() for name, program in programs.items()}

# Names of other projects for the same.
_OTHER_NAMES = {
    **dict.fromkeys(('predict', 'generate', 'classify', 'inference', 'complete'), 'infer'),
    **dict.fromkeys(('evaluate', 'test', 'score'), 'eval'),
    **dict.fromkeys(('fit', 'finetune', 'fine-tune', 'pretrain', 'resume', 'run'), 'train'),
    **dict.fromkeys(('chat', 'server', 'api'), 'serve'),
    **dict.fromkeys(('convert', 'save'), 'export'),
    **dict.fromkeys(('load', 'download'), 'import'),
    **dict.fromkeys(('tokenize', 'preprocess', 'prepare'), 'cache'),
    **dict.fromkeys(('config', 'macros', 'options', 'list'), 'bindings'),
    **dict.fromkeys(('tokenizer', 'sentencepiece'), 'vocabulary'),
    **dict.fromkeys(('show', 'data', 'explain'), 'inspect'),
    **dict.fromkeys(('checkpoints', 'ls', 'diff', 'average'), 'checkpoint'),
    **dict.fromkeys(('why', 'attribute', 'explain_prediction', 'interpret', 'saliency'), 'explain-prediction'),
    **dict.fromkeys(('ab_test', 'abtest', 'experiment', 'split'), 'ab-test'),
    **dict.fromkeys(('promote', 'rollback', 're-tune', 'champion'), 'retune'),
    **dict.fromkeys(('robustness', 'checklist', 'attack'), 'probe'),
    **dict.fromkeys(('rank', 'duplicates', 'cleanlab', 'rank_examples'), 'rank-examples'),
    **dict.fromkeys(('bias', 'parity'), 'fairness'),
    **dict.fromkeys(('memorisation', 'canaries', 'extraction'), 'memorization'),
    **dict.fromkeys(('overlap', 'leakage'), 'contamination'),
    **dict.fromkeys(('monitor', 'shift'), 'drift'),
    **dict.fromkeys(('audit', 'audit_log', 'log'), 'audit-log'),
    **dict.fromkeys(('check', 'env', 'info'), 'doctor'),
    **dict.fromkeys(('lm_eval', 'harness'), 'lm-eval'),
    **dict.fromkeys(('ablation', 'study'), 'ablate'),
    **dict.fromkeys(('merge', 'soup', 'ensemble', 'mergekit'), 'fuse'),
    **dict.fromkeys(('sweep', 'tune', 'optuna', 'hyperparameters'), 'search'),
    **dict.fromkeys(('compile', 'compile_for'), 'compile-for'),
    **dict.fromkeys(('continual', 'sequence', 'lifelong'), 'continue'),
    **dict.fromkeys(('importance', 'ewc'), 'fisher'),
    **dict.fromkeys(('back-translate', 'backtranslate', 'paraphrase', 'infill', 'synthesize'), 'augment'),
    **dict.fromkeys(('distill', 'distil', 'teacher'), 'teach'),
}


def main(arguments: Sequence[str]) -> int:
    """Start the program that the first argument names."""
    if not arguments or arguments[0] in ('-h', '--help') or list(arguments) == ['help']:
        print(usage())
        return 0
    name, *rest = arguments
    if name in ('--version', '-V', 'version'):
        print(f'palm_jax {__version__}')
        return 0
    if name == 'help':
        (name, *_), rest = rest, ['--help']
    if name not in PROGRAMS:
        if name.startswith('-'):
            raise UserError(f'The program comes first, e.g. palm-jax train {shell_command(arguments)}\n\n{usage()}')
        suggestion = f' Did you mean {_OTHER_NAMES[name]}?' if name in _OTHER_NAMES else closest(name, PROGRAMS)
        raise UserError(f'palm-jax has no program {name!r}.{suggestion}\n\n{usage()}')
    return importlib.import_module(f'palm_jax.cli.{PROGRAMS[name][0]}').main(rest)


def usage() -> str:
    """The text of `palm-jax --help`."""
    width = max(map(len, PROGRAMS))
    lines = ['usage: palm-jax <program> [arguments]; palm-jax <program> --help']
    for heading, programs in _GROUPS.items():
        lines += ['', f'{heading}:', *(f'  {name:{width}}  {summary}' for name, (_, summary) in programs.items())]
    return '\n'.join(lines)


def console() -> None:
    """The entry point of the console command."""
    command_line.run(main)
