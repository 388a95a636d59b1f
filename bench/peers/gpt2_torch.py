#!/usr/bin/env python3
"""A training step of GPT-2 in eager PyTorch on CPUs: the peer of bench/training.

    gpt2_torch.py LAYERS WIDTH VOCABULARY ROWS SEQUENCE float32|bfloat16 THREADS

Heads of 64 channels, tied embeddings, biases, GELU by tanh, AdamW (0.9, 0.95, decay 0.1 on matrices), gradients clipped to
norm 1: what the recipe of bench/training says. Prints "ready"; then for every line it reads it makes one step and prints
"step MILLISECONDS PROCESSOR_MILLISECONDS LOSS"; ends at the end of input. bfloat16 is autocast, as its users have it:
weights and moments stay float32.
Apache-2.0.
"""
import contextlib
import math
import sys
import time

import torch
from torch import nn
from torch.nn import functional as F

POSITIONS = 1024


class Block(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.norm_1, self.norm_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attend, self.project = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x, masked):
        rows, time_, width = x.shape
        parts = self.attend(self.norm_1(x)).split(width, dim=2)
        q, k, v = (p.view(rows, time_, self.heads, -1).transpose(1, 2) for p in parts)
        scores = (q @ k.transpose(2, 3)) * (1.0 / math.sqrt(k.shape[-1]))
        scores = scores.masked_fill(masked, -math.inf)
        y = (F.softmax(scores, dim=-1) @ v).transpose(1, 2).reshape(rows, time_, width)
        x = x + self.project(y)
        return x + self.down(F.gelu(self.up(self.norm_2(x)), approximate="tanh"))


class Model(nn.Module):
    def __init__(self, layers, width, vocabulary, sequence):
        super().__init__()
        self.tokens, self.positions = nn.Embedding(vocabulary, width), nn.Embedding(POSITIONS, width)
        self.blocks = nn.ModuleList(Block(width, width // 64) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, vocabulary, bias=False)
        for parameter in self.parameters():
            if parameter.dim() == 2:
                nn.init.normal_(parameter, std=0.02)
        self.head.weight = self.tokens.weight
        self.register_buffer("masked", torch.ones(sequence, sequence, dtype=torch.bool).triu(1))

    def forward(self, ids, targets):
        x = self.tokens(ids) + self.positions.weight[: ids.shape[1]]
        for block in self.blocks:
            x = block(x, self.masked)
        logits = self.head(self.norm(x))
        return F.cross_entropy(logits.view(-1, logits.shape[-1]).float(), targets.view(-1))


def warn_of_slow_products():
    """Debian's PyTorch takes whatever libblas.so.3 is; the reference one is many times slower than the rest."""
    with open("/proc/self/maps", encoding="utf-8") as maps:
        text = maps.read()
    if not any(name in text for name in ("openblas", "mkl", "blis", "atlas")):
        print("gpt2_torch.py: products go through the reference BLAS, so this is no fair peer; "
              "install libopenblas0-pthread", file=sys.stderr, flush=True)


def main():
    if len(sys.argv) != 8:
        sys.exit(__doc__)
    layers, width, vocabulary, rows, sequence = map(int, sys.argv[1:6])
    half = sys.argv[6] == "bfloat16"
    torch.set_num_threads(int(sys.argv[7]))
    torch.manual_seed(1)
    model = Model(layers, width, vocabulary, sequence)
    matrices = [p for p in model.parameters() if p.dim() == 2]
    vectors = [p for p in model.parameters() if p.dim() < 2]
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}],
        lr=1e-4, betas=(0.9, 0.95), eps=1e-8)
    ids = torch.randint(0, vocabulary, (rows, sequence))
    targets = torch.randint(0, vocabulary, (rows, sequence))
    autocast = torch.autocast("cpu", dtype=torch.bfloat16) if half else contextlib.nullcontext()
    warn_of_slow_products()
    print("ready", flush=True)
    for _ in sys.stdin:
        begin, busy = time.perf_counter(), time.process_time()
        with autocast:
            loss = model(ids, targets)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        number = loss.item()
        taken, worked = time.perf_counter() - begin, time.process_time() - busy
        print(f"step {taken * 1e3:.3f} {worked * 1e3:.3f} {number:.6f}", flush=True)


main()
