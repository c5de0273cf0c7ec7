"""Reads a picture back (objects: colour, shape, size, place; background) without looking at its caption, then compares.

A prompt counts only if everything is right: number of objects, each one's colour, shape and size, its place and with it
the order of the two, and the background's colour and style.

    python score.py --self [--palette jewel]      check the reader on drawn scenes: must print 100
    python score.py --vae VAE_DIR                 ceiling: drawn scenes through the VAE
    python score.py PIPELINE_DIR --steps 8        pictures of a diffusers folder
"""
import argparse
import math
import time

import numpy as np

import dataset as D

COLOR_NAMES, COLOR_RGB = list(D.COLORS), np.array(list(D.COLORS.values()), np.float32)
BACK_NAMES = list(D.BACKS)
BACK_MAIN = np.array([D.BACKS[b][0] for b in BACK_NAMES], np.float32)
BACK_SECOND = np.array([D.BACKS[b][1] for b in BACK_NAMES], np.float32)

SIZE_SPLIT = 0.20      # radius between small and large
MIN_AREA = 0.006       # of the picture; smaller specks are not objects
ELONGATED = 1.55       # a component longer than this is two objects that touch
MIN_IOU = 0.6          # the fitted shape must cover the object at least so well
NEAR = 0.17            # an object counts for a place within this distance


def distance_to_segment(px, a, b):
    """Distance of colours [..., 3] to the segment a-b."""
    ab = b - a
    t = np.clip(((px - a) @ ab) / (ab @ ab), 0, 1)[..., None]
    return np.linalg.norm(px - (a + t * ab), axis=-1)


def components(mask):
    """4-connected components as arrays of (row, column)."""
    h, w = mask.shape
    seen, out = np.zeros((h, w), bool), []
    for y, x in zip(*np.nonzero(mask)):
        if seen[y, x]:
            continue
        seen[y, x] = True
        stack, points = [(y, x)], []
        while stack:
            i, j = stack.pop()
            points.append((i, j))
            for a, b in ((i + 1, j), (i - 1, j), (i, j + 1), (i, j - 1)):
                if 0 <= a < h and 0 <= b < w and mask[a, b] and not seen[a, b]:
                    seen[a, b] = True
                    stack.append((a, b))
        out.append(np.array(points))
    return out


def unit_extent(shape):
    """Bounding box (left, right, top, bottom) of the shape with radius 1."""
    v, u = np.mgrid[-1.3:1.3:261j, -1.3:1.3:261j]
    m = D.sdf(shape, u, v) < 0
    return u[m].min(), u[m].max(), v[m].min(), v[m].max()


EXTENT = {s: unit_extent(s) for s in D.SHAPES}


def fit_shape(mask):
    """Best (overlap, shape, radius / width) over all shapes, three radii and nine offsets."""
    h, w = mask.shape
    ys, xs = np.nonzero(mask)
    x0, x1, y0, y1 = xs.min(), xs.max() + 1, ys.min(), ys.max() + 1
    y, x = np.mgrid[0:h, 0:w] + 0.5
    best = (-1, None, 0)
    for s, e in EXTENT.items():
        r0 = ((x1 - x0) / (e[1] - e[0]) + (y1 - y0) / (e[3] - e[2])) / 2
        for r in (r0 * .92, r0, r0 * 1.08):
            cx, cy = (x0 + x1) / 2 - r * (e[0] + e[1]) / 2, (y0 + y1) / 2 - r * (e[2] + e[3]) / 2
            for dx in (-.7, 0, .7):
                for dy in (-.7, 0, .7):
                    t = D.sdf(s, (x - cx - dx) / r, (y - cy - dy) / r) < 0
                    iou = (t & mask).sum() / max(1, (t | mask).sum())
                    if iou > best[0]:
                        best = (iou, s, r / w)
    return best


def split_touching(points):
    """One component -> one or two objects."""
    for axis in (0, 1):
        length, other = np.ptp(points[:, axis]) + 1, np.ptp(points[:, 1 - axis]) + 1
        if length > ELONGATED * other:
            middle = points[:, axis].min() + length / 2
            return [points[points[:, axis] < middle], points[points[:, axis] >= middle]]
    return [points]


def read(img):
    """Picture u8 [h, w, 3] -> {objs: [{color, shape, size, cx, cy, iou}], back, style}."""
    px = img.astype(np.float32)
    h, w = px.shape[:2]
    to_back = np.stack([distance_to_segment(px, BACK_MAIN[k], BACK_SECOND[k]) for k in range(len(BACK_NAMES))])
    frame, e = np.ones((h, w), bool), max(2, h // 24)
    frame[e:-e, e:-e] = False
    back = int(np.median(to_back[:, frame], axis=1).argmin())
    to_object = np.linalg.norm(px[None] - COLOR_RGB[:, None, None], axis=-1).min(0)
    mask = to_object < to_back[back]
    objs = []
    for points in components(mask):
        if len(points) < MIN_AREA * h * w:
            continue
        for p in split_touching(points):
            if len(p) < MIN_AREA * h * w:
                continue
            m = np.zeros((h, w), bool)
            m[p[:, 0], p[:, 1]] = True
            inner = m.copy()
            inner[1:-1, 1:-1] &= m[:-2, 1:-1] & m[2:, 1:-1] & m[1:-1, :-2] & m[1:-1, 2:]
            color = np.median(px[inner if inner.sum() >= 6 else m], axis=0)
            iou, shape, r = fit_shape(m)
            objs.append(dict(
                color=COLOR_NAMES[int(np.linalg.norm(COLOR_RGB - color, axis=1).argmin())], rgb=color.tolist(), shape=shape, iou=iou,
                size="small" if r < SIZE_SPLIT else "large",
                cx=(p[:, 1].min() + p[:, 1].max() + 1) / 2 / w, cy=(p[:, 0].min() + p[:, 0].max() + 1) / 2 / h))
    x, y = (np.arange(w) + .5) / w, (np.arange(h) + .5) / h
    ramps = {"plain": np.zeros((h, w)), "striped": np.broadcast_to(np.floor(x * 8) % 2, (h, w)),
             "gradient": np.broadcast_to(y[:, None], (h, w))}
    expected = lambda t: BACK_MAIN[back] * (1 - t[..., None]) + BACK_SECOND[back] * t[..., None]
    style = min(ramps, key=lambda s: np.abs(px - expected(ramps[s]))[~mask].mean())
    return dict(objs=objs, back=BACK_NAMES[back], style=style)


def compare(spec, got):
    want, objs = spec["objs"], got["objs"]
    res = dict(count=len(objs) == len(want), back=got["back"] == spec["back"][1], style=got["style"] == spec["back"][0])
    found = []
    for cx, cy in D.places(spec):  # the object nearest to each wanted place
        d = [(math.hypot(o["cx"] - cx, o["cy"] - cy), i) for i, o in enumerate(objs)]
        found.append(objs[min(d)[1]] if d and min(d)[0] < NEAR else None)
    res["place"] = all(o is not None for o in found)
    res["color"] = all(o and o["color"] == w[1] for o, w in zip(found, want))
    res["shape"] = all(o and o["shape"] == w[2] and o["iou"] > MIN_IOU for o, w in zip(found, want))
    res["size"] = all(o and o["size"] == w[0] for o, w in zip(found, want))
    res["color+shape"] = res["color"] and res["shape"]
    res["all"] = all(res.values())
    return res


def table(specs, imgs):
    """Results per picture, and three lines of percentages."""
    results = [compare(s, read(i)) for s, i in zip(specs, imgs)]
    def line(name, rows):
        share = {k: round(100 * float(np.mean([r[k] for r in rows])), 1) for k in rows[0]} if rows else {}
        return f"{name} ({len(rows)}): " + ", ".join(f"{k} {v:g}" for k, v in share.items())
    pick = lambda n: [r for r, s in zip(results, specs) if len(s["objs"]) == n]
    return results, "\n".join([line("all", results), line("one object", pick(1)), line("two objects", pick(2))])


def generate(pipe, captions, steps, cfg=1.0, size=64, bs=50, seed=0, negative=" "):
    """u8 pictures; picture i uses its own generator, seeded with seed + i."""
    import torch
    out = []
    for k in range(0, len(captions), bs):
        c = captions[k:k + bs]
        images = pipe(prompt=c, negative_prompt=[negative] * len(c) if cfg > 1 else None, true_cfg_scale=cfg, height=size, width=size,
                      num_inference_steps=steps, generator=[torch.Generator().manual_seed(seed + k + i) for i in range(len(c))], output_type="np").images
        out += [(v * 255).round().astype(np.uint8) for v in images]
    return out


def through_vae(folder, imgs):
    import torch
    from diffusers import AutoencoderKLQwenImage
    from train_vae import fast_single_frame, frames, pictures
    fast_single_frame(True)
    vae = AutoencoderKLQwenImage.from_pretrained(folder, torch_dtype=torch.float32)
    with torch.no_grad():
        mu, _ = vae.quant_conv(vae.encoder(frames(imgs))).chunk(2, 1)
        return pictures(vae.decoder(vae.post_quant_conv(mu)).clamp(-1, 1))


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("folder", nargs="?")
    ap.add_argument("--self", action="store_true")
    ap.add_argument("--vae")
    ap.add_argument("--palette", default="base", choices=list(D.PALETTES))
    ap.add_argument("--n", type=int, default=100)
    ap.add_argument("--prompt-seed", type=int, default=4242)
    ap.add_argument("--seed", type=int, default=0)
    ap.add_argument("--steps", type=int, default=8)
    ap.add_argument("--cfg", type=float, default=1.0)
    ap.add_argument("--sheet")
    a = ap.parse_args()
    imgs, captions, specs = D.batch(a.n, 64, a.prompt_seed, train=False, palette=a.palette)
    start = time.time()
    if a.vae:
        drawn, imgs = imgs, through_vae(a.vae, imgs)
        print(f"psnr {10 * np.log10(255 ** 2 / np.square(imgs.astype(float) - drawn).mean()):.2f}")
    elif not a.self:
        from diffusers import QwenImagePipeline
        pipe = QwenImagePipeline.from_pretrained(a.folder)
        pipe.set_progress_bar_config(disable=True)
        imgs = generate(pipe, captions, a.steps, a.cfg, seed=a.seed)
    results, text = table(specs, imgs)
    print(f"{time.time() - start:.0f}s\n{text}")
    if a.vae or a.self:
        wrong = [o[2] + " " + o[0] for r, s in zip(results, specs) if not r["shape"] for o in s["objs"]]
        print("objects in pictures with a wrong shape:", {w: wrong.count(w) for w in sorted(set(wrong))})
    if a.sheet:
        D.sheet(imgs[:48], a.sheet)


if __name__ == "__main__":
    main()
