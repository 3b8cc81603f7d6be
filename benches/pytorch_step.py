"""One I-JEPA training step in PyTorch, to be measured in turn with others: benches/cuda.py compares stop-mim with it.

    python benches/pytorch_step.py WORKLOAD.safetensors --precision bf16 --manners eager,compiled,compiled-graph
    python benches/pytorch_step.py vit-b16 --images 64 --device cuda

The protocol is that of benches/common/place.rs, but a line also says in which manner the steps are made: "eager 20".
Manners: eager; compiled by `torch.compile`; and each as a single CUDA graph of the whole step. All of them go on with
the same weights. Attention is `scaled_dot_product_attention`, AdamW the fused one, the moving average one `foreach`
call. The time of a step is that of all steps of a line over their number: nothing waits for the GPU in between. Needs
PyTorch and NumPy.
"""

import argparse
import copy
import json
import resource
import sys
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

MOMENTUM = 0.996


class Block(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width, eps=1e-6), nn.LayerNorm(width, eps=1e-6)
        self.attn = nn.ModuleDict({"qkv": nn.Linear(width, 3 * width), "proj": nn.Linear(width, width)})
        self.mlp = nn.ModuleDict({"fc1": nn.Linear(width, 4 * width), "fc2": nn.Linear(4 * width, width)})

    def forward(self, x):
        b, n, width = x.shape
        q, k, v = self.attn["qkv"](self.norm1(x)).view(b, n, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        x = x + self.attn["proj"](F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, n, width))
        return x + self.mlp["fc2"](F.gelu(self.mlp["fc1"](self.norm2(x))))


def pick(x, indices):
    """Tokens of x (B, N, D) at indices (B, K)."""
    return x.gather(1, indices.unsqueeze(-1).expand(-1, -1, x.shape[-1]))


class Encoder(nn.Module):
    def __init__(self, width, depth, heads, patch, tokens):
        super().__init__()
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(3, width, patch, patch)})
        self.register_buffer("pos_embed", torch.randn(1, tokens, width))
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width, eps=1e-6)

    def forward(self, images, keep=None):
        x = self.patch_embed["proj"](images).flatten(2).transpose(1, 2) + self.pos_embed
        if keep is not None:
            x = pick(x, keep)
        for block in self.blocks:
            x = block(x)
        return self.norm(x)


class Predictor(nn.Module):
    def __init__(self, encoder_width, width, depth, heads, tokens):
        super().__init__()
        self.predictor_embed = nn.Linear(encoder_width, width)
        self.mask_token = nn.Parameter(0.02 * torch.randn(1, 1, width))
        self.register_buffer("predictor_pos_embed", torch.randn(1, tokens, width))
        self.predictor_blocks = nn.ModuleList(Block(width, heads) for _ in range(depth))
        self.predictor_norm = nn.LayerNorm(width, eps=1e-6)
        self.predictor_proj = nn.Linear(width, encoder_width)

    def forward(self, features, context, targets):
        position = self.predictor_pos_embed.expand(len(features), -1, -1)
        seen = self.predictor_embed(features) + pick(position, context)
        masked = torch.cat([pick(position, t) for t in targets]) + self.mask_token
        x = torch.cat([seen.repeat(len(targets), 1, 1), masked], dim=1)
        for block in self.predictor_blocks:
            x = block(x)
        return self.predictor_proj(self.predictor_norm(x[:, context.shape[1] :]))


def read_safetensors(path):
    data = Path(path).read_bytes()
    length = int.from_bytes(data[:8], "little")
    tensors = {}
    for name, entry in json.loads(data[8 : 8 + length]).items():
        if name != "__metadata__":
            begin, end = (8 + length + offset for offset in entry["data_offsets"])
            values = np.frombuffer(data[begin:end], {"F32": np.float32, "I64": np.int64}[entry["dtype"]])
            tensors[name] = torch.from_numpy(values.reshape(entry["shape"]).copy())
    return tensors


def from_workload(path):
    """The networks and the batch that benches/training_step.rs reads from the same file."""
    tensors = read_safetensors(path)
    depth = len([name for name in tensors if name.startswith("encoder.blocks.") and name.endswith(".norm1.weight")])
    predictor_depth = len([name for name in tensors if "predictor_blocks" in name and name.endswith(".norm1.weight")])
    width, _, patch, _ = tensors["encoder.patch_embed.proj.weight"].shape
    predictor_width, tokens = len(tensors["predictor.predictor_norm.weight"]), tensors["encoder.pos_embed"].shape[1]
    encoder = Encoder(width, depth, 3, patch, tokens)
    predictor = Predictor(width, predictor_width, predictor_depth, 3, tokens)
    for prefix, network in ("encoder.", encoder), ("predictor.", predictor):
        network.load_state_dict({k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)})
    return encoder, predictor, tensors["images"], tensors["masks_ctx"], tensors["masks_tgt"]


def vit_b16(images, small):
    """What benches/vit_b16.rs measures: random images, masks of the mean sizes; `small`, two blocks instead of 18."""
    encoder, predictor = Encoder(768, 1 if small else 12, 12, 16, 196), Predictor(768, 384, 1 if small else 6, 12, 196)
    mask = lambda first, n: ((first + torch.arange(n)) % 196).expand(images, -1).contiguous()
    targets = torch.stack([mask(72 + 17 * k, 34) for k in range(4)])
    return encoder, predictor, torch.randn(images, 3, 224, 224), mask(0, 72), targets


class Step:
    """A training step, in several manners."""

    def __init__(self, parts, device, precision, backend):
        encoder, predictor, *batch = parts
        self.device, self.precision, self.backend = device, precision, backend
        self.encoder, self.predictor = encoder.to(device), predictor.to(device)
        self.target = copy.deepcopy(self.encoder).requires_grad_(False)
        self.images, self.context, self.targets = (x.to(device) for x in batch)
        trained = [*self.encoder.parameters(), *self.predictor.parameters()]
        matrices, vectors = [p for p in trained if p.ndim > 1], [p for p in trained if p.ndim <= 1]
        groups = [{"params": matrices}, {"params": vectors, "weight_decay": 0.0}]
        on_gpu = device != "cpu"
        self.optimizer = torch.optim.AdamW(groups, lr=1e-3, weight_decay=0.05, fused=True, capturable=on_gpu)
        self.average, self.online = list(self.target.parameters()), list(self.encoder.parameters())

    def loss(self):
        with torch.no_grad():
            whole = self.target(self.images).float()
            whole = F.layer_norm(whole, whole.shape[-1:])
            answers = torch.cat([pick(whole, t) for t in self.targets])
        predicted = self.predictor(self.encoder(self.images, self.context), self.context, self.targets)
        return F.smooth_l1_loss(predicted.float(), answers)

    def update(self, compute_loss):
        bf16 = self.precision == "bf16"
        with torch.autocast(self.device.split(":")[0], torch.bfloat16, enabled=bf16, cache_enabled=False):
            loss = compute_loss()
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        with torch.no_grad():
            torch._foreach_lerp_(self.average, self.online, 1 - MOMENTUM)
        return loss.detach()

    def wait(self):
        if self.device != "cpu":
            torch.cuda.synchronize()

    def in_manner(self, manner, compiled):
        """A function that makes one step so."""
        compute_loss = compiled if "compiled" in manner else self.loss
        if not manner.endswith("graph"):
            return lambda: self.update(compute_loss)
        aside = torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            for _ in range(2):
                self.update(compute_loss)
        torch.cuda.current_stream().wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            loss = self.update(compute_loss)

        def replay():
            graph.replay()
            return loss

        return replay

    def run(self, step, n):
        self.wait()
        begun = time.perf_counter()
        losses = [step().clone() for _ in range(n)]
        self.wait()
        ms = 1e3 * (time.perf_counter() - begun) / max(n, 1)
        return [ms] * n, [loss.item() for loss in losses]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("workload", help="a file of benches/cuda.py --workload, or vit-b16")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--precision", default="f32", choices=["f32", "tf32", "bf16"])
    parser.add_argument("--manners", default="eager", help="some of eager, compiled, eager-graph, compiled-graph")
    parser.add_argument("--images", type=int, default=64, help="of vit-b16")
    parser.add_argument("--small", action="store_true", help="vit-b16 with two blocks")
    parser.add_argument("--backend", default="inductor", help="of torch.compile")
    args = parser.parse_args()
    torch.manual_seed(0)
    on_gpu = args.device != "cpu"
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = args.precision != "f32"
    parts = vit_b16(args.images, args.small) if args.workload == "vit-b16" else from_workload(args.workload)
    step = Step(parts, args.device, args.precision, args.backend)
    compiled = torch.compile(step.loss, backend=args.backend, dynamic=False)

    manners, ready, first_losses = {}, {}, None
    for manner in args.manners.split(","):
        begun = time.perf_counter()
        try:
            if on_gpu:
                torch.cuda.reset_peak_memory_stats()
            one = step.in_manner(manner, compiled)
            losses = step.run(one, 3)[1]
            first_losses = first_losses or losses
            manners[manner] = one
            ready[manner] = {"setup_s": time.perf_counter() - begun}
            if on_gpu and not manner.endswith("graph"):  # a graph's memory stays, and counts in all that come after
                ready[manner]["gpu_mb"] = torch.cuda.max_memory_allocated() / 2**20
        except Exception as error:  # whatever PyTorch cannot do here, the other manners may
            ready[manner] = {"error": f"{type(error).__name__}: {str(error).strip()[:300]}"}
    say = lambda answer: print(json.dumps(answer), flush=True)
    say({"ready": f"PyTorch {torch.__version__}", "manners": ready, "first_losses": first_losses})
    for line in sys.stdin:
        manner, n = line.split()
        ms, losses = step.run(manners[manner], int(n))
        say({"ms": ms, "loss": losses})
    say({"peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024})


if __name__ == "__main__":
    main()
