"""The Python API: a trained model loaded from a run, its predictions and its evaluation.

from palm_jax import api

model = api.finetune('text_data.csv', base='runs/tiny', model_dir='runs/mine', TRAIN_STEPS=300)
model.predict(['some text'])     # [{'a label': 0.93, ...}]
model.save('runs/mine_whole')    # standalone, without its base
model = api.load('runs/mine_whole')
"""

from palm_jax.api.loading import finetune, load
from palm_jax.api.trained_model import TrainedModel

__all__ = ['TrainedModel', 'finetune', 'load']
