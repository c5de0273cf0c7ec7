"""Scores an all-in-one file: held-out prompts through diffusers' own pipeline, read back by score.py.

    python score_aio.py ../qwen-tiny-aio-fp8.safetensors --steps 8 --cfg 1 --seed 0
"""
import argparse
import json
import os
import time

import torch

import dataset as D
import score
from aio import load_pipeline


def main():
    here = os.path.dirname(os.path.abspath(__file__))
    ap = argparse.ArgumentParser()
    ap.add_argument("file")
    ap.add_argument("--tokenizer", default=os.path.join(here, "..", "tokenizer"))
    ap.add_argument("--n", type=int, default=100)
    ap.add_argument("--prompt-seed", type=int, default=4242, help="which held-out prompts; 4242 are those in held_out_prompts.txt")
    ap.add_argument("--seed", type=int, default=0, help="noise seed of the first picture; the others count up")
    ap.add_argument("--steps", type=int, default=8)
    ap.add_argument("--cfg", type=float, default=1.0)
    ap.add_argument("--threads", type=int, default=2)
    ap.add_argument("--sheet", help="contact sheet of the first 48 pictures")
    ap.add_argument("--json", help="one result per prompt")
    a = ap.parse_args()
    torch.set_num_threads(a.threads)

    pipe = load_pipeline(a.file, a.tokenizer)
    _, captions, specs = D.batch(a.n, 64, a.prompt_seed, train=False)
    start = time.time()
    imgs = score.generate(pipe, captions, a.steps, a.cfg, seed=a.seed)
    results, table = score.table(specs, imgs)
    print(f"{os.path.basename(a.file)}: {a.steps} steps, cfg {a.cfg:g}, seed {a.seed}, {a.n} prompts, {time.time() - start:.0f}s\n{table}")
    for text, spec, r, im in zip(captions, specs, results, imgs):
        if not r["all"]:
            got = "; ".join(f"{o['size']} {o['color']} {o['shape']} at ({o['cx']:.2f}, {o['cy']:.2f})" for o in score.read(im)["objs"])
            print(f"  wrong ({', '.join(k for k, v in r.items() if not v and k not in ('all', 'color+shape'))}): {text} -> {got}")
    if a.sheet:
        D.sheet(imgs[:48], a.sheet)
    if a.json:
        with open(a.json, "w") as f:
            json.dump([dict(caption=c, **{k: bool(v) for k, v in r.items()}) for c, r in zip(captions, results)], f, indent=0)


if __name__ == "__main__":
    main()
