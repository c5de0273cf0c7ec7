"""Tiny AutoencoderKLQwenImage, trained from random weights on single frames.

The saved model is diffusers' own class. During training two functions are replaced by equal, faster ones: a causal
convolution on one frame sees two zero frames in front, so only the last temporal slice of its kernel acts.
Resumable: state.pt in the output folder.
"""
import argparse
import math
import os
import time

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKLQwenImage
from diffusers.models.autoencoders import autoencoder_kl_qwenimage as M

import dataset as D
from optim import Muon

ORIGINAL = M.QwenImageCausalConv3d.forward, M.QwenImageRMS_norm.forward


def conv_one_frame(self, x, cache_x=None):
    assert x.shape[2] == 1 and cache_x is None
    p = self._padding
    return F.conv2d(x[:, :, 0], self.weight[:, :, -1], self.bias, stride=self.stride[1:], padding=(p[2], p[0])).unsqueeze(2)


def norm_one_pass(self, x):
    return x * (torch.rsqrt(x.square().sum(1, keepdim=True).clamp_min(1e-24)) * self.scale) * self.gamma


def fast_single_frame(on):
    M.QwenImageCausalConv3d.forward, M.QwenImageRMS_norm.forward = (conv_one_frame, norm_one_pass) if on else ORIGINAL


def frames(imgs):
    """u8 [n,h,w,3] -> f32 [n,3,1,h,w] in -1..1."""
    return torch.from_numpy(imgs).permute(0, 3, 1, 2).float().div(127.5).sub(1).unsqueeze(2)


def pictures(x):
    """f32 [n,3,1,h,w] -> u8 [n,h,w,3]."""
    return ((x[:, :, 0].permute(0, 2, 3, 1) + 1) * 127.5).round().clamp(0, 255).byte().numpy()


def build(base):
    vae = AutoencoderKLQwenImage(base_dim=base, z_dim=16, dim_mult=[1, 2, 4, 4], num_res_blocks=1,
                                 temperal_downsample=[False, True, True])
    with torch.no_grad():
        for m in vae.modules():
            if isinstance(m, M.QwenImageCausalConv3d) and m.kernel_size[0] == 3:
                m.weight.mul_(math.sqrt(3))  # the default counts 27 taps as fan-in, 9 act
                m.weight[:, :, :2].zero_()
        vae.quant_conv.bias[16:] -= 4.0  # start with little posterior noise (sigma 0.14)
    return vae


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--base", type=int, default=16)
    ap.add_argument("--size", type=int, default=64)
    ap.add_argument("--bs", type=int, default=8)
    ap.add_argument("--seconds", type=float, default=960, help="training time, summed over resumed runs")
    ap.add_argument("--lr", type=float, default=1e-3)
    ap.add_argument("--mlr", type=float, default=0.03)
    ap.add_argument("--kl", type=float, default=1e-4)
    ap.add_argument("--threads", type=int, default=2)
    ap.add_argument("--out", default="vae")
    a = ap.parse_args()
    torch.set_num_threads(a.threads)
    torch.manual_seed(0)
    np.random.seed(0)
    os.makedirs(a.out, exist_ok=True)

    fast_single_frame(True)
    vae = build(a.base)
    named = [(n, p) for n, p in vae.named_parameters() if "time_conv" not in n]
    big = [p for _, p in named if p.ndim >= 4 and p.shape[0] * p.shape[1] > 64 and min(p.shape[:2]) > 3]
    ids = {id(p) for p in big}
    adam = torch.optim.AdamW([p for _, p in named if id(p) not in ids], lr=a.lr, betas=(0.9, 0.99), weight_decay=0.0)
    muon = Muon(big, lr=a.mlr)
    encode = lambda x: vae.quant_conv(vae.encoder(x)).chunk(2, 1)
    decode = lambda z: vae.decoder(vae.post_quant_conv(z))
    val = frames(D.batch(64, a.size, 999, train=False)[0])

    step, spent, state_path = 0, 0.0, os.path.join(a.out, "state.pt")
    if os.path.exists(state_path):
        s = torch.load(state_path, weights_only=False)
        vae.load_state_dict(s["vae"])
        adam.load_state_dict(s["adam"])
        muon.load_state_dict(s["muon"])
        step, spent = s["step"], s["spent"]
        print(f"resumed at step {step}, {spent:.0f}s", flush=True)

    last, last_save = time.time(), time.time()
    while spent < a.seconds:
        done = spent / a.seconds
        k = min(1, (step + 1) / 50) * (0.5 + 0.5 * math.cos(math.pi * done)) + 0.01
        adam.param_groups[0]["lr"], muon.lr = a.lr * k, a.mlr * k
        x = frames(D.batch(a.bs, a.size, 10_000 + step)[0])
        if done < 0.75:  # random half-size crops: norms are per pixel, so it carries over, and steps are 4x cheaper
            h = a.size // 2
            at = np.random.randint(0, h + 1, (a.bs, 2))
            x = torch.stack([x[n, :, :, i:i + h, j:j + h] for n, (i, j) in enumerate(at)])
        mu, logvar = encode(x)
        logvar = logvar.clamp(-30, 20)
        d = decode(mu + torch.exp(.5 * logvar) * torch.randn_like(mu)) - x
        kl = 0.5 * (mu.square() + logvar.exp() - 1 - logvar).mean()
        loss = d.abs().mean() + d.square().mean() + a.kl * min(1, step / 200) * kl
        adam.zero_grad(set_to_none=True)
        muon.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        adam.step()
        muon.step()
        step += 1
        now = time.time()
        spent, last = spent + now - last, now
        if step % 200 == 0:
            with torch.no_grad():
                mu, logvar = encode(val)
                mse = (decode(mu).clamp(-1, 1) - val).square().mean()
            print(f"step {step} {spent:.0f}s loss {loss.item():.4f} kl {kl.item():.2f} psnr {10 * math.log10(4 / mse):.2f} "
                  f"sigma {logvar.mul(.5).exp().mean():.3f}", flush=True)
        if now - last_save > 120:
            torch.save(dict(vae=vae.state_dict(), adam=adam.state_dict(), muon=muon.state_dict(), step=step, spent=spent), state_path + ".part")
            os.replace(state_path + ".part", state_path)
            last_save = now

    # per-channel statistics of sampled latents; with them the transformer sees mean 0 and deviation 1
    with torch.no_grad():
        zs = []
        for i in range(16):
            mu, logvar = encode(frames(D.batch(32, a.size, 5_000_000 + i)[0]))
            zs.append(mu + torch.exp(.5 * logvar) * torch.randn_like(mu))
        z = torch.cat(zs)
        vae.register_to_config(latents_mean=z.mean((0, 2, 3, 4)).tolist(), latents_std=z.std((0, 2, 3, 4)).tolist())
        vae.save_pretrained(a.out)
        mu, _ = encode(val[:24])
        r = decode(mu).clamp(-1, 1)
        D.sheet([p for pair in zip(pictures(val[:24]), pictures(r)) for p in pair], os.path.join(a.out, "sheet.png"))
        fast_single_frame(False)
        same = vae.decode(vae.encode(val[:4]).latent_dist.mode()).sample
        print("largest difference, unpatched classes:", (same - r[:4]).abs().max().item())


if __name__ == "__main__":
    main()
