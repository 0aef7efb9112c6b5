"""Every method of fine-tuning, at a size for the micro model."""

from palm_jax.peft.adalora import AdaLoRA
from palm_jax.peft.adapter import Adapter
from palm_jax.peft.bitfit import BitFit
from palm_jax.peft.ia3 import IA3
from palm_jax.peft.lora import LoRA
from palm_jax.peft.prefix import Prefix
from palm_jax.peft.prompt import SoftPrompt

METHODS = {
    'lora': (LoRA(rank=2, alpha=4.0),),
    'rslora': (LoRA(rank=2, use_rslora=True, targets='stack/attn/qkv/(q|v)'),),
    'dora': (LoRA(rank=2, use_dora=True),),
    'ia3': (IA3(),),
    'bitfit': (BitFit(),),
    'adapter': (Adapter(bottleneck_dim=4),),
    'adalora': (AdaLoRA(rank=3, target_rank=2, total_steps=20),),
    'prefix': (Prefix(length=3),),
    'wide_prefix': (Prefix(length=3, bottleneck_dim=5),),
    'prompt': (SoftPrompt(length=3),),
    'several': (LoRA(rank=2), BitFit(), Adapter(bottleneck_dim=4), IA3(), Prefix(length=2), SoftPrompt(length=2)),
}
