"""The same pictures by diffusers on torch's CPU and by this program, in turn, on two threads.

    pip install torch==2.15.0 diffusers==0.42.1 transformers==5.23.0 accelerate safetensors
    cargo build --release
    python benches/compare_diffusers.py FOLDER                              # whole commands, start-up included
    python benches/compare_diffusers.py --synthetic /tmp/wide --size 512    # two blocks of 3072: seconds per step, decode

FOLDER is any diffusers folder. `--synthetic` first makes one of random F32 weights (2 blocks of 3072, a text encoder
of one layer, the full VAE; 4 GB) unless it is there. Machines are noisy: the runs alternate and the ratio of medians is
what counts.
"""
import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
PROMPT = "a large red star above a small blue circle on a plain yellow background"

REFERENCE = """
import json, sys, time
import torch
torch.set_num_threads(2)
from diffusers import QwenImagePipeline
folder, size, steps, out = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
pipe = QwenImagePipeline.from_pretrained(folder, torch_dtype=torch.float32)
pipe.set_progress_bar_config(disable=True)
marks, decode = [], pipe.vae.decode
def step(p, i, t, values):
    marks.append(time.time())
    return values
def timed(*a, **k):
    began = time.time()
    value = decode(*a, **k)
    marks.append(time.time() - began)
    return value
pipe.vae.decode = timed
image = pipe(prompt=%r, height=size, width=size, num_inference_steps=steps, true_cfg_scale=1.0,
             generator=torch.Generator().manual_seed(0), callback_on_step_end=step).images[0]
image.save(out)
stops = marks[:-1]
print(json.dumps({"steps_s": [b - a for a, b in zip(stops, stops[1:])], "decode_s": marks[-1]}))
""" % PROMPT


def synthetic(folder):
    import torch
    from diffusers import AutoencoderKLQwenImage, FlowMatchEulerDiscreteScheduler, QwenImagePipeline, QwenImageTransformer2DModel
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration, Qwen2Tokenizer

    torch.manual_seed(0)
    text = dict(vocab_size=576, hidden_size=3584, num_hidden_layers=1, num_attention_heads=28, num_key_value_heads=4, intermediate_size=2048,
                rope_parameters=dict(rope_type="default", rope_theta=1e6, mrope_section=[16, 24, 24]))
    vision = dict(depth=1, hidden_size=64, num_heads=2, intermediate_size=64, fullatt_block_indexes=[0], out_hidden_size=3584)
    QwenImagePipeline(
        transformer=QwenImageTransformer2DModel(num_layers=2),
        text_encoder=Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig(text_config=text, vision_config=vision)),
        vae=AutoencoderKLQwenImage(),
        tokenizer=Qwen2Tokenizer.from_pretrained(ROOT / "models/tiny/tokenizer"),
        scheduler=FlowMatchEulerDiscreteScheduler(base_image_seq_len=256, base_shift=0.5, max_image_seq_len=8192, max_shift=0.9,
                                                  shift_terminal=0.02, use_dynamic_shifting=True),
    ).save_pretrained(folder)


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("folder", nargs="?")
    ap.add_argument("--synthetic", metavar="DIR")
    ap.add_argument("--size", type=int, default=64)
    ap.add_argument("--steps", type=int)
    ap.add_argument("--runs", type=int, default=5)
    a = ap.parse_args()
    folder = a.synthetic or a.folder or ap.error("name a FOLDER, or --synthetic DIR")
    steps = a.steps or (3 if a.synthetic else 8)
    if a.synthetic and not os.path.exists(os.path.join(folder, "model_index.json")):
        synthetic(folder)
    ours = [str(ROOT / "target/release/qwen-nvfp4"), "generate", PROMPT, "--model", folder, "--size", f"{a.size}x{a.size}",
            "--steps", str(steps), "--cfg", "1", "--threads", "2", "--json", "-o", os.path.join(folder, "ours.png")]
    theirs = [sys.executable, "-c", REFERENCE, folder, str(a.size), str(steps), os.path.join(folder, "theirs.png")]
    found = {"ours": [], "theirs": []}
    for _ in range(a.runs):
        for name, command in (("theirs", theirs), ("ours", ours)):
            began = time.time()
            out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            report = json.loads(out.strip().splitlines()[-1])
            report = report.get("timings", report)
            found[name].append((time.time() - began, statistics.median(report["steps_s"]), report["decode_s"]))
    for i, what in enumerate(("whole command", "step", "decode")):
        t, o = ([run[i] for run in found[name]] for name in ("theirs", "ours"))
        print(f"{what:14} diffusers {statistics.median(t):8.3f} s ({min(t):.3f} .. {max(t):.3f})   "
              f"qwen-nvfp4 {statistics.median(o):8.3f} s ({min(o):.3f} .. {max(o):.3f})   ratio {statistics.median(t) / statistics.median(o):.2f}")


if __name__ == "__main__":
    main()
