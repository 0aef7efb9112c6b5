"""A pretraining objective of your own: fill in the middle (Bavarian et al., arXiv 2207.14255).

Shows: what an objective is (a frozen dataclass that turns a sequence of tokens into features), how it uses sentinel
ids and its random generator, and that nothing on the device changes. Run it from the root of the repository:

    python -m palm_jax.train --gin_file=examples/my_objective/my_objective.gin

With --explain the command prints a training example instead, with its loss mask.
"""

from __future__ import annotations

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class FillInTheMiddle:
    """A text is cut in three, and its middle moves to the end: `<pre> prefix <suf> suffix <mid> middle`.

    The model stays causal. Sentinels 0, 1 and 2 are <pre>, <suf> and <mid>; they need EXTRA_IDS of at least 9. The
    loss counts the middle only, unlike the paper's, which counts the whole sequence.

    Attributes:
      share: weight of this objective against the others of a mixture.
      labels: class names of the objective's own head; it has no head.
      is_bidirectional: whether the features contain `decoder_causal_attention`.
    """

    share: float = 1.0
    labels = ()
    is_bidirectional = False

    def raw_length(self, length, vocabulary):
        """Return the number of text tokens that become a sequence of `length` (three ids are sentinels)."""
        vocabulary.sentinel(2)  # raises UserError where EXTRA_IDS leaves no room for it
        return length - 3

    def __call__(self, tokens, length, vocabulary, rng, another):
        """Make the features of one sequence.

        Args:
          tokens: int32, at most `raw_length` text tokens.
          length: length L of the features.
          vocabulary: vocabulary with the ids of sentinels.
          rng: NumPy generator for all random choices; a function of the seed and the sequence's number.
          another: function that returns the tokens of another random position of the corpus; not used.

        Returns:
          int32 [L]: inputs (the targets shifted right by a 0), targets, and loss weights.
        """
        del another
        first, second = np.sort(rng.choice(len(tokens) + 1, 2, replace=False))
        prefix, middle, suffix = np.split(tokens, [first, second])
        pre, suf, mid = (vocabulary.sentinel(i) for i in range(3))
        targets = np.r_[pre, prefix, suf, suffix, mid, middle].astype(np.int32)
        weights = np.arange(len(targets)) >= len(targets) - len(middle)
        features = {
            'decoder_input_tokens': np.r_[0, targets[:-1]],
            'decoder_target_tokens': targets,
            'decoder_loss_weights': weights,
        }
        return {name: np.pad(values.astype(np.int32), (0, length - len(targets))) for name, values in features.items()}
