"""What training the transformer and training its LoRA share: prompts to embeddings, pictures to packed latents, the loss.

`fast_kernels` replaces two diffusers functions by equal ones that launch fewer kernels; the saved model is unchanged.
"""
import json
import os

import torch
import torch.nn.functional as F
from diffusers import FlowMatchEulerDiscreteScheduler
from diffusers.models import normalization
from diffusers.models.transformers import transformer_qwenimage

import dataset as D
from make_tokenizer import TEMPLATE
from train_vae import fast_single_frame, frames

SCHEDULE = dict(
    base_image_seq_len=256, base_shift=0.5, invert_sigmas=False, max_image_seq_len=8192, max_shift=0.9, num_train_timesteps=1000,
    shift=1.0, shift_terminal=0.02, stochastic_sampling=False, time_shift_type="exponential", use_dynamic_shifting=True)


def fast_kernels():
    def rope(x, freqs, use_real=True, **_):
        c, s = freqs.real[:, None].float(), freqs.imag[:, None].float()  # [S, 1, D/2], adjacent pairs
        x0, x1 = x.unflatten(-1, (-1, 2)).unbind(-1)
        return torch.stack((x0 * c - x1 * s, x0 * s + x1 * c), -1).flatten(-2)
    transformer_qwenimage.apply_rotary_emb_qwen = rope
    normalization.RMSNorm.forward = lambda self, x: F.rms_norm(x, self.dim, self.weight, self.eps)


def pack(z):
    """[n, 16, h, w] -> [n, h/2 * w/2, 64]: channel-major, then the 2x2 patch."""
    n, c, h, w = z.shape
    return z.view(n, c, h // 2, 2, w // 2, 2).permute(0, 2, 4, 1, 3, 5).reshape(n, h * w // 4, c * 4)


@torch.no_grad()
def cached_latents(path, vae, n, size, seed, train, palette="base"):
    """(mean, sigma, captions) of `n` pictures: normalised, packed latents, kept in `path`."""
    if os.path.exists(path):
        return torch.load(path, weights_only=False)
    fast_single_frame(True)
    shift, scale = (torch.tensor(v).view(1, -1, 1, 1, 1) for v in (vae.config.latents_mean, vae.config.latents_std))
    mean, sigma, captions = [], [], []
    for k in range(0, n, 200):
        imgs, caps, _ = D.batch(200, size, seed + k, train, palette=palette)
        mu, logvar = vae.quant_conv(vae.encoder(frames(imgs))).chunk(2, 1)
        mean.append(pack(((mu - shift) / scale)[:, :, 0]))
        sigma.append(pack((torch.exp(.5 * logvar) / scale)[:, :, 0]))
        captions += caps
    fast_single_frame(False)
    out = torch.cat(mean), torch.cat(sigma), captions
    torch.save(out, path)
    return out


class Prompts:
    """Caption -> text encoder states without the template's 34 tokens, as the pipeline computes them."""
    DROP = 34

    def __init__(self, tokenizer):
        self.tokenizer, self.known = tokenizer, {}
        assert len(tokenizer(TEMPLATE.split("{}")[0]).input_ids) == self.DROP

    def embed(self, text_encoder, captions):
        for c in captions:
            if c not in self.known:
                self.known[c] = self.tokenizer(TEMPLATE.format(c)).input_ids
        rows = [self.known[c] for c in captions]
        length, pad = max(map(len, rows)), self.tokenizer.pad_token_id
        ids = torch.tensor([r + [pad] * (length - len(r)) for r in rows])
        valid = torch.tensor([[True] * len(r) + [False] * (length - len(r)) for r in rows])[:, self.DROP:]
        lm = text_encoder.model.language_model
        # right padding under causal attention: valid tokens never see padding; text-only rotary positions are plain
        pos = torch.arange(length).expand(3, len(rows), -1)
        states = lm(inputs_embeds=lm.embed_tokens(ids), position_ids=pos, use_cache=False).last_hidden_state[:, self.DROP:]
        return states * valid.unsqueeze(-1), valid


def flow_loss(dit, text_encoder, prompts, x0, captions, t, noise, size):
    """Mean squared error of the velocity noise - x0 at x_t = (1 - t) x0 + t noise."""
    states, valid = prompts.embed(text_encoder, captions)
    at = t.view(-1, 1, 1)
    cells = size // 16
    v = dit((1 - at) * x0 + at * noise, encoder_hidden_states=states, encoder_hidden_states_mask=None if bool(valid.all()) else valid,
            timestep=t, img_shapes=[[(1, cells, cells)]] * len(captions), return_dict=False)[0]
    return (v - (noise - x0)).square().mean()


def sample_times(n, generator):
    """Logit-normal, as in the papers: most weight in the middle, all of 0..1 covered."""
    return torch.sigmoid(torch.randn(n, generator=generator))


def save_pipeline(folder, dit, text_encoder, tokenizer, vae):
    dit.save_pretrained(f"{folder}/transformer")
    text_encoder.save_pretrained(f"{folder}/text_encoder")
    tokenizer.save_pretrained(f"{folder}/tokenizer")
    FlowMatchEulerDiscreteScheduler(**SCHEDULE).save_pretrained(f"{folder}/scheduler")
    vae.save_pretrained(f"{folder}/vae")
    with open(f"{folder}/model_index.json", "w") as f:
        json.dump({
            "_class_name": "QwenImagePipeline", "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
            "text_encoder": ["transformers", "Qwen2_5_VLForConditionalGeneration"], "tokenizer": ["transformers", "Qwen2Tokenizer"],
            "transformer": ["diffusers", "QwenImageTransformer2DModel"], "vae": ["diffusers", "AutoencoderKLQwenImage"]}, f, indent=1)
