"""One I-JEPA training step of a ViT-B/16 on 224 x 224 images in PyTorch, eager, f32: its time and its memory.

The same sizes, the same figures as `cargo bench --bench vit_b16`:

    python benches/vit_b16.py --threads 2
    python benches/vit_b16.py --images 16 --steps 5 --predictor-depth 12
    python benches/vit_b16.py --count      checks the formula for GFLOP with PyTorch's own counter

The target encoder sees all 196 tokens, without gradients; the context has 72 tokens and each of the 4 target blocks 34.
Attention is `scaled_dot_product_attention`; --fused takes the fused AdamW. Needs PyTorch and nothing else.
"""

import argparse
import copy
import resource
import statistics
import time

import torch
from torch import nn
from torch.nn import functional as F

SIDE, PATCH, TOKENS = 224, 16, 196
WIDTH, DEPTH, HEADS = 768, 12, 12
PREDICTOR_WIDTH, PREDICTOR_HEADS = 384, 12
CONTEXT, TARGET, BLOCKS = 72, 34, 4
MOMENTUM = 0.996


class Block(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width, eps=1e-6), nn.LayerNorm(width, eps=1e-6)
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.fc1, self.fc2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x):
        b, n, width = x.shape
        q, k, v = self.qkv(self.norm1(x)).view(b, n, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        x = x + self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, n, width))
        return x + self.fc2(F.gelu(self.fc1(self.norm2(x))))


def pick(x, indices):
    """Tokens of x (B, N, D) at indices (B, K)."""
    return x.gather(1, indices.unsqueeze(-1).expand(-1, -1, x.shape[-1]))


class Encoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Linear(3 * PATCH * PATCH, WIDTH)
        self.blocks = nn.ModuleList(Block(WIDTH, HEADS) for _ in range(DEPTH))
        self.norm = nn.LayerNorm(WIDTH, eps=1e-6)
        self.register_buffer("position", torch.randn(1, TOKENS, WIDTH))  # fixed: which numbers does not matter here

    def forward(self, patches, keep=None):
        position = self.position.expand(len(patches), -1, -1)
        if keep is not None:
            patches, position = pick(patches, keep), pick(position, keep)
        x = self.embed(patches) + position
        for block in self.blocks:
            x = block(x)
        return self.norm(x)


class Predictor(nn.Module):
    def __init__(self, depth):
        super().__init__()
        self.embed = nn.Linear(WIDTH, PREDICTOR_WIDTH)
        self.mask_token = nn.Parameter(0.02 * torch.randn(1, 1, PREDICTOR_WIDTH))
        self.blocks = nn.ModuleList(Block(PREDICTOR_WIDTH, PREDICTOR_HEADS) for _ in range(depth))
        self.norm = nn.LayerNorm(PREDICTOR_WIDTH, eps=1e-6)
        self.proj = nn.Linear(PREDICTOR_WIDTH, WIDTH)
        self.register_buffer("position", torch.randn(1, TOKENS, PREDICTOR_WIDTH))

    def forward(self, features, context, targets):
        position = self.position.expand(len(features), -1, -1)
        seen = self.embed(features) + pick(position, context)
        masked = torch.cat([pick(position, t) for t in targets]) + self.mask_token
        x = torch.cat([seen.repeat(len(targets), 1, 1), masked], dim=1)
        for block in self.blocks:
            x = block(x)
        return self.proj(self.norm(x[:, CONTEXT:]))


def patchify(images):
    b, side = len(images), SIDE // PATCH
    cut = images.view(b, 3, side, PATCH, side, PATCH)
    return cut.permute(0, 2, 4, 1, 3, 5).reshape(b, TOKENS, 3 * PATCH * PATCH)


def gflop(images, predictor_depth):
    """Matrix products alone, a multiply-add being two; a backward pass is twice its forward pass."""

    def blocks(depth, n, d):
        return depth * (24 * n * d * d + 4 * n * n * d)

    pixels = 2 * 3 * PATCH * PATCH * WIDTH
    target = TOKENS * pixels + blocks(DEPTH, TOKENS, WIDTH)
    context = 2 * CONTEXT * pixels + 3 * blocks(DEPTH, CONTEXT, WIDTH)
    narrow = 2 * WIDTH * PREDICTOR_WIDTH
    predicted = blocks(predictor_depth, CONTEXT + TARGET, PREDICTOR_WIDTH) + TARGET * narrow
    return images * (target + context + 3 * (CONTEXT * narrow + BLOCKS * predicted)) / 1e9


def peak_mb():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # Linux counts in KiB


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=8)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--predictor-depth", type=int, default=6)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--fused", action="store_true", help="the fused AdamW")
    parser.add_argument("--count", action="store_true", help="count operations in one step, and stop")
    args = parser.parse_args()

    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    start = time.perf_counter()
    encoder, predictor = Encoder(), Predictor(args.predictor_depth)
    target = copy.deepcopy(encoder).requires_grad_(False)
    trained = [*encoder.parameters(), *predictor.parameters()]
    matrices, vectors = [p for p in trained if p.ndim == 2], [p for p in trained if p.ndim != 2]
    groups = [{"params": matrices}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=1e-3, weight_decay=0.05, fused=args.fused or None)
    images = torch.randn(args.images, 3, SIDE, SIDE)

    def mask(first, n):
        return ((first + torch.arange(n)) % TOKENS).expand(args.images, -1)

    context = mask(0, CONTEXT)
    targets = [mask(CONTEXT + k * TARGET // 2, TARGET) for k in range(BLOCKS)]
    setup, before = time.perf_counter() - start, peak_mb()

    def step():
        patches = patchify(images)
        with torch.no_grad():
            whole = F.layer_norm(target(patches), (WIDTH,))
            answers = torch.cat([pick(whole, t) for t in targets])
        loss = F.smooth_l1_loss(predictor(encoder(patches, context), context, targets), answers)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            for average, online in zip(target.parameters(), encoder.parameters()):
                average.mul_(MOMENTUM).add_(online, alpha=1 - MOMENTUM)
        return loss.item()

    expected = gflop(args.images, args.predictor_depth)
    if args.count:
        from torch.nn.attention import SDPBackend, sdpa_kernel
        from torch.utils.flop_counter import FlopCounterMode

        # Attention as plain products: the fused one computes the probabilities again in its backward pass.
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            step()
        counted = counter.get_total_flops() / 1e9
        print(f"counted {counted:.1f} GFLOP, by the formula {expected:.1f}: {counted / expected - 1:+.2%}")
        return

    losses, times = [step()], []
    for _ in range(args.steps):
        begun = time.perf_counter()
        losses.append(step())
        times.append(time.perf_counter() - begun)
    middle, numbers = statistics.median(times), sum(p.numel() for p in trained)
    adamw = ", fused AdamW" if args.fused else ""
    print(
        f"PyTorch {torch.__version__}, eager{adamw}, {args.threads} threads: ViT-B/16, {args.images} images,"
        f" {numbers / 1e6:.1f} million parameters, predictor {args.predictor_depth} deep"
    )
    print(
        f"  {middle:.3f} s a step (median of {args.steps}; least {min(times):.3f}), {args.images / middle:.2f} images/s"
    )
    print(f"  {expected:.0f} GFLOP a step, {expected / middle:.0f} GFLOP/s")
    print(f"  {peak_mb():.0f} MB peak, {before:.0f} MB of it before the first step; {setup:.1f} s to set up")
    print(f"  losses {[round(loss, 4) for loss in losses]}")


if __name__ == "__main__":
    main()
