"""Scores of masks and propagated labels, by definition: the numbers in tests/parity/davis_numbers.json.

    python tests/parity/make_davis_numbers.py

Made with NumPy 2.4. Written from the definitions (Perazzi et al., 2016, section 4; Caron et al., 2021) and from what the
official evaluations compute, independently of the Rust code: contours are matched by the distances of all pairs of their
pixels instead of by dilation, affinities are exponentials that are masked before the largest are taken, and nothing is done
row by row.
"""

import json
import math
from pathlib import Path

import numpy as np

rng = np.random.default_rng(16)


def contour(on):
    """Pixels that differ from the right, the lower or the lower right one, as far as these are inside."""
    edge = np.zeros_like(on)
    edge[:, :-1] |= on[:, :-1] != on[:, 1:]
    edge[:-1, :] |= on[:-1, :] != on[1:, :]
    edge[:-1, :-1] |= on[:-1, :-1] != on[1:, 1:]
    return np.argwhere(edge)


def j_score(truth, found):
    union = (truth | found).sum()
    return 1.0 if union == 0 else (truth & found).sum() / union


def f_score(truth, found):
    radius = math.ceil(0.008 * math.hypot(*truth.shape))
    truth, found = contour(truth), contour(found)
    if len(truth) == 0 or len(found) == 0:
        return float(len(truth) == len(found))
    squared = ((found[:, None] - truth[None]) ** 2).sum(-1)
    near = squared <= radius**2
    precision, recall = near.any(1).mean(), near.any(0).mean()
    return 0.0 if precision + recall == 0 else 2 * precision * recall / (precision + recall)


def blobs(height, width, objects):
    """Ellipses over one another; some leave the frame."""
    y, x = np.mgrid[:height, :width]
    mask = np.zeros((height, width), int)
    for label in range(1, objects + 1):
        cy, cx = rng.uniform(0, height), rng.uniform(0, width)
        ry, rx = rng.uniform(0.5, height / 2), rng.uniform(2, width / 2)
        mask[((y - cy) / ry) ** 2 + ((x - cx) / rx) ** 2 < 1] = label
    return mask


def disturbed(mask, by):
    """Shifted, with holes and specks."""
    moved = np.roll(mask, rng.integers(-by, by + 1, 2), (0, 1))
    for _ in range(2 * by):
        y, x = rng.integers(0, mask.shape[0]), rng.integers(0, mask.shape[1])
        moved[y : y + by, x : x + 2] = rng.integers(0, mask.max() + 1)
    return moved


def text(mask):
    return ["".join(map(str, row)) for row in mask.tolist()]


scores = []
for height, width, objects, by in [(12, 17, 2, 1), (40, 30, 3, 2), (90, 160, 3, 4), (1, 9, 1, 1), (64, 64, 2, 7)]:
    truth = blobs(height, width, objects)
    found = disturbed(truth, by)
    each = [[j_score(truth == k, found == k), f_score(truth == k, found == k)] for k in range(1, objects + 2)]
    scores.append({"truth": text(truth), "found": text(found), "scores": [[float(x) for x in pair] for pair in each]})


def propagated(query, context, labels, height, width, radius, k, temperature):
    """query [N, D], context [F, N, D], labels [F, N, C]: the labels of the queries, [N, C]."""
    affinity = np.exp(np.einsum("qd,fpd->qfp", query, context) / temperature)
    row, column = np.divmod(np.arange(height * width), width)
    if radius > 0:
        near = (abs(row[:, None] - row) <= radius) & (abs(column[:, None] - column) <= radius)
        affinity = affinity * near[:, None]
    affinity = affinity.reshape(len(query), -1)
    least = np.sort(affinity, 1)[:, -k]
    affinity[affinity < least[:, None]] = 0
    affinity /= affinity.sum(1, keepdims=True)
    return affinity @ labels.reshape(affinity.shape[1], -1)


def upsampled(plane, factor):
    """Bilinear, between the centers of pixels; beyond the outer centers the edge."""
    for axis in (0, 1):
        n = plane.shape[axis]
        at = np.clip((np.arange(n * factor) + 0.5) / factor - 0.5, 0, n - 1)
        low = np.floor(at).astype(int)
        high = np.minimum(low + 1, n - 1)
        share = (at - low)[:, None] if axis == 0 else at - low
        plane = plane.take(low, axis) * (1 - share) + plane.take(high, axis) * share
    return plane


propagations = []
for height, width, frames, classes, radius, k, temperature in [(5, 7, 3, 3, 2, 5, 0.1), (6, 4, 1, 2, 0, 3, 0.07)]:
    n, dim, factor = height * width, 6, 4
    # Of 32 bits, as the crate reads them.
    features = rng.normal(size=(frames + 1, n, dim)).astype(np.float32)
    labels = rng.dirichlet([0.3] * classes, (frames, n)).astype(np.float32)
    unit = features.astype(float) / np.linalg.norm(features.astype(float), axis=-1, keepdims=True)
    soft = propagated(unit[0], unit[1:], labels.astype(float), height, width, radius, k, temperature)
    planes = [upsampled(soft[:, c].reshape(height, width), factor) for c in range(classes)]
    planes = np.array([(p - p.min()) / (p - p.min()).max() for p in planes])
    propagations.append(
        {
            "grid": [height, width],
            "classes": classes,
            "radius": radius,
            "top_k": k,
            "temperature": temperature,
            "features": [round(x, 8) for x in features.astype(float).ravel().tolist()],
            "labels": [round(x, 8) for x in labels.astype(float).ravel().tolist()],
            "soft": [round(x, 8) for x in soft.ravel().tolist()],
            "mask": text(planes.argmax(0)),
        }
    )

path = Path(__file__).with_name("davis_numbers.json")
path.write_text(json.dumps({"scores": scores, "propagations": propagations}, separators=(",", ":")) + "\n")
print(path, path.stat().st_size, [s["scores"] for s in scores])
