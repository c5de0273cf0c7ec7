"""A Qwen-Image checkpoint of random weights with the published names and shapes, as ComfyUI stores it.

    pip install numpy
    python benches/synthetic.py /tmp/full.safetensors                                  # 28.4 GB: 60 blocks in FP8
    python benches/synthetic.py /tmp/shallow.safetensors --blocks 2 --text-layers 2
    python benches/synthetic.py /tmp/shallow --separate --blocks 2 --text-layers 1 --no-vision --dtype f32

The first two write an all-in-one file; `--separate` writes a folder of diffusion_model, text_encoder and vae
.safetensors. Names and shapes are those of tests/fixtures/full_size. Weights are normal with a standard deviation of
1/sqrt(fan-in), norms are 1 and biases 0, so that a forward pass stays finite; the picture means nothing. With FP8 the
VAE is BF16, as in the files people have. The same options give the same bytes; memory does not grow with the size.
"""
import argparse
import functools
import gzip
import json
import math
import pathlib
import re

import numpy as np

FIXTURE = pathlib.Path(__file__).resolve().parent.parent / "tests/fixtures/full_size/full_size.tsv.gz"
BITS = {"F8_E4M3": 8, "BF16": 16, "F32": 32}
STORED = {"f8_e4m3": "F8_E4M3", "bf16": "BF16", "f32": "F32"}
# Numbers drawn; longer tensors repeat them. A prime, so that no two rows of a matrix are the same.
BANK = (1 << 22) - 3
PREFIXES = {"transformer": "model.diffusion_model.", "text_encoder": "text_encoders.qwen25_7b.transformer.", "vae": "vae."}
FILES = {"transformer": "diffusion_model", "text_encoder": "text_encoder", "vae": "vae"}


def e4m3(x):
    """F32 to the nearest E4M3 codes."""
    code = np.arange(127)
    exponent, mantissa = code >> 3, code & 7
    magnitudes = np.where(exponent == 0, mantissa * 2.0**-9, (8 + mantissa) * 2.0 ** (exponent - 10.0))
    between = ((magnitudes[1:] + magnitudes[:-1]) / 2).astype(np.float32)
    return np.searchsorted(between, np.abs(x)).astype(np.uint8) | (np.signbit(x).astype(np.uint8) << 7)


def encode(x, dtype):
    """F32 to the bytes of a stored type."""
    x = np.ascontiguousarray(x, dtype=np.float32)
    if dtype == "F8_E4M3":
        return e4m3(x)
    if dtype == "F32":
        return x.view(np.uint8)
    bits = x.view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16).view(np.uint8)


class Numbers:
    """The bytes of tensors, a piece at a time."""

    def __init__(self, seed):
        self.random = np.random.default_rng(seed)
        self.bank = self.random.standard_normal(BANK, dtype=np.float32)
        self.normal = functools.lru_cache(maxsize=4)(lambda std, dtype: encode(self.bank * np.float32(std), dtype))

    def pieces(self, name, dtype, shape):
        """`dtype` numbers of one tensor."""
        width, count = BITS[dtype] // 8, math.prod(shape)
        if name.endswith("logit_scale"):
            yield encode([math.log(100)], dtype)
        elif name.endswith(".bias"):
            yield bytes(count * width)
        elif len(shape) == 1 or name.endswith(".gamma"):
            yield encode(np.ones(count), dtype)
        else:
            bank = self.normal(1 / math.sqrt(math.prod(shape[1:])), dtype)
            start, left = int(self.random.integers(BANK)) * width, count * width
            while left:
                piece = bank[start : start + left]
                yield piece
                left, start = left - len(piece), 0


def tensors(options):
    """(component, stored name, dtype, shape) of every tensor, in the order of the file."""
    listed = [line.split("\t") for line in gzip.open(FIXTURE, "rt").read().splitlines()]
    deepest = {"transformer": options.blocks, "text_encoder": options.text_layers}
    kept = []
    for component, stored, canonical, shape in sorted(listed, key=lambda line: (line[0] != "vae", line[1])):
        layer = re.match(r"(?:transformer_blocks|model\.layers)\.(\d+)\.", canonical)
        if layer and int(layer[1]) >= deepest[component]:
            continue
        if options.no_vision and canonical.startswith("visual."):
            continue
        dtype = STORED[options.dtype]
        if component == "vae" and dtype == "F8_E4M3":
            dtype = "BF16"
        kept.append((component, stored, dtype, json.loads(shape)))
    return kept


def write(path, listed, numbers):
    """One safetensors file of (name, dtype, shape)."""
    header, end = {}, 0
    for name, dtype, shape in listed:
        size = math.prod(shape) * BITS[dtype] // 8
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [end, end + size]}
        end += size
    packed = json.dumps(header, separators=(",", ":")).encode()
    packed += b" " * (-len(packed) % 8)
    with open(path, "wb") as f:
        f.write(len(packed).to_bytes(8, "little") + packed)
        for name, dtype, shape in listed:
            for piece in numbers.pieces(name, dtype, shape):
                f.write(piece)
    print(f"{path}: {len(listed)} tensors, {end + 8 + len(packed)} bytes")


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("out", type=pathlib.Path)
    ap.add_argument("--blocks", type=int, default=60, help="of the transformer (60)")
    ap.add_argument("--text-layers", type=int, default=28, help="of the text encoder (28)")
    ap.add_argument("--dtype", choices=STORED, default="f8_e4m3")
    ap.add_argument("--seed", type=int, default=0)
    ap.add_argument("--no-vision", action="store_true", help="leave out the text encoder's vision tower")
    ap.add_argument("--separate", action="store_true", help="OUT is a folder: three files without ComfyUI's prefixes")
    options = ap.parse_args()
    listed, numbers = tensors(options), Numbers(options.seed)
    if options.separate:
        options.out.mkdir(parents=True, exist_ok=True)
        for component, file in FILES.items():
            own = [(n.removeprefix(PREFIXES[c]), d, s) for c, n, d, s in listed if c == component]
            write(options.out / f"{file}.safetensors", own, numbers)
    else:
        write(options.out, [("text_encoders.qwen25_7b.logit_scale", "F32", [])] + [t[1:] for t in listed], numbers)


if __name__ == "__main__":
    main()
