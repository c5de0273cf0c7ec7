"""Seconds per step of stable-diffusion.cpp and of this program, in turn, on two threads.

    CMAKE_ARGS="-DGGML_NATIVE=ON" pip install stable-diffusion-cpp-python==0.4.7 numpy
    cargo build --release
    python benches/compare_sdcpp.py DIR                     # two blocks of full width at 512x512
    python benches/compare_sdcpp.py DIR --same              # one picture by both: how far apart

DIR gets synthetic weights (benches/synthetic.py: `--blocks` blocks of 3072, a text encoder of one layer, the full VAE) in
F32, BF16 and FP8, and an NVFP4 file made of the last, unless they are there: 14 GB for two blocks. stable-diffusion.cpp
reads the F32 files and holds them as F32, F16 and Q8_0. Both read the same prompt in the same template, without guidance.
Loading, text encoding and decoding do not count. Machines are noisy: the runs alternate, and of each the fastest and the
median are told.
"""
import argparse
import json
import pathlib
import re
import statistics
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
OURS = ROOT / "target/release/qwen-nvfp4"
PROMPT = "a large red star above a small blue circle on a plain yellow background"
# What the template before the prompt has, and both programs drop from the embeddings.
DROPPED = 34
FILES = ("diffusion_model", "text_encoder", "vae")

# Prints the time of each step; where no picture is asked for, it ends with the last one, before decoding.
REFERENCE = """
import json, os, sys, time
from stable_diffusion_cpp import StableDiffusion
a = json.loads(sys.argv[1])
model = StableDiffusion(diffusion_model_path=a["files"][0], llm_path=a["files"][1], vae_path=a["files"][2], n_threads=a["threads"],
                        wtype=a["wtype"], diffusion_flash_attn=a["flash"], rng_type="cpu", vae_decode_only=True, verbose=True)
marks = []
def progress(step, steps, _):
    marks.append(time.perf_counter())
    if step == steps == a["steps"] and len(marks) == steps + 1:
        print("\\n" + json.dumps([b - a for a, b in zip(marks, marks[1:])]), flush=True)
        if not a["picture"]:
            os._exit(0)
image = model.generate_image(prompt=a["prompt"], width=a["size"], height=a["size"], cfg_scale=1.0, sample_method="euler",
                             sample_steps=a["steps"], sigmas=a["sigmas"], seed=0, progress_callback=progress)[0]
image.save(a["picture"])
"""


def prepare(folder, options):
    """The files, made where they are missing."""
    for dtype in ("f32", "bf16", "f8_e4m3"):
        if not all((folder / dtype / f"{file}.safetensors").exists() for file in FILES):
            subprocess.run([sys.executable, ROOT / "benches/synthetic.py", folder / dtype, "--separate", "--blocks", str(options.blocks),
                            "--text-layers", "1", "--no-vision", "--dtype", dtype], check=True)
    converted = folder / f"{options.policy}.safetensors"
    if not converted.exists():
        subprocess.run([OURS, "convert", folder / "f8_e4m3/diffusion_model.safetensors", "--policy", options.policy, "--assume-unscaled",
                        "-o", converted], check=True)
    return converted


def sdcpp(folder, wtype, options, picture=None):
    """(seconds of each step, text tokens) of stable-diffusion.cpp."""
    ask = dict(files=[str(folder / "f32" / f"{file}.safetensors") for file in FILES], wtype=wtype, flash=options.flash, prompt=PROMPT,
               size=options.size, steps=options.steps, threads=options.threads, sigmas=noise_levels(options.steps), picture=picture and str(picture))
    run = subprocess.run([sys.executable, "-c", REFERENCE, json.dumps(ask)], capture_output=True, text=True)
    log = run.stdout + run.stderr
    steps = re.findall(r"^\[[-0-9., e]+\]$", run.stdout, re.M)
    if run.returncode or not steps:
        sys.exit(f"stable-diffusion.cpp failed ({run.returncode}):\n{log[-3000:]}")
    words = [word for line in re.findall(r"to tokens \[(.*)\]", log) for word in re.findall(r'"(?:[^"]+)"', line)]
    return json.loads(steps[-1]), len(words) - DROPPED


def ours(transformer, encoder, options, picture):
    """Seconds of each step of this program."""
    command = [OURS, "generate", PROMPT, "--model", transformer, "--text-encoder", encoder / "text_encoder.safetensors", "--vae",
               encoder / "vae.safetensors", "--size", f"{options.size}x{options.size}", "--cfg", "1", "--sampler", "euler", "--template",
               "t2i", "--sigmas", noise_levels(options.steps), "--threads", str(options.threads), "--json", "-o", picture]
    run = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(run.stdout)["timings"]["steps_s"]


def noise_levels(steps):
    return ",".join(str(1 - i / steps) for i in range(steps)) + ",0.0"


def same(folder, options):
    """One picture by both, in F32, from the same noise over the same noise levels."""
    import numpy as np
    from PIL import Image

    theirs_png, ours_png = folder / "theirs.png", folder / "ours.png"
    _, tokens = sdcpp(folder, "f32", options, theirs_png)
    ours(folder / "f32/diffusion_model.safetensors", folder / "f32", options, ours_png)
    a, b = (np.asarray(Image.open(path).convert("RGB"), dtype=np.float64) for path in (theirs_png, ours_png))
    print(f"{tokens} text tokens there; of the pictures' channels {np.mean(abs(a - b) > 1):.3%} differ by more than 1/255, the largest by "
          f"{abs(a - b).max():.0f}; the mean difference is {abs(a - b).mean():.3f}, their standard deviation {b.std():.1f}, "
          f"their correlation {np.corrcoef(a.ravel(), b.ravel())[0, 1]:.6f}")


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("folder", type=pathlib.Path)
    ap.add_argument("--blocks", type=int, default=2)
    ap.add_argument("--policy", default="v3", help="of the converted file (v3)")
    ap.add_argument("--size", type=int, default=512)
    ap.add_argument("--steps", type=int, default=3)
    ap.add_argument("--runs", type=int, default=3)
    ap.add_argument("--threads", type=int, default=2)
    ap.add_argument("--flash", action="store_true", help="stable-diffusion.cpp with its flash attention")
    ap.add_argument("--only", metavar="A,B", help="such cases alone, by the names in the table")
    ap.add_argument("--same", action="store_true", help="compare a picture, not times")
    options = ap.parse_args()
    converted = prepare(options.folder, options)
    if options.same:
        return same(options.folder, options)

    own = {"f32": options.folder / "f32", "bf16": options.folder / "bf16", "fp8": options.folder / "f8_e4m3"}
    cases = {f"sd.cpp {wtype}": lambda wtype=wtype: sdcpp(options.folder, wtype, options)[0] for wtype in ("f32", "f16", "q8_0")}
    picture = options.folder / "ours.png"
    for name, files in own.items():
        cases[f"ours {name}"] = lambda files=files: ours(files / "diffusion_model.safetensors", files, options, picture)
    cases[f"ours {options.policy}"] = lambda: ours(converted, own["fp8"], options, picture)
    if options.only:
        cases = {name: cases[name] for name in options.only.split(",")}
    found = {name: [] for name in cases}
    for _ in range(options.runs):
        for name, run in cases.items():
            found[name].append(statistics.mean(run()))
            print(f"{name:16} {found[name][-1]:8.3f} s", file=sys.stderr, flush=True)
    print(f"seconds per step, {options.blocks} blocks, {options.size}x{options.size}, {options.threads} threads, mean of {options.steps} steps")
    for name, seconds in found.items():
        print(f"{name:16} fastest {min(seconds):8.3f}   median {statistics.median(seconds):8.3f}   slowest {max(seconds):8.3f}")


if __name__ == "__main__":
    main()
