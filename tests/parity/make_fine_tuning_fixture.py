"""Makes `fine_tuning_3_steps.safetensors`, beside this file: `python make_fine_tuning_fixture.py`.

Three steps of fine-tuning in plain PyTorch, in float64: mean of the patch tokens after the last norm, linear head, label
smoothing, drop path, layer-wise learning rates, AdamW. Weights and layers are those of `make_fixtures.py`. Which branches are
dropped is drawn here too: ChaCha with 12 rounds, keyed by the seed, the step and the image's place in the batch.
"""

import struct

import torch
from torch import nn
from torch.nn import functional as F

from make_fixtures import SIZES, STEPS, Encoder, fill, official_name, write

MASK = (1 << 64) - 1
DROP_PATH = 10  # the purpose of the stream

CONFIG = SIZES | STEPS | {
    "method": "fine-tuning", "image_size": 12, "embed_dim": 8, "depth": 3, "num_heads": 2, "batch_size": 5, "classes": 4,
    "label_smoothing": 0.2, "drop_path": 0.6, "layer_decay": 0.7, "seed": 11,
    "adamw": {"betas": [0.9, 0.999], "eps": 1e-8},
}  # fmt: skip


def splitmix64(x):
    x = (x + 0x9E3779B97F4A7C15) & MASK
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & MASK
    return x ^ (x >> 31)


def key(seed, purpose, index):
    state, words = seed, []
    for word in (purpose, *index, 0x57065706):
        state = splitmix64(state ^ splitmix64((word + 0x9E3779B97F4A7C15) & MASK))
        words.append(state)
    return struct.unpack("<8I", struct.pack("<4Q", *words))


def chacha12(key, block):
    """The sixteen words of one block, with a 64-bit counter and no nonce."""
    start = [*struct.unpack("<4I", b"expand 32-byte k"), *key, block & 0xFFFFFFFF, block >> 32, 0, 0]
    x = list(start)

    def quarter(a, b, c, d):
        for to, other, turned, by in ((a, b, d, 16), (c, d, b, 12), (a, b, d, 8), (c, d, b, 7)):
            x[to] = (x[to] + x[other]) & 0xFFFFFFFF
            mixed = x[turned] ^ x[to]
            x[turned] = (mixed << by | mixed >> (32 - by)) & 0xFFFFFFFF

    for _ in range(6):
        for i in range(4):
            quarter(i, 4 + i, 8 + i, 12 + i)
        for i in range(4):
            quarter(i, 4 + (i + 1) % 4, 8 + (i + 2) % 4, 12 + (i + 3) % 4)
    return [(a + b) & 0xFFFFFFFF for a, b in zip(x, start)]


def uniforms(seed, purpose, index, count):
    """So many doubles from 0 to 1, of 53 bits each."""
    words = sum((chacha12(key(seed, purpose, index), block) for block in range(count // 8 + 1)), [])
    return [((words[2 * i] | words[2 * i + 1] << 32) >> 11) * 2.0**-53 for i in range(count)]


assert uniforms(1, 5, (2, 3), 1)[0] == 0.8576415434008412  # a golden draw of src/rng.rs


def scales(c, step):
    """What each image's branches are multiplied by, [image][block][branch]."""
    L = c["depth"]
    rates = torch.linspace(0, c["drop_path"], L).tolist()
    of_image = lambda b: uniforms(c["seed"], DROP_PATH, (step, b), 2 * L)
    scale = lambda u, rate: 0.0 if u < rate else 1 / (1 - rate)
    drawn = [of_image(b) for b in range(c["batch_size"])]
    return [[[scale(u[2 * i + branch], rates[i]) for branch in (0, 1)] for i in range(L)] for u in drawn]


def features(encoder, images, scales):
    """The encoder's tokens after the last norm, image by image, block by block."""
    rows = []
    for image, of_image in zip(images, scales):
        x = encoder.patch_embed["proj"](image[None]).flatten(2).transpose(1, 2) + encoder.pos_embed[:, 1:]
        x = torch.cat([encoder.cls_token + encoder.pos_embed[:, :1], x], dim=1)
        for block, (attention, mlp) in zip(encoder.blocks, of_image):
            normal = block.norm1(x)
            x = x + attention * block.self_attn(normal, normal, normal, need_weights=False)[0]
            x = x + mlp * block.linear2(F.gelu(block.linear1(block.norm2(x))))
        rows.append(encoder.norm(x))
    return torch.cat(rows)


def factor(c, name):
    """The factor of a learning rate, counted from above: 1 for the head and the last norm."""
    if name.startswith("head.") or name.startswith("encoder.norm."):
        return 1.0
    below = c["depth"] - int(name.split(".")[2]) if name.startswith("encoder.blocks.") else c["depth"] + 1
    return c["layer_decay"] ** below


def make(c):
    g = torch.Generator().manual_seed(5)
    encoder, head = Encoder(c, class_token=True), nn.Linear(c["embed_dim"], c["classes"])
    fill(encoder, g), fill(head, g)
    modules, tensors = {"encoder": encoder, "head": head}, {}

    def keep_weights(before):
        for prefix, module in modules.items():
            for name, value in module.state_dict().items():
                tensors[f"{before}{prefix}.{official_name(name)}"] = value.detach().clone()

    keep_weights("")
    named = [(f"{prefix}.{n}", p) for prefix, module in modules.items() for n, p in module.named_parameters()]
    groups = [{"params": [p], "name": n, "decays": p.ndim > 1 and not n.endswith("cls_token")} for n, p in named]
    optimizer = torch.optim.AdamW(groups, betas=tuple(c["adamw"]["betas"]), eps=c["adamw"]["eps"], foreach=False)
    for step in range(c["steps"]):
        images = torch.randn(c["batch_size"], 3, c["image_size"], c["image_size"], generator=g)
        labels = torch.randint(c["classes"], (c["batch_size"],), generator=g)
        drawn = scales(c, step)
        logits = head(features(encoder, images, drawn)[:, 1:].mean(dim=1))
        loss = F.cross_entropy(logits, labels, label_smoothing=c["label_smoothing"])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        batch = {"images": images, "labels": labels[:, None], "out.loss": loss.detach()[None]}
        tensors.update({f"step{step}.{k}": v for k, v in batch.items()})
        if step == 0:
            official = lambda n: ".".join([n.split(".")[0], official_name(n.split(".", 1)[1])])
            tensors.update({f"step0.grad.{official(n)}": p.grad.clone() for n, p in named})
        for group in optimizer.param_groups:
            decay = c["weight_decay"][step] if group["decays"] else 0.0
            group |= {"lr": c["lr"][step] * factor(c, group["name"]), "weight_decay": decay}
        optimizer.step()
    keep_weights("after.")
    write("fine_tuning", c, tensors)


if __name__ == "__main__":
    dropped = [u for step in range(3) for image in scales(CONFIG, step) for u in sum(image, [])]
    assert 0.0 in dropped and max(dropped) > 2, "or else drop path would not be seen"
    make(CONFIG)
