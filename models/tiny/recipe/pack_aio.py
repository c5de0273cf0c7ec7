"""diffusers folder -> one all-in-one FP8 file, laid out like a full-size Rapid-AIO (see aio.py).

Transformer and text encoder are rounded to F8_E4M3 as they are: no scales, and biases, norms and embeddings too.
"""
import argparse
import json
import os

import torch
from safetensors.torch import load_file, save_file

from aio import CONFIG, DIT, LOGIT_SCALE, TEXT, TOKENIZER, VAE, text_name_to_aio, vae_name_to_wan

E4M3_MAX = 448.0


def config(folder, name):
    with open(os.path.join(folder, name)) as f:
        return json.load(f)


def fp8(t, name):
    if t.abs().max() > E4M3_MAX:
        raise SystemExit(f"{name}: {t.abs().max().item()} does not fit E4M3")
    return t.float().to(torch.float8_e4m3fn)


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("folder", help="diffusers pipeline folder")
    ap.add_argument("out", help="file to write")
    ap.add_argument("--title", default="Qwen-Image tiny")
    ap.add_argument("--description", default="")
    a = ap.parse_args()

    configs = {
        "transformer": config(a.folder, "transformer/config.json"),
        "text_encoder": config(a.folder, "text_encoder/config.json"),
        "vae": config(a.folder, "vae/config.json"),
        "scheduler": config(a.folder, "scheduler/scheduler_config.json")}
    for c in configs.values():
        c.pop("_name_or_path", None)

    out = {LOGIT_SCALE: torch.tensor(4.6055, dtype=torch.float32)}
    for name, t in load_file(os.path.join(a.folder, "transformer/diffusion_pytorch_model.safetensors")).items():
        out[DIT + name] = fp8(t, name)
    for name, t in load_file(os.path.join(a.folder, "text_encoder/model.safetensors")).items():
        if text_name_to_aio(name):
            out[TEXT + text_name_to_aio(name)] = fp8(t, name)
    for name, t in load_file(os.path.join(a.folder, "vae/diffusion_pytorch_model.safetensors")).items():
        out[VAE + vae_name_to_wan(name, configs["vae"]["num_res_blocks"])] = t.to(torch.bfloat16)

    metadata = {
        "modelspec.sai_model_spec": "1.0.0", "modelspec.architecture": "qwen-image", "modelspec.implementation": "https://github.com/QwenLM/Qwen-Image",
        "modelspec.title": a.title, "modelspec.description": a.description, "modelspec.license": "Apache-2.0 OR MIT",
        CONFIG: json.dumps(configs, separators=(",", ":")),
        TOKENIZER: json.dumps(config(a.folder, "tokenizer/tokenizer.json"), separators=(",", ":"), ensure_ascii=False)}
    save_file({k: v.contiguous() for k, v in out.items()}, a.out + ".part", metadata=metadata)
    os.replace(a.out + ".part", a.out)
    print(f"{a.out}: {len(out)} tensors, {sum(t.numel() for t in out.values()) / 1e6:.2f} M values, {os.path.getsize(a.out) / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
