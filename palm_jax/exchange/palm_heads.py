"""A decoder of Transformers with a head for texts or words, as palm_jax trains them.

Transformers' own classes read the score of a text at its last token, without a bias, and attend only to the left. The
weights beside this file are opened by

    AutoModelForSequenceClassification.from_pretrained(folder, trust_remote_code=True)

config.json says how features are pooled (`pooling`: mean, last or first) and whether attention is `bidirectional`.
"""

import torch
from torch import nn
from transformers import AutoModel, CohereConfig, PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput, TokenClassifierOutput


class _Labeller(PreTrainedModel):
    config_class = CohereConfig  # the export names the configuration of the weights
    base_model_prefix = 'model'

    def __init__(self, config):
        super().__init__(config)
        self.model = AutoModel.from_config(config)
        self.classifier = nn.Linear(config.hidden_size, config.num_labels)
        self.post_init()

    def features(self, input_ids, attention_mask):
        """Return the features of all tokens, [B, L, D], and the mask of those that are not padding, [B, L]."""
        if attention_mask is None:
            attention_mask = torch.ones_like(input_ids)
        inside = attention_mask.bool()
        seen = attention_mask
        if self.config.bidirectional:
            allowed = inside[:, None, :, None] & inside[:, None, None, :]
            allowed = allowed | torch.eye(inside.shape[1], dtype=torch.bool, device=inside.device)
            dtype = self.classifier.weight.dtype
            seen = torch.zeros(allowed.shape, dtype=dtype, device=inside.device)
            seen = seen.masked_fill(~allowed, torch.finfo(dtype).min)
        hidden = self.model(input_ids, attention_mask=seen, use_cache=False).last_hidden_state
        return hidden, inside

    def loss(self, logits, labels):
        """Return the loss that `problem_type` names, or None without labels."""
        if labels is None:
            return None
        if self.config.problem_type == 'regression':
            return nn.functional.mse_loss(logits.squeeze(-1), labels.to(logits.dtype))
        if self.config.problem_type == 'multi_label_classification':
            return nn.functional.binary_cross_entropy_with_logits(logits, labels.to(logits.dtype))
        return nn.functional.cross_entropy(logits.reshape(-1, logits.shape[-1]), labels.reshape(-1))


class PaLMForSequenceClassification(_Labeller):
    """Scores of a text, or of a pair of texts, from its pooled features."""

    def forward(self, input_ids, attention_mask=None, labels=None, **options):
        """Return logits [B, C]."""
        hidden, inside = self.features(input_ids, attention_mask)
        places = torch.arange(inside.shape[1], device=inside.device)
        if self.config.pooling == 'mean':
            weights = inside.to(hidden.dtype)[..., None]
            pooled = (hidden * weights).sum(1) / weights.sum(1).clamp(min=1)
        else:  # padding may be on either side
            chosen = (places * inside).argmax(-1) if self.config.pooling == 'last' else inside.int().argmax(-1)
            pooled = hidden[torch.arange(len(hidden), device=hidden.device), chosen]
        logits = self.classifier(pooled)
        return SequenceClassifierOutput(loss=self.loss(logits, labels), logits=logits)


class PaLMForTokenClassification(_Labeller):
    """Scores of every token; that of a word is read at its last token."""

    def forward(self, input_ids, attention_mask=None, labels=None, **options):
        """Return logits [B, L, C]."""
        hidden, _ = self.features(input_ids, attention_mask)
        logits = self.classifier(hidden)
        return TokenClassifierOutput(loss=self.loss(logits, labels), logits=logits)
