"""Byte-level BPE in Qwen2's format, trained on captions and the prompt template.

Every caption word and every word of the template becomes one token, so the template's prefix is exactly 34 tokens, as
with the full-size tokenizer, and the pipelines' "drop the first 34" holds.
"""
import argparse
import json

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import Qwen2Tokenizer

import dataset as D

TEMPLATE = ("<|im_start|>system\nDescribe the image by detailing the color, shape, size, texture, quantity, text, spatial relationships of the "
            "objects and background:<|im_end|>\n<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n")
QWEN_SPLIT = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|object_ref_start|>", "<|object_ref_end|>", "<|box_start|>", "<|box_end|>",
           "<|quad_start|>", "<|quad_end|>", "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>", "<|image_pad|>", "<|video_pad|>"]
EXTRA = ("a an the and of with to in on at is two one big tiny huge grey photo picture drawing Picture image text blurry low quality "
         "hexagon oval moon dog cat").split()  # words a user may type


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--out", default="tokenizer")
    a = ap.parse_args()
    tok = Tokenizer(models.BPE())
    tok.normalizer = normalizers.NFC()
    tok.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(QWEN_SPLIT), "isolated", False), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tok.decoder = decoders.ByteLevel()
    corpus = D.batch(4000, 8, 7, one=0.4)[1] + [TEMPLATE.replace("<|im_start|>", "").replace("<|im_end|>", "")] * 50
    corpus += [" " + w for w in EXTRA for _ in range(20)] + [w for w in EXTRA for _ in range(20)]
    tok.train_from_iterator(corpus, trainers.BpeTrainer(
        vocab_size=1010, min_frequency=2, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False))
    bpe = json.loads(tok.to_str())["model"]
    merges = [tuple(m.split(" ")) if isinstance(m, str) else tuple(m) for m in bpe["merges"]]
    qwen = Qwen2Tokenizer(vocab=bpe["vocab"], merges=merges, pad_token="<|endoftext|>", eos_token="<|im_end|>",
                          model_max_length=131072, extra_special_tokens=SPECIAL[1:])
    qwen.save_pretrained(a.out)
    prefix = qwen(TEMPLATE.split("{}")[0]).input_ids
    print(f"{len(qwen)} tokens, template prefix {len(prefix)}")
    assert len(prefix) == 34


if __name__ == "__main__":
    main()
