"""Self-supervised objectives: inputs, targets and loss weights from a sequence of tokens.

Every objective produces the same features, int32 [L], so that nothing on the device depends on the
objective: `decoder_input_tokens`, `decoder_target_tokens`, `decoder_loss_weights` (1 where the loss counts
a target) and, unless attention is causal everywhere, `decoder_causal_attention` (seqio's name: 1 where an
input is attended bidirectionally). NumPy only; `seqio_preprocessors.objective_preprocessors` is for seqio.

Each has a file of its own, and gin files bind them by the name of this folder: `objectives.SpanCorruption`.
"""

from palm_jax.data.pretraining.objectives.causal_lm import CausalLM
from palm_jax.data.pretraining.objectives.masked_lm import MaskedLM
from palm_jax.data.pretraining.objectives.next_sentence import NextSentence
from palm_jax.data.pretraining.objectives.objective import Objective, blank
from palm_jax.data.pretraining.objectives.prefix_lm import PrefixLM
from palm_jax.data.pretraining.objectives.span_corruption import SpanCorruption

__all__ = ['CausalLM', 'MaskedLM', 'NextSentence', 'Objective', 'PrefixLM', 'SpanCorruption', 'blank']
