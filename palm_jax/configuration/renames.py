"""Names that gin files and flags could bind in earlier versions, and what they are called now.

An old name that a user types is refused with its new one. A run's own `config.gin` is translated
when it is read, so that earlier runs still open and can be continued.
"""

from __future__ import annotations

import io
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from palm_jax.configuration.earlier_tasks import add_task
from palm_jax.configuration.statements import Import, Macro, Reference, Statement, held
from palm_jax.errors import UserError
from palm_jax.run_directory import RunDirectory

MACROS: Mapping[str, str] = {
    'ADAPTER_WIDTH': 'ADAPTER_BOTTLENECK_DIM',
    'BEAMS': 'NUM_BEAMS',
    'BEST_MEASURE': 'BEST_METRIC',
    'CUT': 'PREFIX_LM_RATE',
    'INPUT': 'INPUT_TEMPLATE',
    'L2_TO_START': 'L2_SP',
    'LAYER_DECAY': 'LAYERWISE_LR_DECAY',
    'MEASURES': 'METRICS',
    'MOST_SPIKES': 'MAX_ROLLBACKS',
    'PREFIX_WIDTH': 'PREFIX_BOTTLENECK_DIM',
    'SAMPLES': 'NUM_DECODES',
    'SAMPLE_STOP': 'STOP_SEQUENCES',
    'SAMPLE_TOKENS': 'MAX_NEW_TOKENS',
    'SOURCE': 'CONVERSATIONS',
    'SPIKE_BACK': 'SPIKE_REWIND_STEPS',
    'SPIKE_BEYOND': 'SPIKE_SKIP_STEPS',
    'TARGET': 'TARGET_TEMPLATE',
}

# What other projects, and the parameters of `api.finetune`, call a macro; in lower case.
ELSEWHERE: Mapping[str, str] = dict.fromkeys(
    ('base', 'base_model', 'base_path', 'checkpoint', 'init_checkpoint', 'initial_checkpoint', 'model_name_or_path',
     'pretrained', 'pretrained_model'), 'INITIAL_CHECKPOINT_PATH',
) | {
    'data': 'TRAIN_FILES', 'table': 'TRAIN_FILES', 'train_file': 'TRAIN_FILES',
    'eval_files': 'VALIDATION_FILES', 'validation_file': 'VALIDATION_FILES',
    'output': 'MODEL_DIR', 'output_dir': 'MODEL_DIR',
    'lr': 'LEARNING_RATE', 'max_steps': 'TRAIN_STEPS', 'num_steps': 'TRAIN_STEPS', 'steps': 'TRAIN_STEPS',
    'max_length': 'TASK_FEATURE_LENGTHS', 'max_seq_length': 'TASK_FEATURE_LENGTHS',
    'max_tokens': 'MAX_NEW_TOKENS', 'stop': 'STOP_SEQUENCES', 'label_names': 'LABELS',
}  # fmt: skip

MODULES: Mapping[str, str] = {
    'palm_jax.data.batches': 'palm_jax.data.pretraining.dataset',
    'palm_jax.data.conversations': 'palm_jax.data.supervised.conversations',
    'palm_jax.data.corpus': 'palm_jax.data.pretraining.corpus',
    'palm_jax.data.labelled_text': 'palm_jax.data.supervised.labelled_text',
    'palm_jax.data.objectives': 'palm_jax.data.pretraining.objectives',
    'palm_jax.data.offline': 'palm_jax.data.registry.offline',
    'palm_jax.data.prompts': 'palm_jax.data.vocabulary.prompts',
    'palm_jax.data.public_tasks': 'palm_jax.data.registry.public_tasks',
    'palm_jax.data.tagged_text': 'palm_jax.data.supervised.tagged_text',
    'palm_jax.data.task_tables': 'palm_jax.data.registry.task_tables',
    'palm_jax.data.tasks': 'palm_jax.data.registry.tasks',
    'palm_jax.data.text_to_text': 'palm_jax.data.supervised.text_to_text',
    'palm_jax.data.vocabularies': 'palm_jax.data.vocabulary.vocabularies',
    'palm_jax.reports.written': 'palm_jax.reports.generation',
}

CONFIGURABLES: Mapping[str, str] = {
    'best.best_by': 'best.best_metric',
    'labelled_text.Example': 'labelled_example.Example',
    'finetuning.near_the_base': 'finetuning.layerwise_decay_and_l2_sp',
    'partitioning.Layout': 'partitioning.MeshLayout',
    'prompt.Prompt': 'prompt.SoftPrompt',
    'written.WritingReporter': 'generation.GenerationReporter',
}

# Parameters under the present name of what they belong to.
PARAMETERS: Mapping[str, str] = {
    'adalora.AdaLoRA.deviation': 'init_std',
    'adapter.Adapter.width': 'bottleneck_dim',
    'beam.BeamSearch.beams': 'num_beams',
    'best.best_metric.measure': 'metric',
    'finetuning.layerwise_decay_and_l2_sp.l2_to_start': 'l2_sp',
    'generate.Sampler.samples': 'num_decodes',
    'generation.GenerationReporter.measures': 'metrics',
    'lora.LoRA.decomposed': 'use_dora',
    'lora.LoRA.rank_stabilized': 'use_rslora',
    'prefix.Prefix.deviation': 'init_std',
    'prefix.Prefix.width': 'bottleneck_dim',
    'spikes.SpikeRule.back': 'rewind_steps',
    'spikes.SpikeRule.beyond': 'skip_steps_after',
    'spikes.SpikeRule.most': 'max_rollbacks',
}

# Where a kind of label was a string, and the gin file that now binds it.
LABEL_KIND_NAMES = ('LABEL_KIND', 'labelled_text.LabelledTable.kind', 'labels.HeadReporter.kind')
LABEL_KIND_FILES = {
    'class': 'gin/heads/classification.gin',
    'labels': 'gin/heads/multilabel.gin',
    'number': 'gin/heads/regression.gin',
}

_ALIASES = {old.rpartition('.')[2]: new.rpartition('.')[2] for old, new in MODULES.items()}
_TEXT = r"""'(?:\\.|[^'\\\n])*'|"(?:\\.|[^"\\\n])*\""""
_NAME = re.compile(rf'(?P<text>{_TEXT})|(?P<name>[A-Za-z_][\w./]*)')
_IMPORT = re.compile(r'(?:from (?P<parent>\S+) )?import (?P<module>\S+)(?P<alias> as \S+)?')


def configurable(name: str) -> str:
    """Return the present name of a configurable (`batches.LanguageModelData`, with or without scopes)."""
    scopes, slash, selector = name.rpartition('/')
    module, _, function = selector.rpartition('.')
    if module in MODULES:
        selector = f'{MODULES[module]}.{function}'
    elif selector in CONFIGURABLES:
        selector = CONFIGURABLES[selector]
    elif module in _ALIASES:
        selector = f'{_ALIASES[module]}.{function}'
    return scopes + slash + selector


def parameter(name: str) -> str:
    """Return the present name of a parameter's binding (`lora.LoRA.decomposed`, with or without scopes)."""
    owner, _, field = name.rpartition('.')
    owner = configurable(owner)
    key = '.'.join([*owner.rpartition('/')[2].split('.')[-2:], field])
    return f'{owner}.{PARAMETERS.get(key, field)}'


def refuse_old_names(statements: Sequence[Statement], imports: Sequence[Import]) -> None:
    """Refuse bindings, references, macros and imports that have been renamed.

    A name that the user's files define themselves is theirs: a macro that is both set and read, or
    a module imported from elsewhere.

    Raises:
      UserError: with the location of the old name, and the new one.
    """
    for line in imports:
        if line.module in MODULES:
            raise UserError(
                f'{line.location}: {line.module} is now called {MODULES[line.module]}: import that instead.'
            )
    defined = {s.name for s in statements if s.is_macro}
    used = {macro.name for s in statements for macro in held(s.value, Macro)}
    theirs = (defined & used) | {line.bound_name for line in imports}
    for statement in reversed(statements):
        if statement.name in LABEL_KIND_NAMES and statement.value in LABEL_KIND_FILES:
            raise UserError(
                f'{statement.location}: the kind of label is no longer the string {statement.value!r}: '
                f'write --gin_file={LABEL_KIND_FILES[statement.value]} instead.'
            )
        for old, new in _old_names(statement, theirs):
            raise UserError(f'{statement.location}: {old} is now called {new}: write that instead.')


def _old_names(statement: Statement, theirs: Collection[str]) -> list[tuple[str, str]]:
    """Return (old, new) of the names in a statement, unless `theirs` has the macro or the module."""
    pairs = [(macro.name, MACROS.get(macro.name, macro.name)) for macro in held(statement.value, Macro)]
    pairs += [(reference.name, configurable(reference.name)) for reference in held(statement.value, Reference)]
    name = statement.name
    pairs += [(name, MACROS.get(name, name) if statement.is_macro else parameter(name))]
    return [(old, new) for old, new in pairs if old != new and _module_or_macro(old, new) not in theirs]


def _module_or_macro(old: str, new: str) -> str:
    """Return what an import or a definition of the user must provide for `old` to be a name of theirs."""
    old_first, new_first = (name.rpartition('/')[2].partition('.')[0] for name in (old, new))
    return old_first if old_first != new_first else ''


def is_run_config(path: Path) -> bool:
    """Return whether a gin file is the configuration that a program wrote to a MODEL_DIR."""
    run = RunDirectory(path.parent)
    return path == run.config and (run.checkpoints.exists() or run.versions.exists())


def translate(text: str) -> str:
    """Return a run's configuration, one statement a line, with all names as they are now; quoted text stays.

    A run of a version in which runs did not say their kind of task gets it, see `earlier_tasks`.
    """
    return add_task(''.join(map(_translate_line, io.StringIO(text))))


def _translate_line(line: str) -> str:
    if match := _IMPORT.match(line):
        parent, module = match['parent'], match['module']
        new = MODULES.get(f'{parent}.{module}' if parent else module)
        if new is None:
            return line
        new_parent, _, new_module = new.rpartition('.')
        statement = f'from {new_parent} import {new_module}' if parent else f'import {new}'
        return statement + (match['alias'] or '') + line[match.end() :]
    if line.lstrip().startswith('#'):
        return _NAME.sub(lambda m: m[0] if m['text'] else configurable(m[0]), line)
    is_binding = not line[:1].isspace()

    def rename(match: re.Match[str]) -> str:
        name = match['name']
        if name is None:
            return match[0]
        if '.' not in name:
            return MACROS.get(name, name) if match.start() == 0 or line[match.start() - 1] == '%' else name
        return parameter(name) if is_binding and match.start() == 0 else configurable(name)

    return _NAME.sub(rename, line)
