"""A task of your own: sums in words, registered with seqio and fine-tuned on like any registered task.

Shows: a generator of examples, a template, registration with metrics, and how gin finds the module. Run it from the
root of the repository, on a base model (here that of gin/pretrain_tiny.gin):

    python -m palm_jax.train --gin_file=examples/my_task/my_task.gin --gin.INITIAL_CHECKPOINT_PATH=runs/tiny

Afterwards the same task can be evaluated with solved examples in the prompt, by its name. The run's own
config.gin imports the module there, too, if you trust it:

    palm-jax eval --gin_file=runs/my_task/config.gin --task=my_sums --shots=2 --trust_modules=examples.my_task

To use your own data, replace `examples`: read a file, query a database, or register a `seqio.TextLineDataSource` or a
TFDS data set (see palm_jax/data/registry/public_tasks.py for some of each).
"""

from __future__ import annotations

from collections.abc import Iterator

import seqio

from palm_jax.data.registry import task_metrics
from palm_jax.data.registry.seqio_chains import add_text_to_text_task, fill_templates, generator_source

NAME = 'my_sums'
SPLITS = ('train', 'validation')
WORDS = ('zero', 'one', 'two', 'three', 'four', 'five', 'six', 'seven', 'eight', 'nine')


def examples(split: str) -> Iterator[dict[str, str]]:
    """All sums of two digits, in a fixed order; every fifth one is held out.

    Args:
      split: 'train' or 'validation'.

    Yields:
      An example with the columns that the templates below name.
    """
    for number in range(100):
        first, second = divmod(7 * number % 100, 10)
        is_held_out = number % 5 == 0
        if is_held_out == (split == 'validation'):
            yield {'first': WORDS[first], 'second': WORDS[second], 'sum': str(first + second)}


def register() -> None:
    """Register the task once; importing the module a second time changes nothing."""
    if NAME in seqio.TaskRegistry.names():
        return
    add_text_to_text_task(
        NAME,
        source=generator_source(examples, SPLITS, features=('first', 'second', 'sum')),
        preprocessors=[fill_templates(inputs='add: {first} and {second}', targets='{sum}')],
        metrics=[task_metrics.accuracy],
    )


register()
