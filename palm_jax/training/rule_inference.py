"""Exact inference under rules about labels: the normalizer of p·exp(potentials), its marginals, and what breaks rules.

A batch has the rules as penalties, see `data.supervised.label_rules`. Letters: B rows, L positions, C classes or tags,
M labels that rules mention, S = 2^M states. There are three kinds of predictions:

  classes   scores [B, C], `rule_penalties` [B, C];
  label sets   scores [B, C], `rule_labels` [B, M], `rule_penalties` [B, S]: state s has label m if bit m of s is set;
  tags   scores [B, L, C], `rule_words` [B, L], 1 at the last token of a word, `rule_transitions` [B, C + 1, C], the
    last row for the first word, and optionally `rule_penalties` [B, L, C].
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from palm_jax.errors import UserError
from palm_jax.models.saturation import limited

Batch = dict[str, jax.Array]
Potential = Callable[[jax.Array], jax.Array]
NEVER = -1e9  # potential of a state that is impossible


def weighed(strength: float) -> Potential:
    """Return the potential −C·penalty."""
    return lambda penalties: -strength * penalties


def hard(penalties: jax.Array) -> jax.Array:
    """Return the potential that makes every state impossible that breaks a rule."""
    return jnp.where(penalties > 0, NEVER, 0.0)


def log_probabilities(scores: jax.Array, batch: Batch) -> jax.Array:
    """Return log p of each class or tag, [..., C]; for label sets of each label's absence and presence, [B, C, 2].

    Raises:
      UserError: the batch has no rules, or those of another kind of prediction.
    """
    if not {'rule_penalties', 'rule_transitions'} & batch.keys():
        raise UserError('No rules are in the batch: include gin/methods/rules.gin.')
    scores = limited(scores)
    if 'rule_labels' in batch:
        return jax.nn.log_sigmoid(jnp.stack([-scores, scores], axis=-1))
    return jax.nn.log_softmax(scores, axis=-1)


def log_normalizer(log_p: jax.Array, batch: Batch, potential: Potential) -> jax.Array:
    """Return log Σ_y p(y)·exp(potential of y), float32 [B].

    Its derivative with respect to `log_p` are the marginals of the distribution that it normalizes.

    Args:
      log_p: result of `log_probabilities`.
      batch: the rules, see above.
      potential: function of penalties.
    """
    if 'rule_transitions' in batch:
        return _of_chain(log_p, batch, potential)
    if 'rule_labels' in batch:
        return _of_sets(log_p, batch, potential)
    return jax.nn.logsumexp(log_p + potential(batch['rule_penalties']), axis=-1)


def marginals(log_p: jax.Array, batch: Batch, potential: Potential) -> jax.Array:
    """Return the marginals of q(y) ∝ p(y)·exp(potential of y), in the form of `log_p` and without a gradient."""
    log_p = jax.lax.stop_gradient(log_p)
    return jax.grad(lambda x: log_normalizer(x, batch, potential).sum())(log_p)


def broken(scores: jax.Array, batch: Batch) -> jax.Array:
    """Return which rows have a prediction that breaks a rule, boolean [B]; for the arguments see above."""
    if 'rule_transitions' in batch:
        return _tags_break(scores.argmax(axis=-1), batch)
    penalties = batch['rule_penalties']
    if 'rule_labels' in batch:
        has_BM = jnp.take_along_axis(scores, batch['rule_labels'], axis=-1) > 0
        state_B = (has_BM * 2 ** jnp.arange(has_BM.shape[-1])).sum(axis=-1)
    else:
        state_B = scores.argmax(axis=-1)
    return jnp.take_along_axis(penalties, state_B[:, None], axis=-1)[:, 0] > 0


def _of_sets(log_p_BC2: jax.Array, batch: Batch, potential: Potential) -> jax.Array:
    ids_BM = batch['rule_labels']
    of_rules_BM2 = jnp.take_along_axis(log_p_BC2, ids_BM[..., None], axis=1)
    bits_SM = np.arange(2 ** ids_BM.shape[1])[:, None] >> np.arange(ids_BM.shape[1]) & 1
    log_p_BS = of_rules_BM2[..., 1] @ bits_SM.T.astype(np.float32)
    log_p_BS += of_rules_BM2[..., 0] @ (1 - bits_SM.T).astype(np.float32)
    of_others = [jax.nn.logsumexp(x, axis=-1).sum(axis=-1) for x in (log_p_BC2, of_rules_BM2)]  # 0, but for gradients
    return jax.nn.logsumexp(log_p_BS + potential(batch['rule_penalties']), axis=-1) + of_others[0] - of_others[1]


def _of_chain(log_p_BLC: jax.Array, batch: Batch, potential: Potential) -> jax.Array:
    """The forward algorithm over the words of each row."""
    if 'rule_penalties' in batch:
        log_p_BLC = log_p_BLC + potential(batch['rule_penalties'])
    transitions_BCC = potential(batch['rule_transitions'])
    is_word_LB = (batch['rule_words'] > 0).T
    batch_size, num_tags = log_p_BLC.shape[0], log_p_BLC.shape[2]
    start = jnp.full((batch_size, num_tags + 1), NEVER).at[:, -1].set(0.0)

    def step(alpha_BC: jax.Array, at: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
        log_p_BC, is_word_B = at
        after = jax.nn.logsumexp(alpha_BC[:, :, None] + transitions_BCC, axis=1) + log_p_BC
        after = jnp.pad(after, [(0, 0), (0, 1)], constant_values=NEVER)
        return jnp.where(is_word_B[:, None], after, alpha_BC), None

    alpha_BC, _ = jax.lax.scan(step, start, (log_p_BLC.swapaxes(0, 1), is_word_LB))
    return jax.nn.logsumexp(alpha_BC, axis=-1)


def _tags_break(tags_BL: jax.Array, batch: Batch) -> jax.Array:
    transitions_BCC, is_word_BL = batch['rule_transitions'], batch['rule_words'] > 0
    rows = jnp.arange(len(tags_BL))
    start = jnp.full(len(tags_BL), transitions_BCC.shape[1] - 1, tags_BL.dtype)

    def step(before_B: jax.Array, at: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        tag_B, is_word_B = at
        return jnp.where(is_word_B, tag_B, before_B), is_word_B & (transitions_BCC[rows, before_B, tag_B] > 0)

    _, breaks_LB = jax.lax.scan(step, start, (tags_BL.T, is_word_BL.T))
    found_B = breaks_LB.any(axis=0)
    if 'rule_penalties' in batch:
        of_words_BL = jnp.take_along_axis(batch['rule_penalties'], tags_BL[..., None], axis=-1)[..., 0]
        found_B |= (is_word_BL & (of_words_BL > 0)).any(axis=1)
    return found_B
