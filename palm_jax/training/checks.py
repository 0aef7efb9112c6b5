"""Refusals of runs that cannot work, before anything is computed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from palm_jax.errors import UserError
from palm_jax.models.kernels import attention
from palm_jax.models.palm import PaLM
from palm_jax.models.pipeline import Schedule
from palm_jax.training.batch_sizes import BatchSizes
from palm_jax.training.interfaces import Data
from palm_jax.training.result import Reporter
from palm_jax.wording import counted

if TYPE_CHECKING:
    from palm_jax.training.setup import Setup

_GROUPS = 32  # groups of similar length whose length is looked at


def check_run(
    model: PaLM,
    data: Data,
    batch_sizes: BatchSizes,
    data_devices: int,
    microbatches: int,
    reporter: Reporter,
    schedule: Schedule | None = None,
) -> None:
    """Refuse a run that cannot work, before anything is computed.

    Args:
      model: the model.
      data: the data.
      batch_sizes: sequences per step.
      data_devices: size of the mesh's `data` axis.
      microbatches: parts into which a batch is split.
      reporter: measures and reports the finished run.
      schedule: the pipeline; None is none.

    Raises:
      UserError: with the binding to change.
    """
    if data.vocabulary.size > model.arch.vocab_size:
        raise UserError(
            f'The vocabulary has {data.vocabulary.size} ids, but the model has only {model.arch.vocab_size} embedding '
            f'rows. Set --gin.VOCABULARY_SIZE={data.vocabulary.size}.'
        )
    check_batches(batch_sizes, data.group, data_devices, microbatches, schedule)
    if check := getattr(reporter, 'check', None):  # which a reporter of the user may lack
        check(data)


def check_batches(
    batch_sizes: BatchSizes,
    group: int | None,
    data_devices: int,
    microbatches: int,
    schedule: Schedule | None = None,
) -> None:
    """Refuse batches that cannot be divided; name those that can.

    Args:
      batch_sizes, data_devices, microbatches, schedule: see `check_run`.
      group: number of sequences of similar length in a group, which batches may not cross; None for no groups.
    """
    piped = 1 if schedule is None else schedule.microbatches
    parts = microbatches * piped * data_devices
    for _, size in batch_sizes.ramp:
        if size % parts:
            possible = [n for n in (size // parts * parts, (size // parts + 1) * parts) if n]
            raise UserError(
                f'BATCH_SIZE = {size} does not divide into MICROBATCHES = {microbatches} × '
                f'{"" if schedule is None else f"PIPELINE_MICROBATCHES = {piped} × "}data = '
                f'{counted(data_devices, "device")}; {" or ".join(map(str, possible))} would do.'
            )
        if group is not None and (group < 1 or group % size):
            raise UserError(f'GROUP_BY_LENGTH is {group}; it must be BATCH_SIZE = {size} or a multiple of it.')


def batches_of_groups(data: Data, batch_size: int) -> Iterator[Mapping[str, np.ndarray]]:
    """Yield the first batch of an epoch's first whole groups of similar length; none where rows are not grouped."""
    if data.group is not None:
        for number in range(min(max(data.num_sequences // data.group, 1), _GROUPS)):
            yield data.batch(number * data.group, batch_size)


def check_attention(setup: Setup, loss: Callable[..., Any], data: Data) -> None:
    """Refuse rows that the kernel which the architecture requires cannot take; nothing is computed.

    Args:
      setup: the run.
      loss: loss of the task.
      data: the data.

    Raises:
      UserError: with the binding to change.
    """
    if setup.model.arch.attention not in attention.LIMITED:
        return
    setup.check_loss(loss, data.blank())
    batches = batches_of_groups(data, setup.plan.batch_sizes.at(0))
    rows = {features['decoder_input_tokens'].shape[1]: features for features in batches}
    for features in rows.values():
        try:
            setup.check_loss(loss, {name: values[0] for name, values in features.items()})
        except UserError as error:
            raise UserError(
                f'{error} Rows are cut to the longest of their batch: --gin.GROUP_BY_LENGTH=None leaves all of them at '
                f'{data.length} tokens.'
            ) from None
