"""Muon (orthogonalised momentum) for hidden weight matrices; everything else uses AdamW.

Matrices of the same shape are stacked and go through one batched Newton-Schulz iteration. Causal 3-D convolutions are
trained on single frames, where only their last temporal slice acts; that slice is their matrix here.
"""
import torch


def orthogonalise(g, steps=5):
    a, b, c = 3.4445, -4.7750, 2.0315
    x = g / (g.flatten(1).norm(dim=1).view(-1, 1, 1) + 1e-7)
    tall = x.shape[1] > x.shape[2]
    if tall:
        x = x.transpose(1, 2)
    for _ in range(steps):
        s = x @ x.transpose(1, 2)
        x = a * x + (b * s + c * s @ s) @ x
    return x.transpose(1, 2) if tall else x


def acting(t):
    """The part of a tensor that acts on one frame."""
    return t[:, :, -1] if t.ndim == 5 else t


class Muon:
    def __init__(self, params, lr=0.02, momentum=0.95, wd=0.0):
        self.lr, self.momentum, self.wd = lr, momentum, wd
        self.groups = {}
        for p in params:
            self.groups.setdefault(tuple(p.shape), []).append(p)
        self.buffers = {shape: None for shape in self.groups}

    def zero_grad(self):
        for params in self.groups.values():
            for p in params:
                p.grad = None

    def state_dict(self):
        return self.buffers

    def load_state_dict(self, buffers):
        self.buffers = buffers

    @torch.no_grad()
    def step(self):
        for shape, params in self.groups.items():
            g = torch.stack([acting(p.grad).flatten(1) for p in params])
            buf = self.buffers[shape]
            buf = self.buffers[shape] = g.clone() if buf is None else buf.lerp_(g, 1 - self.momentum)
            update = orthogonalise(g.lerp(buf, self.momentum)) * max(1, g.shape[1] / g.shape[2]) ** 0.5
            for p, u in zip(params, update):
                if self.wd:
                    p.mul_(1 - self.lr * self.wd)
                acting(p).add_(u.view(acting(p).shape), alpha=-self.lr)
