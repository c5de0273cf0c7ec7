"""A short LoRA on the transformer: the same captions, the objects in another palette.

The base stays frozen; every attention and MLP linear of every block gets a low-rank side path. Saved as one file with
diffusers' spelling (`transformer_blocks.N.attn.to_q.lora_A.weight`, `lora_B`); the scale is 1, so there is no alpha.
Resumable: OUT.state holds the adapters, the optimiser and the position in the run.
"""
import argparse
import os
import time

import torch
import torch.nn as nn
from diffusers import AutoencoderKLQwenImage, QwenImageTransformer2DModel
from safetensors.torch import save_file
from transformers import Qwen2_5_VLForConditionalGeneration, Qwen2Tokenizer

from flow import Prompts, cached_latents, fast_kernels, flow_loss, sample_times


class LoraLinear(nn.Module):
    """y = W x + b + B (A x), with W and b frozen and B starting at zero."""

    def __init__(self, linear, rank):
        super().__init__()
        self.linear = linear.requires_grad_(False)
        self.A = nn.Parameter(torch.randn(rank, linear.in_features) / linear.in_features ** 0.5)
        self.B = nn.Parameter(torch.zeros(linear.out_features, rank))

    def forward(self, x):
        return self.linear(x) + x @ self.A.T @ self.B.T


def add_adapters(dit, rank):
    """Wraps the linears of all blocks but their modulation; returns {name: LoraLinear}."""
    layers = {}
    last = f"transformer_blocks.{len(dit.transformer_blocks) - 1}."
    for name, module in list(dit.named_modules()):
        if not isinstance(module, nn.Linear) or "transformer_blocks." not in name or "_mod." in name:
            continue
        if name.startswith(last) and any(s in name for s in ("to_add_out", "txt_mlp", "add_q_proj")):
            continue  # the last block's text output is not read
        parent, leaf = name.rsplit(".", 1)
        layers[name] = LoraLinear(module, rank)
        setattr(dit.get_submodule(parent), leaf, layers[name])
    return layers


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--base", default="base", help="pipeline folder")
    ap.add_argument("--palette", default="jewel")
    ap.add_argument("--rank", type=int, default=8)
    ap.add_argument("--seconds", type=float, default=600, help="training time, summed over resumed runs")
    ap.add_argument("--lr", type=float, default=2e-3)
    ap.add_argument("--bs", type=int, default=48)
    ap.add_argument("--n", type=int, default=12000, help="pictures in the latent cache")
    ap.add_argument("--size", type=int, default=64)
    ap.add_argument("--latents", default="latents_jewel.pt")
    ap.add_argument("--out", default="palette_lora.safetensors")
    ap.add_argument("--threads", type=int, default=2)
    a = ap.parse_args()
    torch.set_num_threads(a.threads)
    torch.manual_seed(0)
    fast_kernels()

    tok = Qwen2Tokenizer.from_pretrained(a.base, subfolder="tokenizer")
    text = Qwen2_5_VLForConditionalGeneration.from_pretrained(a.base, subfolder="text_encoder", dtype=torch.float32).requires_grad_(False)
    dit = QwenImageTransformer2DModel.from_pretrained(a.base, subfolder="transformer", torch_dtype=torch.float32).requires_grad_(False)
    vae = AutoencoderKLQwenImage.from_pretrained(a.base, subfolder="vae", torch_dtype=torch.float32)
    with torch.no_grad():  # learn on the weights as they are shipped
        for p in (*dit.parameters(), *text.parameters()):
            p.copy_(p.to(torch.float8_e4m3fn).float())
    layers = add_adapters(dit, a.rank)
    params = [p for m in layers.values() for p in (m.A, m.B)]
    adam = torch.optim.AdamW(params, lr=a.lr, betas=(0.9, 0.98), weight_decay=0.0, foreach=True)
    prompts = Prompts(tok)
    mean, sigma, captions = cached_latents(a.latents, vae, a.n, a.size, 3_000_000, True, a.palette)
    vmean, _, vcaptions = cached_latents(a.latents + ".val", vae, 200, a.size, 77, False, a.palette)
    print(f"{len(layers)} adapters, {sum(p.numel() for p in params) / 1e6:.2f} M values, latents {tuple(mean.shape)}", flush=True)

    step, spent, state_path = 0, 0.0, a.out + ".state"
    if os.path.exists(state_path):
        s = torch.load(state_path, weights_only=False)
        for p, v in zip(params, s["params"]):
            p.data.copy_(v)
        adam.load_state_dict(s["adam"])
        step, spent = s["step"], s["spent"]
        print(f"resumed at step {step}, {spent:.0f}s", flush=True)
    g = torch.Generator().manual_seed(1 + step)

    def validate():
        gv = torch.Generator().manual_seed(5)
        with torch.no_grad():
            return flow_loss(dit, text, prompts, vmean, vcaptions, (torch.arange(200) + .5) / 200, torch.randn(vmean.shape, generator=gv), a.size).item()

    def save():
        torch.save(dict(params=[p.data for p in params], adam=adam.state_dict(), step=step, spent=spent), state_path)
        tensors = {}
        for name, m in layers.items():
            tensors[f"{name}.lora_A.weight"] = m.A.detach().to(torch.bfloat16).contiguous()
            tensors[f"{name}.lora_B.weight"] = m.B.detach().to(torch.bfloat16).contiguous()
        save_file(tensors, a.out, metadata={"format": "pt", "rank": str(a.rank), "palette": a.palette})

    print(f"step {step} val {validate():.4f}", flush=True)
    total, last, last_save = 0.0, time.time(), time.time()
    while spent < a.seconds:
        done = spent / a.seconds
        adam.param_groups[0]["lr"] = a.lr * min(1, (step + 1) / 20) * (1 if done < 0.5 else (1 - done) / 0.5 * 0.98 + 0.02)
        rows = torch.randint(len(captions), (a.bs,), generator=g).tolist()
        x0 = mean[rows] + sigma[rows] * torch.randn(mean[rows].shape, generator=g)
        cap = [captions[i] if u > 0.1 else " " for i, u in zip(rows, torch.rand(a.bs, generator=g).tolist())]
        loss = flow_loss(dit, text, prompts, x0, cap, sample_times(a.bs, g), torch.randn(x0.shape, generator=g), a.size)
        adam.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(params, 1.0)
        adam.step()
        step += 1
        total += loss.item()
        now = time.time()
        spent, last = spent + now - last, now
        if step % 50 == 0:
            print(f"step {step} {spent:.0f}s train {total / 50:.4f} val {validate():.4f}", flush=True)
            total, last = 0.0, time.time()
        if now - last_save > 120:
            save()
            last_save = time.time()
    save()
    print(f"done: {step} steps, {spent:.0f}s, val {validate():.4f}")


if __name__ == "__main__":
    main()
