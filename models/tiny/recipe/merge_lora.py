"""Folds a LoRA into a pipeline folder's transformer: W + scale * B A, in F32."""
import argparse
import os
import shutil

import torch
from safetensors.torch import load_file, save_file


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("base", help="pipeline folder")
    ap.add_argument("lora", help="file of train_lora.py")
    ap.add_argument("out", help="pipeline folder to write")
    ap.add_argument("--scale", type=float, default=1.0)
    a = ap.parse_args()
    shutil.copytree(a.base, a.out, dirs_exist_ok=True, ignore=shutil.ignore_patterns("state.pt"))
    path = os.path.join(a.out, "transformer/diffusion_pytorch_model.safetensors")
    weights, lora = load_file(path), load_file(a.lora)
    for key in [k for k in lora if k.endswith(".lora_A.weight")]:
        name = key.removesuffix(".lora_A.weight")
        delta = lora[name + ".lora_B.weight"].float() @ lora[key].float()
        weights[name + ".weight"] = weights[name + ".weight"].float() + a.scale * delta
    save_file({k: v.float().contiguous() for k, v in weights.items()}, path, metadata={"format": "pt"})
    print(f"merged {len(lora) // 2} adapters into {a.out}")


if __name__ == "__main__":
    main()
