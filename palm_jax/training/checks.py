"""Refusals of runs that cannot work, before anything is computed."""

from __future__ import annotations

from palm_jax.errors import UserError
from palm_jax.models.palm import PaLM
from palm_jax.models.pipeline import Schedule
from palm_jax.training.batch_sizes import BatchSizes
from palm_jax.training.interfaces import Data
from palm_jax.training.result import Reporter
from palm_jax.wording import counted


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
