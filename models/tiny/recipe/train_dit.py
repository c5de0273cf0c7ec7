"""Tiny QwenImageTransformer2DModel and tiny Qwen2.5-VL text encoder, trained together by flow matching on cached latents.

The text encoder starts from random weights and learns end to end through the flow loss. Two modes:
  * from scratch (default);
  * `--init FOLDER` continues a saved pipeline; with `--fp8` every weight is rounded to E4M3 in the forward pass and the
    gradient goes straight through to the full-precision master, so that rounding the result costs nothing.
Resumable: state.pt in the output folder holds weights, optimisers, averages and the position in the run.
"""
import argparse
import math
import os
import time

import torch
from diffusers import AutoencoderKLQwenImage, QwenImageTransformer2DModel
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration, Qwen2Tokenizer

from flow import Prompts, cached_latents, fast_kernels, flow_loss, sample_times, save_pipeline
from optim import Muon

AXES = {32: (8, 12, 12), 64: (16, 24, 24), 128: (16, 56, 56)}  # rotary split of the head


def build_text_encoder(tok, dim, layers):
    token, head = tok.convert_tokens_to_ids, 32
    return Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig(
        text_config=dict(
            vocab_size=-(-len(tok) // 64) * 64, hidden_size=dim, intermediate_size=2 * dim, num_hidden_layers=layers,
            num_attention_heads=dim // head, num_key_value_heads=max(1, dim // head // 2), max_position_embeddings=4096,
            rms_norm_eps=1e-6, tie_word_embeddings=False,
            rope_parameters=dict(rope_type="default", mrope_section=[4, 6, 6], rope_theta=1e6),  # sums to head / 2
            bos_token_id=token("<|endoftext|>"), eos_token_id=token("<|im_end|>"), pad_token_id=token("<|endoftext|>")),
        vision_config=dict(
            depth=2, hidden_size=64, intermediate_size=128, num_heads=2, out_hidden_size=dim, patch_size=14,
            spatial_merge_size=2, temporal_patch_size=2, window_size=112, fullatt_block_indexes=[1]),
        image_token_id=token("<|image_pad|>"), video_token_id=token("<|video_pad|>"),
        vision_start_token_id=token("<|vision_start|>"), vision_end_token_id=token("<|vision_end|>")))


def build_dit(layers, heads, head_dim, text_dim):
    dit = QwenImageTransformer2DModel(
        patch_size=2, in_channels=64, out_channels=16, num_layers=layers, attention_head_dim=head_dim, num_attention_heads=heads,
        joint_attention_dim=text_dim, axes_dims_rope=AXES[head_dim])
    d = dit.inner_dim
    with torch.no_grad():
        for block in dit.transformer_blocks:
            for mod in (block.img_mod[1], block.txt_mod[1]):
                mod.weight.zero_()
                mod.bias.zero_()
                for gate in (2, 5):  # gates start a little open
                    mod.bias[gate * d:(gate + 1) * d] = 0.5 / math.sqrt(layers)
        for p in (*dit.norm_out.linear.parameters(), *dit.proj_out.parameters()):
            p.zero_()
    return dit


def trained_parameters(dit, text_encoder, layers):
    """All but the vision tower, lm_head, and the last block's text output, which nothing reads."""
    last = f"transformer_blocks.{layers - 1}."
    dead = [last + n for n in ("attn.to_add_out", "txt_mlp", "attn.add_q_proj", "attn.norm_added_q")]
    named = [("text." + n, p) for n, p in text_encoder.named_parameters() if n.startswith("model.language_model")]
    named += [("dit." + n, p) for n, p in dit.named_parameters()]
    return [(n, p) for n, p in named if not any(d in n for d in dead)]


def is_hidden_matrix(name, p):
    return p.ndim == 2 and ("transformer_blocks." in name and "_mod." not in name or "language_model.layers" in name)


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--layers", type=int, default=12)
    ap.add_argument("--heads", type=int, default=2)
    ap.add_argument("--head-dim", type=int, default=64)
    ap.add_argument("--text-dim", type=int, default=128)
    ap.add_argument("--text-layers", type=int, default=2)
    ap.add_argument("--size", type=int, default=64)
    ap.add_argument("--bs", type=int, default=48)
    ap.add_argument("--n", type=int, default=60000, help="pictures in the latent cache")
    ap.add_argument("--data-seed", type=int, default=1_000_000)
    ap.add_argument("--seconds", type=float, default=2100, help="training time, summed over resumed runs")
    ap.add_argument("--lr", type=float, default=1.5e-3)
    ap.add_argument("--mlr", type=float, default=0.02)
    ap.add_argument("--warm", type=int, default=50)
    ap.add_argument("--flat", type=float, default=0.5, help="share of the time before the learning rate falls linearly to 2 %%")
    ap.add_argument("--ema", type=float, default=0.995)
    ap.add_argument("--drop", type=float, default=0.1, help="share of captions replaced by the empty prompt")
    ap.add_argument("--fp8", action="store_true")
    ap.add_argument("--init", help="pipeline folder to continue from")
    ap.add_argument("--vae", default="vae")
    ap.add_argument("--tokenizer", default="tokenizer")
    ap.add_argument("--latents", default="latents.pt")
    ap.add_argument("--out", default="base")
    ap.add_argument("--threads", type=int, default=2)
    a = ap.parse_args()
    torch.set_num_threads(a.threads)
    torch.manual_seed(0)
    fast_kernels()
    os.makedirs(a.out, exist_ok=True)

    tok = Qwen2Tokenizer.from_pretrained(a.tokenizer)
    prompts = Prompts(tok)
    if a.init:
        text = Qwen2_5_VLForConditionalGeneration.from_pretrained(a.init, subfolder="text_encoder", dtype=torch.float32)
        dit = QwenImageTransformer2DModel.from_pretrained(a.init, subfolder="transformer", torch_dtype=torch.float32)
        text.train(), dit.train()
    else:
        text = build_text_encoder(tok, a.text_dim, a.text_layers)
        dit = build_dit(a.layers, a.heads, a.head_dim, a.text_dim)
    vae = AutoencoderKLQwenImage.from_pretrained(a.vae, torch_dtype=torch.float32)

    named = trained_parameters(dit, text, len(dit.transformer_blocks))
    params = [p for _, p in named]
    big = [p for n, p in named if is_hidden_matrix(n, p)]
    ids = {id(p) for p in big}
    rest = [p for p in params if id(p) not in ids]
    adam = torch.optim.AdamW(rest, lr=a.lr, betas=(0.9, 0.98), weight_decay=0.0, foreach=True)
    muon = Muon(big, lr=a.mlr, wd=0.01)
    average = [p.detach().clone() for p in params]
    print(f"transformer {sum(p.numel() for p in dit.parameters()) / 1e6:.2f} M, trained {sum(p.numel() for p in params) / 1e6:.2f} M", flush=True)

    start = time.time()
    mean, sigma, captions = cached_latents(a.latents, vae, a.n, a.size, a.data_seed, True)
    vmean, _, vcaptions = cached_latents(a.latents + ".val", vae, 200, a.size, 77, False)
    print(f"latents {tuple(mean.shape)} mean {mean.mean():.3f} std {mean.std():.3f}, {time.time() - start:.0f}s", flush=True)

    step, spent, state_path = 0, 0.0, os.path.join(a.out, "state.pt")
    if os.path.exists(state_path):
        s = torch.load(state_path, weights_only=False)
        for p, v in zip(params, s["params"]):
            p.data.copy_(v)
        average, step, spent = s["average"], s["step"], s["spent"]
        adam.load_state_dict(s["adam"])
        muon.load_state_dict(s["muon"])
        print(f"resumed at step {step}, {spent:.0f}s", flush=True)
    g = torch.Generator().manual_seed(1 + step)

    def swap(other):
        for p, o in zip(params, other):
            p.data, o.data = o.data, p.data

    def rounded(values):
        return [v.detach().to(torch.float8_e4m3fn).float() for v in values] if a.fp8 else [v.detach().clone() for v in values]

    def validate():
        gv = torch.Generator().manual_seed(5)
        t, noise = (torch.arange(200) + .5) / 200, torch.randn(vmean.shape, generator=gv)
        view = rounded(average)
        swap(view)
        with torch.no_grad():
            loss = flow_loss(dit, text, prompts, vmean, vcaptions, t, noise, a.size).item()
        swap(view)
        return loss

    def save():
        torch.save(dict(params=[p.data for p in params], average=average, step=step, spent=spent,
                        adam=adam.state_dict(), muon=muon.state_dict()), state_path + ".part")
        os.replace(state_path + ".part", state_path)
        swap(average)
        save_pipeline(a.out, dit, text, tok, vae)
        swap(average)

    print(f"step {step} val {validate():.4f}", flush=True)
    order, pos, total, last, last_save = [], 0, 0.0, time.time(), time.time()
    while spent < a.seconds:
        done = spent / a.seconds
        k = min(1, (step + 1) / a.warm) * (1 if done < a.flat else (1 - done) / (1 - a.flat) * 0.98 + 0.02)
        adam.param_groups[0]["lr"], muon.lr = a.lr * k, a.mlr * k
        if pos + a.bs > len(order):
            order, pos = torch.randperm(len(captions), generator=g).tolist(), 0
        rows = order[pos:pos + a.bs]
        pos += a.bs
        x0 = mean[rows] + sigma[rows] * torch.randn(mean[rows].shape, generator=g)
        cap = [captions[i] if u > a.drop else " " for i, u in zip(rows, torch.rand(a.bs, generator=g).tolist())]
        t, noise = sample_times(a.bs, g), torch.randn(x0.shape, generator=g)
        master = None
        if a.fp8:  # forward and backward through the rounded weights, update the masters
            master = rounded(params)
            swap(master)
        loss = flow_loss(dit, text, prompts, x0, cap, t, noise, a.size)
        adam.zero_grad(set_to_none=True)
        muon.zero_grad()
        loss.backward()
        if a.fp8:
            swap(master)
        torch.nn.utils.clip_grad_norm_(rest, 1.0)
        adam.step()
        muon.step()
        step += 1
        total += loss.item()
        with torch.no_grad():
            torch._foreach_lerp_(average, params, 1 - min(a.ema, (1 + step) / (10 + step)))
        now = time.time()
        spent, last = spent + now - last, now
        if step % 100 == 0:
            print(f"step {step} {spent:.0f}s train {total / 100:.4f} val {validate():.4f} k {k:.2f}", flush=True)
            total, last = 0.0, time.time()
        if now - last_save > 180:
            save()
            last_save = last = time.time()
    save()
    print(f"done: {step} steps, {spent:.0f}s, val {validate():.4f}")


if __name__ == "__main__":
    main()
