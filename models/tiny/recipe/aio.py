"""The all-in-one checkpoint layout: names, and reading a file back into a diffusers pipeline.

    model.diffusion_model.*                        transformer, diffusers' names, F8_E4M3 without scales
    text_encoders.qwen25_7b.transformer.model.*    text encoder, F8_E4M3 without scales (no lm_head)
    text_encoders.qwen25_7b.transformer.visual.*   its vision tower, F8_E4M3 without scales
    text_encoders.qwen25_7b.logit_scale            scalar F32
    vae.*                                          VAE, Wan 2.1 names, BF16

Full-size readers know the architecture by heart. A tiny one cannot be told from its shapes (heads, rotary axes, latent
statistics), so `__metadata__["qwen_nvfp4.config"]` holds the four diffusers configs as one JSON string.
"""
import json
import os
import re

import torch
from safetensors import safe_open

DIT, TEXT, VAE = "model.diffusion_model.", "text_encoders.qwen25_7b.transformer.", "vae."
LOGIT_SCALE = "text_encoders.qwen25_7b.logit_scale"
CONFIG = "qwen_nvfp4.config"
TOKENIZER = "qwen_nvfp4.tokenizer"

RESIDUAL = [("norm1.gamma", "residual.0.gamma"), ("conv1.", "residual.2."), ("norm2.gamma", "residual.3.gamma"),
            ("conv2.", "residual.6."), ("conv_shortcut.", "shortcut.")]


def vae_name_to_wan(name, res_blocks):
    """diffusers' AutoencoderKLQwenImage name -> Wan 2.1 name. The decoder's flat index counts res_blocks + 1 residual
    blocks and one resampler per level."""
    per_level = res_blocks + 2
    top = {"quant_conv.": "conv1.", "post_quant_conv.": "conv2."}
    for a, b in top.items():
        if name.startswith(a):
            return b + name[len(a):]
    side, rest = name.split(".", 1)
    rest = re.sub(r"^conv_in\.", "conv1.", rest)
    rest = re.sub(r"^norm_out\.gamma", "head.0.gamma", rest)
    rest = re.sub(r"^conv_out\.", "head.2.", rest)
    rest = re.sub(r"^mid_block\.resnets\.(\d)\.", lambda m: f"middle.{2 * int(m[1])}.", rest)
    rest = re.sub(r"^mid_block\.attentions\.0\.", "middle.1.", rest)
    rest = re.sub(r"^down_blocks\.", "downsamples.", rest)
    rest = re.sub(r"^up_blocks\.(\d)\.resnets\.(\d)\.", lambda m: f"upsamples.{per_level * int(m[1]) + int(m[2])}.", rest)
    rest = re.sub(r"^up_blocks\.(\d)\.upsamplers\.0\.", lambda m: f"upsamples.{per_level * int(m[1]) + per_level - 1}.", rest)
    for a, b in RESIDUAL:
        rest = re.sub(rf"\.{re.escape(a)}", "." + b, rest)
    return f"{side}.{rest}"


def text_name_to_aio(name):
    """transformers' name (either spelling) -> the older `model.` / `visual.` spelling, or None for lm_head."""
    if name.startswith("lm_head"):
        return None
    name = re.sub(r"^model\.language_model\.", "model.", name)
    return re.sub(r"^model\.visual\.", "visual.", name)


def read(path):
    """(tensors in F32, configs) of an all-in-one file."""
    with safe_open(path, "pt") as f:
        configs = json.loads(f.metadata()[CONFIG])
        return {k: f.get_tensor(k).float() for k in f.keys()}, configs


def fill(module, tensors, rename):
    """Strict load: every parameter of `module` (after `rename`) must be there with its shape."""
    state = {}
    for name, old in module.state_dict().items():
        key = rename(name)
        if key is None:
            continue
        state[name] = tensors.pop(key).view(old.shape)
    missing, unexpected = module.load_state_dict(state, strict=False)
    assert not unexpected and all(rename(m) is None for m in missing), (missing, unexpected)


def load_pipeline(path, tokenizer):
    """diffusers' own QwenImagePipeline with the file's weights, computing in F32."""
    from diffusers import AutoencoderKLQwenImage, FlowMatchEulerDiscreteScheduler, QwenImagePipeline, QwenImageTransformer2DModel
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration, Qwen2Tokenizer
    tensors, cfg = read(path)
    own = lambda c: {k: v for k, v in c.items() if not k.startswith("_")}
    dit = QwenImageTransformer2DModel(**own(cfg["transformer"]))
    vae = AutoencoderKLQwenImage(**own(cfg["vae"]))
    text = Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig(**cfg["text_encoder"]))
    fill(dit, tensors, lambda n: DIT + n)
    fill(vae, tensors, lambda n: VAE + vae_name_to_wan(n, cfg["vae"]["num_res_blocks"]))
    fill(text, tensors, lambda n: TEXT + text_name_to_aio(n) if text_name_to_aio(n) else None)
    tensors.pop(LOGIT_SCALE)
    assert not tensors, f"unknown tensors: {sorted(tensors)[:5]}"
    if not os.path.isdir(tokenizer):
        raise SystemExit(f"no tokenizer folder at {tokenizer}")
    pipe = QwenImagePipeline(scheduler=FlowMatchEulerDiscreteScheduler(**own(cfg["scheduler"])), vae=vae.eval(),
                             text_encoder=text.eval(), tokenizer=Qwen2Tokenizer.from_pretrained(tokenizer), transformer=dit.eval())
    pipe.set_progress_bar_config(disable=True)
    return pipe
