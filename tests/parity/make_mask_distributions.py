"""Makes `mask_distributions.json`, beside this file: `python make_mask_distributions.py` (some ten seconds).

The distributions of the multi-block masks as the papers and the official code define them, by counting every case
instead of drawing: block sizes from the formula at evenly spaced random numbers, context lengths from every way to place
four targets. `inclusive` is this crate's default, `official` the official code's.
"""

import json, platform
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
VERSIONS = {"python": platform.python_version(), "numpy": np.__version__}
SETTINGS = [
    {"grid": 14, "target_scale": (0.15, 0.2), "min_keep": 10, "batches": [1, 64]},  # as published
    {"grid": 8, "target_scale": (0.15, 0.25), "min_keep": 4, "batches": [1, 256]},  # for small grids
    {"grid": 8, "target_scale": (0.15, 0.25), "min_keep": 8, "batches": [1, 256]},  # often too little is left at first
]
TARGETS = 4


def sizes(grid, scale, aspect, official):
    """{(height, width): probability} of a block: the formula at the middles of equal cells of the random numbers."""
    middles = lambda n: (np.arange(n) + 0.5) / n
    # One number decides scale and aspect in the official code; here they are two.
    u, v = (middles(1 << 22),) * 2 if official else np.meshgrid(middles(1 << 11), middles(1 << 11))
    area = np.floor(grid * grid * (scale[0] + u * (scale[1] - scale[0])))
    ratio = aspect[0] + v * (aspect[1] - aspect[0])
    side = lambda square: np.minimum(np.rint(np.sqrt(square)), grid - 1 if official else grid).astype(int)
    code, count = np.unique(side(area * ratio) * 100 + side(area / ratio), return_counts=True)
    return {divmod(int(c), 100): n / count.sum() for c, n in zip(code, count)}


def places(grid, size, official):
    """How many offsets a block of this size has in each direction: the official code never draws the last."""
    return tuple(grid - side + (0 if official else 1) for side in size)


def bit_sets(grid, size, official):
    """Every block of this size, as a set of tokens: 64 tokens to a word. [places, words]"""
    rows, columns = places(grid, size, official)
    blocks = np.zeros((rows, columns, grid, grid), dtype=bool)
    for top in range(rows):
        for left in range(columns):
            blocks[top, left, top : top + size[0], left : left + size[1]] = True
    bits = np.packbits(blocks.reshape(rows * columns, -1), axis=1)
    return np.pad(bits, ((0, 0), (0, -bits.shape[1] % 8))).view(np.uint64)


def left_over(context, removed):
    return np.bitwise_count(context & ~removed).sum(-1, dtype=np.int64)


def context_lengths(grid, target, context, min_keep, official):
    """P[n]: the probability that n tokens of one image's context are outside its targets; nothing truncated."""
    blocks, contexts = bit_sets(grid, target, official), bit_sets(grid, context, official)
    # Unions of two, each unordered pair once; then every two of these.
    first, second = np.triu_indices(len(blocks))
    pairs, weight = blocks[first] | blocks[second], np.where(first == second, 1.0, 2.0)
    pairs, same = np.unique(pairs, axis=0, return_inverse=True)
    weight = np.bincount(same.ravel(), weight)
    count = np.zeros(grid * grid + 1)
    for i in range(len(pairs)):
        w = weight[i] * weight[i:] * np.where(np.arange(i, len(pairs)) == i, 1.0, 2.0)
        for place in contexts:
            count += np.bincount(left_over(place, pairs[i] | pairs[i:]), w, len(count))
    enough = np.arange(len(count)) >= min_keep + official  # the official code wants more than min_keep
    if count[~enough].sum() == 0:
        return count / count.sum()
    if not official:  # all is placed again until enough is left; twenty failures in a row do not happen
        assert (count[~enough].sum() / count.sum()) ** 20 < 1e-9
        return np.where(enough, count, 0.0) / count[enough].sum()
    # Officially the targets stay, and after twenty failures one target fewer is cut out of the context. It has one
    # place only, so trying again changes nothing.
    (place,) = contexts
    unions = [np.zeros_like(blocks[:1])]
    for _ in range(TARGETS):
        unions.append((unions[-1][:, None] | blocks[None]).reshape(-1, blocks.shape[1]))
    lengths = left_over(place, unions[0])
    for union in unions[1:]:
        fewer, lengths = np.repeat(lengths, len(blocks)), left_over(place, union)
        lengths = np.where(lengths > min_keep, lengths, fewer)
    return np.bincount(lengths, minlength=len(count)) / len(lengths)


def shortest(lengths, batch):
    """The distribution of the least of `batch` independent lengths."""
    at_least = np.cumsum(lengths[::-1])[::-1].clip(0, 1) ** batch
    return at_least - np.append(at_least[1:], 0)


def case(c, official):
    grid, min_keep = c["grid"], c["min_keep"]
    targets = sizes(grid, c["target_scale"], (0.75, 1.5), official)
    contexts = sizes(grid, (0.85, 1.0), (1.0, 1.0), official)
    mixed = {batch: 0 for batch in c["batches"]}
    for target, p in targets.items():
        for context, q in contexts.items():
            lengths = context_lengths(grid, target, context, min_keep, official)
            for batch in mixed:  # one size for the whole batch
                mixed[batch] = mixed[batch] + p * q * shortest(lengths, batch)
    table = lambda blocks: [[*size, *places(grid, size, official), float(p)] for size, p in sorted(blocks.items())]
    return {
        **{key: c[key] for key in ("grid", "target_scale", "min_keep")},
        "sampler": "official" if official else "inclusive",
        "target_sizes": table(targets),
        "context_sizes": table(contexts),
        "context_lengths": {b: [[n, float(p)] for n, p in enumerate(law) if p > 1e-12] for b, law in mixed.items()},
    }


def main():
    cases = [case(c, official) for c in SETTINGS for official in (False, True)]
    lines = ",\n".join(json.dumps(c) for c in cases)
    text = f'{{\n"made_with": {json.dumps(VERSIONS)},\n"cases": [\n{lines}\n]\n}}\n'
    (HERE / "mask_distributions.json").write_text(text)


if __name__ == "__main__":
    main()
