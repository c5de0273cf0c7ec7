"""Decoder-only continuation of the VAE: the encoder stays, so the latent space (and the transformer trained on it) stays.

What it adds over train_vae.py: latents are cached once, crops are centred on objects, pixels near edges weigh more, the
latents carry a little noise (the transformer's latents are not exact either), both palettes are shown, and the saved
weights are an exponential average. Resumable: state.pt in the output folder holds everything, and a rerun continues it.
"""
import argparse
import math
import os
import random
import time

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKLQwenImage

import dataset as D
from optim import Muon
from train_vae import fast_single_frame, frames


def cache(vae, n, size, seed, train):
    """Pictures [n,3,s,s] u8, latent means and sigmas [n,16,s/8,s/8], and each picture's object centres and sizes."""
    out = [], [], [], []
    for k in range(0, n, 50):
        imgs, _, specs = D.batch(50, size, seed + k, train, palette=list(D.PALETTES)[k // 50 % len(D.PALETTES)])
        with torch.no_grad():
            mu, logvar = vae.quant_conv(vae.encoder(frames(imgs))).chunk(2, 1)
        out[0].append(torch.from_numpy(imgs).permute(0, 3, 1, 2))
        out[1].append(mu[:, :, 0])
        out[2].append(torch.exp(.5 * logvar)[:, :, 0])
        out[3].extend([(c, o[0]) for c, o in zip(D.places(s), s["objs"])] for s in specs)
    return torch.cat(out[0]), torch.cat(out[1]), torch.cat(out[2]), out[3]


def edge_weight(x, strength=3.0):
    """1 on flat ground, up to 1 + strength where the picture changes within a pixel."""
    hi, lo = F.max_pool2d(x, 3, 1, 1), -F.max_pool2d(-x, 3, 1, 1)
    return 1 + strength * ((hi - lo).amax(1, keepdim=True) / 0.5).clamp(max=1)


def crop_origin(objs, cells, rng):
    """Top left latent cell of a 4x4 crop around one object, small ones twice as often as large ones."""
    (cx, cy), _ = rng.choices(objs, [2 if s == "small" else 1 for _, s in objs])[0]
    place = lambda c: min(max(round(c * cells - 2 + rng.uniform(-1, 1)), 0), cells - 4)
    return place(cy), place(cx)


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--init", default="vae")
    ap.add_argument("--out", default="vae_final")
    ap.add_argument("--seconds", type=float, default=1200, help="training time, summed over resumed runs")
    ap.add_argument("--pictures", type=int, default=12000)
    ap.add_argument("--bs", type=int, default=16)
    ap.add_argument("--lr", type=float, default=7e-4)
    ap.add_argument("--mlr", type=float, default=0.02)
    ap.add_argument("--noise", type=float, default=0.05)
    ap.add_argument("--full", type=float, default=0.25, help="last share of the time on whole pictures")
    ap.add_argument("--ema", type=float, default=0.998)
    ap.add_argument("--threads", type=int, default=2)
    ap.add_argument("--size", type=int, default=64)
    a = ap.parse_args()
    torch.set_num_threads(a.threads)
    torch.manual_seed(3)
    rng = random.Random(3)
    os.makedirs(a.out, exist_ok=True)

    fast_single_frame(True)
    vae = AutoencoderKLQwenImage.from_pretrained(a.init, torch_dtype=torch.float32)
    vae.requires_grad_(False)
    named = [(n, p) for n, p in vae.named_parameters()
             if n.startswith(("decoder.", "post_quant_conv.")) and "time_conv" not in n]
    for _, p in named:
        p.requires_grad_(True)
    params = [p for _, p in named]
    big = [p for p in params if p.ndim >= 4 and p.shape[0] * p.shape[1] > 64 and min(p.shape[:2]) > 3]
    ids = {id(p) for p in big}
    adam = torch.optim.AdamW([p for p in params if id(p) not in ids], lr=a.lr, betas=(0.9, 0.99), weight_decay=0.0)
    muon = Muon(big, lr=a.mlr)
    average = [p.detach().clone() for p in params]

    start = time.time()
    pics, mu, sigma, where = cache(vae, a.pictures, a.size, 20_000_000, True)
    vpics, vmu, _, _ = cache(vae, 100, a.size, 999, False)
    print(f"cached {len(pics)} pictures, {time.time() - start:.0f}s", flush=True)
    decode = lambda z: vae.decoder(vae.post_quant_conv(z.unsqueeze(2)))[:, :, 0]
    scale = a.noise * mu.std()

    step, spent, state_path = 0, 0.0, os.path.join(a.out, "state.pt")
    if os.path.exists(state_path):
        s = torch.load(state_path, weights_only=False)
        for p, v in zip(params, s["params"]):
            p.data.copy_(v)
        average, step, spent = s["average"], s["step"], s["spent"]
        adam.load_state_dict(s["adam"])
        muon.load_state_dict(s["muon"])
        print(f"resumed at step {step}, {spent:.0f}s", flush=True)

    def swap():
        for p, e in zip(params, average):
            p.data, e.data = e.data, p.data

    def save():
        torch.save(dict(params=[p.data for p in params], average=average, step=step, spent=spent,
                        adam=adam.state_dict(), muon=muon.state_dict()), state_path + ".part")
        os.replace(state_path + ".part", state_path)
        swap()
        vae.save_pretrained(a.out)
        swap()

    last, last_save, began = time.time(), time.time(), spent
    while spent < a.seconds:
        done = spent / a.seconds
        k = min(1, (step + 1) / 50) * (0.5 + 0.5 * math.cos(math.pi * done)) + 0.005
        adam.param_groups[0]["lr"], muon.lr = a.lr * k, a.mlr * k
        crop = done < 1 - a.full
        rows = [rng.randrange(len(pics)) for _ in range(a.bs if crop else a.bs // 2)]
        z = mu[rows] + (sigma[rows] + scale) * torch.randn_like(mu[rows])
        x = pics[rows].float().div(127.5).sub(1)
        if crop:
            at = [crop_origin(where[r], mu.shape[-1], rng) for r in rows]
            z = torch.stack([v[:, i:i + 4, j:j + 4] for v, (i, j) in zip(z, at)])
            x = torch.stack([v[:, 8 * i:8 * i + 32, 8 * j:8 * j + 32] for v, (i, j) in zip(x, at)])
        w, d = edge_weight(x), decode(z) - x
        loss = (w * (d.abs() + d.square())).mean()
        adam.zero_grad(set_to_none=True)
        muon.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(params, 1.0)
        adam.step()
        muon.step()
        step += 1
        with torch.no_grad():
            torch._foreach_lerp_(average, params, 1 - min(a.ema, (1 + step) / (10 + step)))
        now = time.time()
        spent, last = spent + now - last, now
        if step % 200 == 0:
            swap()
            with torch.no_grad():
                err = (decode(vmu).clamp(-1, 1) - vpics.float().div(127.5).sub(1)).square().mean()
            swap()
            print(f"step {step} {spent:.0f}s loss {loss.item():.4f} psnr(average) {10 * math.log10(4 / err):.2f} k {k:.3f}", flush=True)
        if now - last_save > 120:
            save()
            last_save = now
    save()
    with torch.no_grad():
        swap()
        r = decode(vmu[:24]).clamp(-1, 1).add(1).mul(127.5).round().byte().permute(0, 2, 3, 1).numpy()
    v = vpics[:24].permute(0, 2, 3, 1).numpy()
    D.sheet([p for pair in zip(v, r) for p in pair], os.path.join(a.out, "sheet.png"))
    print("done", step, f"{spent:.0f}s")


if __name__ == "__main__":
    main()
