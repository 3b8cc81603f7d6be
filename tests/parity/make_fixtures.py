"""Makes `*_3_steps.safetensors` and `schedules.json`, beside this file: `python make_fixtures.py`.

A second opinion in plain PyTorch, in float64, written from the papers of I-JEPA, StoP, MAE, data2vec and SimMIM. As much as possible is
PyTorch's own: the transformer blocks are `nn.TransformerEncoderLayer`, the patches `nn.Conv2d`, the losses, AdamW and
the learning-rate schedulers those of `torch`. Where rows have an order, loops spell it out. README.md names the tensors
and the versions this ran on. The same versions on the same kind of machine give the same bytes.
"""

import copy, json, math, platform
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from torch.optim import lr_scheduler

HERE = Path(__file__).parent
VERSIONS = {"python": platform.python_version(), "torch": torch.__version__, "numpy": np.__version__}
torch.set_default_dtype(torch.float64)
torch.set_num_threads(1)

# What changes from step to step. Steep, so that a value taken one step too early or too late is seen.
STEPS = {"steps": 3, "lr": [1e-3, 3e-3, 2e-3], "weight_decay": [0.04, 0.5, 0.3], "ema_momentum": [0.9, 0.7, 0.98]}
SIZES = {"patch_size": 4, "mlp_ratio": 4, "layer_norm_eps": 1e-6, "batch_size": 3}


# Networks


def sincos(dim, grid):
    """ψ: sines, then cosines, of the column; then the same of the row."""
    frequency = 10000.0 ** -(torch.arange(dim // 4) / (dim // 4))
    row, column = torch.meshgrid(torch.arange(grid), torch.arange(grid), indexing="ij")
    angles = [coordinate.flatten()[:, None] * frequency for coordinate in (column, row)]
    return torch.cat([f(angle) for angle in angles for f in (torch.sin, torch.cos)], dim=1)[None]


def blocks(depth, dim, heads):
    block = lambda: nn.TransformerEncoderLayer(
        dim, heads, 4 * dim, dropout=0.0, activation="gelu", layer_norm_eps=1e-6, batch_first=True, norm_first=True
    )
    return nn.ModuleList(block() for _ in range(depth))


def pick(x, tokens):
    """The tokens of x [B or 1, N, D] that `tokens` [B, n] names, image by image."""
    return torch.stack([x[b % len(x)][row] for b, row in enumerate(tokens)])


class Encoder(nn.Module):
    def __init__(self, c, class_token=False, mask_token=False):
        super().__init__()
        dim, grid = c["embed_dim"], c["image_size"] // c["patch_size"]
        position = sincos(dim, grid)
        if class_token:
            self.cls_token = nn.Parameter(torch.empty(1, 1, dim))
            position = F.pad(position, (0, 0, 1, 0))  # the class token stands at 0
        if mask_token:
            self.mask_token = nn.Parameter(torch.empty(1, 1, dim))
        self.register_buffer("pos_embed", position)
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(3, dim, c["patch_size"], stride=c["patch_size"])})
        self.blocks = blocks(c["depth"], dim, c["num_heads"])
        self.norm = nn.LayerNorm(dim, eps=1e-6)

    def forward(self, images, keep=None):
        """The features after every block, each through the last norm; of the tokens to `keep` alone, if given."""
        return [self.norm(x) for x in self.block_outputs(images, keep)]

    def block_outputs(self, images, keep=None, hidden=None):
        """What comes out of every block. Where `hidden` [B, N] is true, the mask token goes in."""
        x = self.patch_embed["proj"](images).flatten(2).transpose(1, 2)
        if hidden is not None:
            x = torch.where(hidden[:, :, None], self.mask_token, x)
        x = x + self.pos_embed[:, -self.tokens():]
        if keep is not None:
            x = pick(x, keep)
        if hasattr(self, "cls_token"):
            x = torch.cat([(self.cls_token + self.pos_embed[:, :1]).expand(len(x), 1, -1), x], dim=1)
        outputs = []
        for block in self.blocks:
            x = block(x)
            outputs.append(x)
        return outputs

    def tokens(self):
        return self.pos_embed.shape[1] - hasattr(self, "cls_token")


class Predictor(nn.Module):
    def __init__(self, c, kind, outputs, class_token=False):
        super().__init__()
        dim, grid = c[f"{kind}_embed_dim"], c["image_size"] // c["patch_size"]
        self.embed = nn.Linear(c["embed_dim"], dim)
        self.mask_token = nn.Parameter(torch.empty(1, 1, dim))
        if c.get("learned_pos_emb"):
            self.pos_embed = nn.Parameter(torch.empty(1, grid * grid, dim))
        else:
            self.register_buffer("pos_embed", F.pad(sincos(dim, grid), (0, 0, int(class_token), 0)))
        self.blocks = blocks(c[f"{kind}_depth"], dim, c[f"{kind}_num_heads"])
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.proj = nn.Linear(dim, outputs)

    def forward(self, tokens):
        for block in self.blocks:
            tokens = block(tokens)
        return self.proj(self.norm(tokens))


class Head(nn.Module):
    def __init__(self, dim, outputs):
        super().__init__()
        self.proj = nn.Linear(dim, outputs)


def official_name(name, kind=None):
    """Our name of a weight -> its name in the official code; `kind` is predictor or decoder."""
    for ours, official in [
        ("self_attn.in_proj_", "attn.qkv."), ("self_attn.out_proj", "attn.proj"),
        ("linear1", "mlp.fc1"), ("linear2", "mlp.fc2"),
    ]:  # fmt: skip
        name = name.replace(ours, official)
    if kind is None or name == "mask_token":
        return name
    return f"{kind}_{name}".replace("decoder_proj", "decoder_pred")


def fill(module, g):
    """Random weights, large enough that no bias, token or γ could be left out unseen."""
    for name, p in module.named_parameters():
        scale = 0.3 if p.ndim == 1 else 0.5 if p.shape[0] == 1 else p[0].numel() ** -0.5
        p.data = scale * torch.randn(p.shape, generator=g) + ("norm" in name and name.endswith("weight"))


# Methods


def joint_embedding_step(c, encoder, predictor, target_encoder, batch, out):
    """One step's loss, for I-JEPA and StoP in its three forms."""
    images, B = batch["images"], c["batch_size"]
    context_masks = [batch[f"masks_enc.{e}"] for e in range(c["num_enc_masks"])]
    target_masks = [batch[f"masks_pred.{p}"] for p in range(c["num_pred_masks"])]
    embed, psi = predictor.embed, predictor.pos_embed
    bias = None if c["method"] == "stop-paper" else embed.bias

    features = [encoder(images, mask)[-1] for mask in context_masks]
    with torch.no_grad():
        last = target_encoder(images)[-c["target_blocks"]:]
        whole = F.layer_norm(sum(last) / len(last), last[0].shape[-1:])

    predictions, targets = [], []
    for p, at in enumerate(target_masks):
        for e, seen in enumerate(context_masks):
            masked = pick(psi, at)
            if c["method"] == "ijepa-official":
                masked = masked + predictor.mask_token
            elif c["apply_stop"]:
                noise = batch[f"noise.{p}"][e * B : (e + 1) * B]
                masked = masked + F.linear(noise, embed.weight)
                masked = masked + (predictor.mask_token if c["method"] == "stop-paper" else embed.bias)
            context = pick(psi, seen) + F.linear(features[e], embed.weight, bias)
            answers = predictor(torch.cat([context, masked], dim=1))
            predictions.append(answers[:, seen.shape[1]:])
            targets.append(pick(whole, at))
    predictions, targets = torch.cat(predictions), torch.cat(targets)
    out |= {"context": torch.cat(features), "targets": targets, "predictions": predictions}
    return F.smooth_l1_loss(predictions, targets)


def pixels_of(images, patch):
    """[B, N, 3 p²]: the pixels of each patch."""
    pixels = F.pixel_unshuffle(images, patch).flatten(2).transpose(1, 2)  # each patch as (c, py, px)
    return pixels.unflatten(2, (3, -1)).transpose(2, 3).flatten(2)  # as (py, px, c)


def in_place_step(c, encoder, head, target_encoder, batch, out):
    """One step's loss, for data2vec and SimMIM: hidden is what is in no context."""
    images, B = batch["images"], c["batch_size"]
    context_masks = [batch[f"masks_enc.{e}"] for e in range(c["num_enc_masks"])]
    target_masks = [batch[f"masks_pred.{p}"] for p in range(c["num_pred_masks"])]
    N = encoder.tokens()
    hidden = [torch.ones(B, N, dtype=torch.bool).scatter(1, seen, False) for seen in context_masks]
    features = [encoder.norm(encoder.block_outputs(images, hidden=h)[-1]) for h in hidden]
    if c["method"] == "simmim":
        whole = pixels_of(images, c["patch_size"])
    else:
        with torch.no_grad():
            last = target_encoder.block_outputs(images)[-c["target_blocks"]:]
            normal = lambda x: F.layer_norm(x, x.shape[-1:])
            whole = normal(sum(normal(x) for x in last) / len(last))
    predictions = torch.cat([head.proj(pick(f, at)) for at in target_masks for f in features])
    targets = torch.cat([pick(whole, at) for at in target_masks for _ in features])
    out |= {"context": torch.cat(features), "targets": targets, "predictions": predictions}
    if c["method"] == "simmim":
        return F.l1_loss(predictions, targets)
    return F.smooth_l1_loss(predictions, targets, beta=2.0)


def mae_step(c, encoder, decoder, _, batch, out):
    images, noise, patch = batch["images"], batch["mask_noise"], c["patch_size"]
    B, L = noise.shape
    order = noise.argsort(dim=1)
    kept = order[:, : int(L * (1 - c["mask_ratio"]))]
    removed = torch.ones(B, L).scatter(1, kept, 0.0)

    seen = decoder.embed(encoder(images, kept)[-1])
    tokens = decoder.mask_token.repeat(B, 1 + L, 1)
    rows = torch.arange(B)[:, None]
    if c["method"] == "mae-stop":
        away = order[:, kept.shape[1] :]
        moved = decoder.mask_token + F.linear(batch["noise.0"], decoder.embed.weight)
        tokens = tokens.index_put((rows, 1 + away), moved)
    tokens = tokens.index_put((rows, torch.cat([torch.zeros_like(rows), 1 + kept], dim=1)), seen)
    predictions = decoder(tokens + decoder.pos_embed)[:, 1:]

    pixels = pixels_of(images, patch)
    if c["norm_pix_loss"]:
        variance, mean = torch.var_mean(pixels, dim=-1, keepdim=True, correction=1)
        pixels = (pixels - mean) / (variance + 1e-6).sqrt()
    out |= {"predictions": predictions}
    batch["mask"] = removed
    return F.mse_loss(predictions, pixels, reduction="none").mean(-1)[removed == 1].mean()


def joint_embedding_batch(c, g):
    B, N, stochastic = c["batch_size"], (c["image_size"] // c["patch_size"]) ** 2, c.get("apply_stop")
    draw = lambda n: torch.stack([torch.randperm(N, generator=g)[:n].sort().values for _ in range(B)])
    batch = {"images": torch.randn(B, 3, c["image_size"], c["image_size"], generator=g)}
    batch |= {f"masks_enc.{e}": draw(c["context_tokens"]) for e in range(c["num_enc_masks"])}
    batch |= {f"masks_pred.{p}": draw(c["target_tokens"]) for p in range(c["num_pred_masks"])}
    if c["method"] == "simmim":  # random masks: all that is hidden is predicted
        others = [[n for n in range(N) if n not in row] for row in batch["masks_enc.0"].tolist()]
        batch["masks_pred.0"] = torch.tensor(others)
    shape = (c["num_enc_masks"] * B, c["target_tokens"], c["embed_dim"])
    noises = range(c["num_pred_masks"] if stochastic else 0)
    return batch | {f"noise.{p}": c["noise_std"] * torch.randn(shape, generator=g) for p in noises}


def mae_batch(c, g):
    B, side = c["batch_size"], c["image_size"]
    noise = torch.rand(B, (side // c["patch_size"]) ** 2, generator=g)
    batch = {"images": torch.randn(B, 3, side, side, generator=g), "mask_noise": noise}
    if c["method"] == "mae-stop":
        L = noise.shape[1]
        shape = (B, L - int(L * (1 - c["mask_ratio"])), c["embed_dim"])
        batch["noise.0"] = c["noise_std"] * torch.randn(shape, generator=g)
    return batch


# Variants: what the paper compares StoP with


def variant_batch(c, g):
    """Noise for the masked tokens, block by block, and then for the context: on those that have any, as wide as it is."""
    batch = joint_embedding_batch(c | {"apply_stop": False}, g)
    rows = c["num_enc_masks"] * c["batch_size"]
    width = c["predictor_embed_dim"] if c.get("covariance") == "fixed" else c["embed_dim"]
    tokens = [c["target_tokens"]] * (c["num_pred_masks"] if c.get("noise_on") in ("masked", "both") else 0)
    tokens += [c["context_tokens"]] * (c.get("noise_on") in ("context", "both"))
    draws = enumerate(c["noise_std"] * torch.randn(rows, n, width, generator=g) for n in tokens)
    return batch | {f"noise.{i}": noise for i, noise in draws}


def low_resolution(how, features):
    """Features [B, K, D] of a square grid, made half as large, each of the small ones standing where four were."""
    side = math.isqrt(features.shape[1])
    image = features.transpose(1, 2).unflatten(2, (side, side))
    if how == "bilinear":
        image = F.interpolate(image, scale_factor=0.5, mode="bilinear", align_corners=False)
    else:
        image = F.max_pool2d(image, 2)
    return F.interpolate(image, scale_factor=2, mode="nearest").flatten(2).transpose(1, 2)


def variant_step(c, encoder, predictor, target_encoder, batch, out):
    """One step's loss, for one image, one context mask and one target block after the other."""
    images, blocks = batch["images"], range(c["num_pred_masks"])
    B, A, bias, psi = len(images), predictor.embed.weight, predictor.embed.bias, predictor.pos_embed[0]
    noise_on, covariance = c.get("noise_on"), c.get("covariance")

    seen = [batch[f"masks_enc.{e}"] for e in range(c["num_enc_masks"])]
    features = [encoder(images, mask)[-1] for mask in seen]
    with torch.no_grad():
        last = target_encoder(images)[-c["target_blocks"]:]
        whole = F.layer_norm(sum(last) / len(last), last[0].shape[-1:])
        if c.get("target_resolution"):
            whole = low_resolution(c["target_resolution"], whole)

    def moved(position, noise, s):
        """Positions under noise, in an image whose context has the features s."""
        if covariance == "fixed":
            return position + noise
        if covariance == "conditioned":
            noise = noise * s.square().mean().sqrt()
        return position + noise @ A.T

    predictions, targets = [], []
    for p in blocks:
        for e, mask in enumerate(seen):
            for b in range(B):
                s, row, at = features[e][b], e * B + b, batch[f"masks_pred.{p}"][b]
                context, masked = psi[mask[b]], psi[at]
                if noise_on in ("context", "both"):
                    context = moved(context, batch[f"noise.{0 if noise_on == 'context' else len(blocks)}"][row], s)
                if noise_on in ("masked", "both"):
                    masked = moved(masked, batch[f"noise.{p}"][row], s)
                context = context + s @ A.T
                if c["method"] != "stop-paper":
                    context = context + bias
                masked = masked + (bias if c["method"] == "stop-official" else predictor.mask_token[0])
                predictions.append(predictor(torch.cat([context, masked])[None])[0, len(context):])
                targets.append(whole[b, at])
    predictions, targets = torch.stack(predictions), torch.stack(targets)
    out |= {"context": torch.cat(features), "targets": targets, "predictions": predictions}
    loss = F.smooth_l1_loss(predictions, targets)
    if c.get("penalty"):
        norm, weight = c["penalty"].split(":")
        out["penalty"] = float(weight) * (A.abs() if norm == "l1" else A.square()).sum()[None].detach()
        loss = loss + float(weight) * (A.abs() if norm == "l1" else A.square()).sum()
    return loss


def make_variants(joint):
    joint = joint | {"image_size": 10, "patch_size": 2, "embed_dim": 8, "predictor_embed_dim": 4, "predictor_num_heads": 2,
                     "depth": 2, "num_pred_masks": 2}  # fmt: skip
    stop = joint | {"apply_stop": True, "noise_std": 0.7}
    ijepa = joint | {"method": "ijepa-official", "image_size": 12, "num_enc_masks": 1, "target_tokens": 9}
    variants = {
        "stop_noise_on_context": stop | {"method": "stop-paper", "noise_on": "context", "covariance": "learned"},
        "stop_noise_on_both": stop | {"method": "stop-official", "noise_on": "both", "covariance": "learned"},
        "stop_fixed": stop | {"method": "stop-official", "noise_on": "masked", "covariance": "fixed"},
        "stop_conditioned": stop | {"method": "stop-paper", "noise_on": "both", "covariance": "conditioned"},
        "ijepa_bilinear_l1": ijepa | {"target_resolution": "bilinear", "penalty": "l1:0.02"},
        "ijepa_max_pool_l2": ijepa | {"target_resolution": "max-pool", "penalty": "l2:0.03"},
    }
    for seed, (name, c) in enumerate(variants.items(), 100):
        make(name, c, seed, (variant_batch, variant_step))


def make(name, c, seed, variant=None):
    c = SIZES | STEPS | c
    g = torch.Generator().manual_seed(seed)
    mae, in_place = c["method"].startswith("mae-"), c["method"] in ("data2vec", "simmim")
    pixels = mae or c["method"] == "simmim"
    kind, outputs = "decoder" if mae else "predictor", 3 * c["patch_size"] ** 2 if pixels else c["embed_dim"]
    encoder = Encoder(c, class_token=mae, mask_token=in_place)
    if in_place:
        kind, predictor = None, Head(c["embed_dim"], outputs)
    else:
        predictor = Predictor(c, kind, outputs, class_token=mae)
    target = None if pixels else copy.deepcopy(encoder)
    prefixes = ("model", "model") if mae else ("encoder", "head" if in_place else "predictor", "target_encoder")
    networks = [m for m in (encoder, predictor, target) if m is not None]
    modules = [(p, None if i != 1 else kind, m) for i, (p, m) in enumerate(zip(prefixes, networks))]
    for _, _, module in modules:
        fill(module, g)
    tensors = {}

    def keep_weights(before):
        for prefix, kind_, module in modules:
            for key, value in module.state_dict().items():
                tensors[f"{before}{prefix}.{official_name(key, kind_)}"] = value.detach().clone()

    keep_weights("")
    trained = [(n, p) for module in (encoder, predictor) for n, p in module.named_parameters()]
    decays = lambda n, p: p.ndim > 1 and not n.endswith("bias")
    groups = [{"params": [p for n, p in trained if decays(n, p) == decay]} for decay in (True, False)]
    optimizer = torch.optim.AdamW(groups, betas=tuple(c["adamw"]["betas"]), eps=c["adamw"]["eps"], foreach=False)
    for step in range(c["steps"]):
        draw, compute = variant or ((mae_batch, mae_step) if mae else
                                    (joint_embedding_batch, in_place_step if in_place else joint_embedding_step))
        batch, out = draw(c, g), {}
        loss = compute(c, encoder, predictor, target, batch, out)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        out["loss"] = loss[None]
        tensors |= {f"step{step}.{k}": v for k, v in batch.items()}
        tensors |= {f"step{step}.out.{k}": v.detach() for k, v in out.items()}
        if step == 0:
            for prefix, kind_, module in modules[:2]:
                grads = {k: p.grad.clone() for k, p in module.named_parameters() if p.grad is not None}
                tensors |= {f"step0.grad.{prefix}.{official_name(k, kind_)}": v for k, v in grads.items()}
        for group, decay in zip(optimizer.param_groups, (c["weight_decay"][step], 0.0)):
            group |= {"lr": c["lr"][step], "weight_decay": decay}
        optimizer.step()
        if target is not None:
            for mine, online in zip(target.parameters(), encoder.parameters()):
                mine.data.lerp_(online.data, 1 - c["ema_momentum"][step])
    keep_weights("after.")
    write(name, c, tensors)


def write(name, config, tensors):
    """A safetensors file with its header in one order; the package's own writer shuffles the metadata."""
    numpy = {k: np.ascontiguousarray(v.numpy()) for k, v in sorted(tensors.items())}
    metadata = {"format": "stop-mim-parity-1", "config": json.dumps(config), "made_with": json.dumps(VERSIONS)}
    header, at = {"__metadata__": metadata}, 0
    for key, array in numpy.items():
        dtype = {"float64": "F64", "int64": "I64"}[str(array.dtype)]
        header[key] = {"dtype": dtype, "shape": array.shape, "data_offsets": (at, at + array.nbytes)}
        at += array.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    data = b"".join(array.tobytes() for array in numpy.values())
    (HERE / f"{name}_3_steps.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + data)


# Schedules


def run_scheduler(base, make_scheduler, steps):
    """What a PyTorch scheduler makes of `base` after 0, 1, … `steps` of its steps."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=base)
    scheduler = make_scheduler(optimizer)
    values = [optimizer.param_groups[0]["lr"]]
    for _ in range(steps):
        optimizer.step()
        scheduler.step()
        values.append(optimizer.param_groups[0]["lr"])
    return [float(v) for v in values]


def learning_rate(start, peak, end, warmup, total):
    """The official counter moves before it is read: step 1 has the value after one step of the scheduler."""

    def scheduler(optimizer):
        cosine = lr_scheduler.CosineAnnealingLR(optimizer, T_max=max(1, total - warmup), eta_min=end)
        if warmup == 0:
            return cosine
        line = lr_scheduler.LinearLR(optimizer, start_factor=start / peak, end_factor=1.0, total_iters=warmup)
        return lr_scheduler.SequentialLR(optimizer, [line, cosine], milestones=[warmup])

    values = run_scheduler(peak, scheduler, total)[1:]
    return {"start": start, "peak": peak, "end": end, "warmup": warmup, "total": total, "values": values}


def weight_decay(start, end, total):
    """Counted as the learning rate is."""
    scheduler = lambda optimizer: lr_scheduler.CosineAnnealingLR(optimizer, T_max=total, eta_min=end)
    return {"start": start, "end": end, "total": total, "values": run_scheduler(start, scheduler, total)[1:]}


def ema_momentum(start, end, total):
    """A generator that starts at `start`: step 1 has the value before any step of the scheduler."""
    scheduler = lambda optimizer: lr_scheduler.LinearLR(optimizer, start / 1.0, end / 1.0, total_iters=total)
    return {"start": start, "end": end, "total": total, "values": run_scheduler(1.0, scheduler, total)[:-1]}


def make_schedules():
    # start, peak, end, warm-up, total
    rates = [(2e-4, 1e-3, 1e-6, 15, 100), (1e-4, 5e-4, 1e-4, 0, 37), (1e-6, 1.5e-3, 0.0, 1, 53), (0.3, 0.3, 0.1, 4, 11),
             (0.1, 1.0, 0.25, 7, 8), (0.1, 1.0, 0.25, 6, 6), (0.5, 2.0, 0.5, 1, 1), (2e-4, 1e-3, 1e-6, 97, 241)]  # fmt: skip
    lengths = [1, 2, 7, 100, 241]
    schedules = {
        "learning_rate": [learning_rate(*rate) for rate in rates],
        "weight_decay": [weight_decay(*ends, n) for ends in [(0.04, 0.4), (0.05, 0.05), (0.3, 0.0)] for n in lengths],
        "ema_momentum": [ema_momentum(*ends, n) for ends in [(0.996, 1.0), (0.99, 0.9999), (0.5, 0.5)] for n in lengths],
    }
    lines = [f'"{kind}": [\n' + ",\n".join(map(json.dumps, cases)) + "\n]" for kind, cases in schedules.items()]
    text = f'{{\n"made_with": {json.dumps(VERSIONS)},\n' + ",\n".join(lines) + "\n}\n"
    (HERE / "schedules.json").write_text(text)


def main():
    adamw = {"betas": [0.9, 0.999], "eps": 1e-8}
    joint = {"image_size": 20, "embed_dim": 8, "depth": 3, "num_heads": 2, "predictor_embed_dim": 12,
             "predictor_depth": 1, "predictor_num_heads": 3, "num_enc_masks": 2, "num_pred_masks": 3, "target_blocks": 2,
             "context_tokens": 7, "target_tokens": 4, "apply_stop": False, "noise_std": 0.0, "learned_pos_emb": True,
             "adamw": adamw}  # fmt: skip
    stop = joint | {"num_pred_masks": 2, "apply_stop": True, "noise_std": 0.7}
    make("ijepa", joint | {"method": "ijepa-official"}, 1)
    make("stop_official", stop | {"method": "stop-official", "image_size": 24, "num_enc_masks": 3}, 2)
    make("stop_paper", stop | {"method": "stop-paper", "target_blocks": 3}, 3)
    make("stop_switched_off", joint | {"method": "stop-official", "image_size": 24, "learned_pos_emb": False}, 4)
    make("mae", {"method": "mae-official", "image_size": 20, "embed_dim": 8, "depth": 2, "num_heads": 2,
                 "decoder_embed_dim": 12, "decoder_depth": 1, "decoder_num_heads": 3, "mask_ratio": 0.7,
                 "norm_pix_loss": True, "adamw": adamw | {"betas": [0.9, 0.95]}}, 5)  # fmt: skip
    make("mae_stop", {"method": "mae-stop", "image_size": 20, "embed_dim": 8, "depth": 2, "num_heads": 2,
                      "decoder_embed_dim": 12, "decoder_depth": 1, "decoder_num_heads": 3, "mask_ratio": 0.7,
                      "norm_pix_loss": False, "noise_std": 0.7, "adamw": adamw}, 6)  # fmt: skip
    in_place = {"image_size": 20, "embed_dim": 8, "depth": 3, "num_heads": 2, "context_tokens": 7, "adamw": adamw}
    make("data2vec", in_place | {"method": "data2vec", "num_enc_masks": 2, "num_pred_masks": 3, "target_tokens": 4,
                                 "target_blocks": 2}, 7)  # fmt: skip
    # A seed under which no gradient of the first step is near AdamW's ε: the signs of an l1 loss cancel, and what is left in f32
    # is rounding, which AdamW divides by its own size.
    make("simmim", in_place | {"method": "simmim", "num_enc_masks": 1, "num_pred_masks": 1, "target_tokens": 18}, 19)
    make_variants(joint)
    make_schedules()


if __name__ == "__main__":
    main()
