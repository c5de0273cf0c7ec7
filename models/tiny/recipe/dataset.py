"""Procedural scenes with compositional captions.

A scene is one or two objects (size, colour, shape) at named places on a background (style, colour). Every shape is a
signed distance function, so a picture is exact at any size and its caption is true by construction. 5 % of all captions
(chosen by a checksum of the text) are held out: they are never trained on and are what the scores are measured with.
"""
import argparse
import random
import zlib

import numpy as np

SHAPES = ["circle", "square", "triangle", "star", "diamond", "cross", "ring", "heart"]

# Object colours. "base" is what the base model learns; "jewel" is the second palette that the LoRA teaches:
# deeper tones, each still nearest to the same name in "base", so that one reader scores both models.
PALETTES = {
    "base": {
        "red": (220, 30, 35), "orange": (250, 130, 10), "yellow": (250, 220, 20), "green": (20, 150, 50),
        "blue": (30, 70, 220), "purple": (140, 40, 170), "white": (250, 250, 250), "black": (15, 15, 18)},
    "jewel": {
        "red": (200, 15, 70), "orange": (250, 105, 40), "yellow": (235, 195, 0), "green": (0, 125, 85),
        "blue": (15, 45, 165), "purple": (110, 20, 140), "white": (250, 242, 225), "black": (38, 22, 42)}}
COLORS = PALETTES["base"]

# Backgrounds are pastel: (main, second); the second colour serves stripes and gradients.
BACKS = {
    "pink": ((250, 190, 200), (225, 150, 165)), "yellow": ((250, 240, 170), (225, 210, 125)),
    "green": ((180, 225, 180), (140, 195, 145)), "blue": ((175, 205, 245), (135, 170, 220)),
    "purple": ((215, 190, 235), (180, 150, 205)), "gray": ((185, 185, 185), (145, 145, 145)),
    "brown": ((190, 155, 120), (155, 120, 85)), "cyan": ((165, 230, 230), (120, 195, 195))}
STYLES = ["plain", "striped", "gradient"]
SIZES = {"small": 0.165, "large": 0.235}  # radius / image side

ONE_POS = {  # centre (x, y) of a single object
    "in the center": (.5, .5), "on the left": (.27, .5), "on the right": (.73, .5),
    "at the top": (.5, .27), "at the bottom": (.5, .73)}
REL = {  # centres of the first and the second object
    "above": ((.5, .24), (.5, .76)), "below": ((.5, .76), (.5, .24)),
    "left of": ((.24, .5), (.76, .5)), "right of": ((.76, .5), (.24, .5))}
JITTER = 0.02


def sdf(shape, u, v):
    """Signed distance (approximate, < 0 inside) in units of the radius; u points right, v down."""
    au, av = np.abs(u), np.abs(v)
    if shape == "circle":
        return np.hypot(u, v) - 0.95
    if shape == "square":
        return np.maximum(au, av) - 0.82
    if shape == "diamond":
        return (au + av - 1.1) / 1.2
    if shape == "cross":
        return np.minimum(np.maximum(au - 0.32, av - 1.0), np.maximum(au - 1.0, av - 0.32))
    if shape == "ring":
        return np.abs(np.hypot(u, v) - 0.72) - 0.26
    if shape == "triangle":
        return np.maximum(au * 0.866 - v * 0.5 - 0.5, v - 0.75)
    if shape == "star":
        w = 2 * np.pi / 5
        a, r = np.arctan2(u, -v), np.hypot(u, v)
        a = np.abs((a + w / 2) % w - w / 2)  # fold onto one half point
        x, y = r * np.cos(a), r * np.sin(a)
        tx, ty = 1.12, 0.0  # tip
        ex, ey = 0.48 * np.cos(w / 2) - tx, 0.48 * np.sin(w / 2) - ty  # tip to notch
        return ((y - ty) * -ex + (x - tx) * ey) / np.hypot(ex, ey)
    if shape == "heart":
        x, y = au, -v
        lobe = np.hypot(x - 0.48, y - 0.38) - 0.52
        tip = np.maximum(x * 0.78 - y * 0.62 - 0.62, np.maximum(y - 0.42, x - 0.98))
        return np.minimum(lobe, tip)
    raise KeyError(shape)


def sample_spec(rng, one):
    n = 1 if rng.random() < one else 2
    objs = [(rng.choice(list(SIZES)), rng.choice(list(COLORS)), rng.choice(SHAPES)) for _ in range(n)]
    back = (rng.choice(STYLES), rng.choice(list(BACKS)))
    place = rng.choice(list(ONE_POS)) if n == 1 else rng.choice(list(REL))
    return dict(objs=objs, back=back, place=place)


def caption(spec):
    objs = ["a %s %s %s" % o for o in spec["objs"]]
    back = "on a %s %s background" % spec["back"]
    if len(objs) == 1:
        return f"{objs[0]} {spec['place']} {back}"
    return f"{objs[0]} {spec['place']} {objs[1]} {back}"


def held_out(text):
    return zlib.crc32(text.encode()) % 20 == 0


def places(spec):
    """Nominal centres of the scene's objects, in the order of the caption."""
    return [ONE_POS[spec["place"]]] if len(spec["objs"]) == 1 else list(REL[spec["place"]])


def render(spec, size, rng, palette="base"):
    """Anti-aliased picture [size, size, 3] u8; `rng` moves each object by up to JITTER."""
    y, x = (np.mgrid[0:size, 0:size] + 0.5) / size
    main, second = (np.array(c, np.float32) for c in BACKS[spec["back"][1]])
    t = {"plain": np.zeros_like(x), "striped": np.floor(x * 8) % 2, "gradient": y}[spec["back"][0]][..., None]
    img = main * (1 - t) + second * t
    for (size_name, color, shape), (cx, cy) in zip(spec["objs"], places(spec)):
        r = SIZES[size_name]
        cx += rng.uniform(-JITTER, JITTER)
        cy += rng.uniform(-JITTER, JITTER)
        a = np.clip(0.5 - sdf(shape, (x - cx) / r, (y - cy) / r) * r * size, 0, 1)[..., None]
        img = img * (1 - a) + np.array(PALETTES[palette][color], np.float32) * a
    return np.clip(img, 0, 255).astype(np.uint8)


def batch(n, size, seed, train=True, palette="base", one=0.3):
    """`n` scenes of the training (or held-out, then all different) captions: pictures, captions, specs. Same seed, same scenes.

    `one` is the share of scenes with a single object."""
    rng = random.Random(seed)
    imgs, caps, specs = [], [], []
    while len(imgs) < n:
        spec = sample_spec(rng, one)
        text = caption(spec)
        if held_out(text) == train or not train and text in caps:
            continue
        imgs.append(render(spec, size, rng, palette))
        caps.append(text)
        specs.append(spec)
    return np.stack(imgs), caps, specs


def sheet(imgs, path, cols=8, scale=2):
    """Contact sheet of equal pictures."""
    from PIL import Image
    h, w = imgs[0].shape[:2]
    out = np.full((-(-len(imgs) // cols) * (h + 2), cols * (w + 2), 3), 255, np.uint8)
    for i, im in enumerate(imgs):
        r, c = divmod(i, cols)
        out[r * (h + 2):r * (h + 2) + h, c * (w + 2):c * (w + 2) + w] = im
    Image.fromarray(out).resize((out.shape[1] * scale, out.shape[0] * scale), 0).save(path)


if __name__ == "__main__":
    ap = argparse.ArgumentParser(description="Draw a contact sheet, or list held-out captions.")
    ap.add_argument("--palette", default="base", choices=list(PALETTES))
    ap.add_argument("--held-out", type=int, default=0, help="print this many held-out captions and stop")
    ap.add_argument("--seed", type=int, default=4242)
    a = ap.parse_args()
    if a.held_out:
        print("\n".join(batch(a.held_out, 8, a.seed, train=False)[1]))
    else:
        pictures, captions, _ = batch(48, 64, a.seed, palette=a.palette)
        sheet(pictures, f"sheet_{a.palette}.png")
        print("\n".join(captions[:8]))
