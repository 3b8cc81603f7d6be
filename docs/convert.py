"""Weights between PyTorch and stop-mim: `.pth.tar` to safetensors and back, and a check of both. See interop.md.

    python docs/convert.py from-torch jepa.pth.tar jepa.safetensors
    python docs/convert.py to-torch runs/NAME/checkpoint.safetensors stop.pth.tar
    python docs/convert.py check [b16 l16 h14 g16]
    python docs/convert.py check files

Needs torch and safetensors. Nothing in a file is executed. The ViTs below are this project's own code under the official
names.
"""

import argparse
import json
import os
import pickle
import subprocess
import sys
import tempfile
import types
import warnings
import zlib
from collections import OrderedDict

try:
    import torch
    from safetensors import safe_open
    from safetensors.torch import save_file
    from torch import nn
    from torch.nn import functional as F
except ImportError as error:
    sys.exit(f"{error}; convert.py needs PyTorch and safetensors: pip install torch safetensors")

MODULES = ("encoder", "predictor", "head", "target_encoder", "model")
OURS = "stop_mim"  # where to-torch keeps what PyTorch's modules have no place for


# --- Reading what torch.save wrote -----------------------------------------------------------------------------------

REBUILD = ("_rebuild_tensor", "_rebuild_tensor_v2", "_rebuild_parameter", "_rebuild_parameter_with_state")
KNOWN = {("torch._utils", name): getattr(torch._utils, name) for name in REBUILD}
KNOWN |= {("collections", "OrderedDict"): OrderedDict, ("torch", "Size"): torch.Size, ("torch", "device"): torch.device}
KNOWN |= {("torch", str(x)[len("torch.") :]): x for x in vars(torch).values() if isinstance(x, torch.dtype)}


class Inert(dict):
    """What stands for a thing of any other class: it takes whatever a pickle does to it, and does nothing. It is a dictionary,
    so that weights in somebody's own kind of dictionary are found."""

    def __new__(cls, *args, **kwargs):
        return super().__new__(cls)

    def __init__(self, *args, **kwargs):
        super().__init__()

    def ignore(self, *args, **kwargs):
        return self

    __setstate__ = __call__ = append = extend = add = ignore
    __hash__, __eq__ = object.__hash__, object.__eq__


class Unpickler(pickle.Unpickler):
    """Makes tensors, plain values, and nothing else: of every other class and function, whatever it is called, there is
    an inert one. None is imported, and none called."""

    stood_in_for = set()

    def find_class(self, module, name):
        if (module, name) in KNOWN:
            return KNOWN[module, name]
        self.stood_in_for.add(f"{module}.{name}")
        return type("Inert", (Inert,), {})


def load(source):
    """The content of a file that torch.save wrote, in the zip format or the older one."""
    with open(source, "rb") as file:
        start = file.read(9)
        file.seek(0)
        if start[8:] == b"{":
            sys.exit(f"{source}: is a safetensors file already, which stop-mim reads as it is")
        if start[:4] == b"PK\x03\x04" and is_torchscript(file):  # torch.load would run its code
            hint = "load it with torch.jit.load, if you trust it, and save its state_dict()"
            sys.exit(f"{source}: a TorchScript archive, which is code; {hint}")
    plain = dict(map_location="cpu", weights_only=True)
    inert = types.SimpleNamespace(
        __name__="inert", Unpickler=Unpickler, load=lambda file, **options: Unpickler(file, **options).load()
    )
    guarded = dict(map_location="cpu", weights_only=False, pickle_module=inert)
    ways = [dict(plain, mmap=True), plain, dict(guarded, mmap=True), guarded]
    for way in ways:
        Unpickler.stood_in_for.clear()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                saved = torch.load(source, **way)
            break
        except MemoryError:
            raise
        except Exception as error:  # a damaged pickle can raise any
            if way is ways[-1]:
                sys.exit(f"{source}: not a whole file of torch.save: {brief(error)}")
    if Unpickler.stood_in_for:
        print(f"{source}: not only tensors are in it; passed over: {', '.join(sorted(Unpickler.stood_in_for)[:9])}")
    return saved


def is_torchscript(file):
    """Whether a zip file has code in it, as the reader of torch.load itself sees it."""
    try:
        names = torch._C.PyTorchFileReader(file).get_all_records()
    except Exception:  # damaged: torch.load, which reads it in the same way, says how
        return False
    return any(name == "constants.pkl" or name.startswith("code/") for name in names)


def brief(error):
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]


def tensors_in(value, path=(), depth=0):
    """All tensors in nested dictionaries with their names, joined by points; and the names of what is none. `module.` and
    `_orig_mod.`, which data-parallel training and torch.compile put before names, are taken off. The state of an
    optimizer has numbers for names, and is no module's."""
    tensors, rest = [], []
    for key, x in value.items():
        here = (*path, key)
        if isinstance(x, torch.Tensor) and isinstance(key, str) and x.layout == torch.strided and not x.is_meta:
            parts = [part for part in ".".join(here).split(".") if part not in ("module", "_orig_mod")]
            tensors.append((".".join(parts), x.detach()))
        elif isinstance(x, dict) and x and depth < 8 and isinstance(key, str):
            inner, others = tensors_in(x, here, depth + 1)
            tensors += inner
            rest += others if inner else [".".join(here)]
        else:
            rest.append(".".join(map(str, here)))
    return tensors, rest


# --- Conversion ------------------------------------------------------------------------------------------------------


def replace(target, save):
    """Has `save` write a file that takes the place of `target` once it is whole."""
    if os.path.exists(target) and not os.path.isfile(target):
        sys.exit(f"{target}: is no ordinary file; give the name of one")
    unfinished = f"{target}.{os.getpid()}.tmp"
    try:
        save(unfinished)
        os.replace(unfinished, target)
    finally:
        if os.path.exists(unfinished):
            os.remove(unfinished)


def summed(metadata, tensors):
    """The metadata with the checksums of these tensors, if there are any in it: see src/train/safetensors/mod.rs."""
    if "crc32" not in metadata:
        return metadata
    sum_of = lambda bytes: f"{zlib.crc32(bytes):08x}"
    sums = {name: sum_of(bits(tensors[name]).numpy()) for name in sorted(tensors)}
    metadata = {**metadata, "crc32": json.dumps(sums, separators=(",", ":"), ensure_ascii=False)}
    others = sorted((key, value) for key, value in metadata.items() if key != "checksum")
    return {**metadata, "checksum": sum_of("".join(f"{key}\0{value}\0" for key, value in others).encode())}


def bits(x):
    return x.contiguous().reshape(-1).view(torch.uint8)


def from_torch(source, target):
    """The tensors of a .pth.tar as one safetensors file, under the names of its dictionaries: `encoder.blocks.0...`. A file
    that is one module itself keeps plain names."""
    saved = load(source)
    if not isinstance(saved, dict):
        sys.exit(f"{source}: a {type(saved).__name__}, not a dictionary of tensors; save a state_dict()")
    if isinstance(saved, Inert) and not saved:
        sys.exit(f"{source}: a whole object, which only its own code can read; load it there, and save its state_dict()")
    kept = saved.pop(OURS, None) or {"tensors": {}, "metadata": {}}
    found, skipped = tensors_in(saved)
    if not found:
        sys.exit(f"{source}: no module's tensors in it, only {', '.join(map(str, saved)) or 'nothing'}; save a state_dict()")
    tensors = dict(kept["tensors"])
    for name, x in found:
        if name in tensors:
            sys.exit(f"{source}: two tensors are called {name}")
        tensors[name] = x
    addresses = set()
    for name, x in tensors.items():  # safetensors wants each tensor whole and on its own
        if not x.is_contiguous() or x.data_ptr() in addresses:
            tensors[name] = x = x.clone(memory_format=torch.contiguous_format)
        addresses.add(x.data_ptr())
    metadata = summed(kept["metadata"], tensors) or None
    replace(target, lambda path: save_file(tensors, path, metadata=metadata))
    more = f", and {len(skipped) - 20} more" if len(skipped) > 20 else ""
    left_out = f"; left out: {', '.join(skipped[:20])}{more}" if skipped else ""
    print(f"{target}: {len(tensors)} tensors{left_out}")


def to_torch(source, target, parallel=False):
    """A checkpoint as a .pth.tar of state dicts, one for each module, that `load_state_dict(strict=True)` accepts.
    What else is in it (metadata, the optimizer's state) is kept aside for the way back."""
    before = "module." if parallel else ""
    out, rest, tensors = {}, {}, {}
    with safe_open(source, "pt") as file:
        for name in file.keys():
            module, _, own = name.partition(".")
            tensors[name] = file.get_tensor(name)
            if module in MODULES:
                out.setdefault(module, {})[before + own] = tensors[name]
            else:
                rest[name] = tensors[name]
        metadata = file.metadata() or {}
    if summed(metadata, tensors) != metadata:  # from-torch would give it new ones, and nobody would know
        sys.exit(f"{source}: damaged: it does not have its checksums; take another copy")
    if not out:  # plain names: the file is one module
        replace(target, lambda path: torch.save({before + name: x for name, x in rest.items()}, path))
        return print(f"{target}: {len(rest)} tensors")
    out[OURS] = {"tensors": rest, "metadata": metadata}
    replace(target, lambda path: torch.save(out, path))
    print(f"{target}: " + ", ".join(f"{k} ({len(v)} tensors)" for k, v in out.items() if k != OURS))


# --- The networks ----------------------------------------------------------------------------------------------------


def norm(dim):
    return nn.LayerNorm(dim, eps=1e-6)


class Attention(nn.Module):
    def __init__(self, dim, heads):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x):
        b, n, d = x.shape
        q, k, v = self.qkv(x).view(b, n, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4)
        weights = (q @ k.transpose(-2, -1) * (d // self.heads) ** -0.5).softmax(-1)
        return self.proj((weights @ v).transpose(1, 2).reshape(b, n, d))


class Mlp(nn.Module):
    def __init__(self, dim, hidden):
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, x):
        return self.fc2(F.gelu(self.fc1(x)))


class Block(nn.Module):
    def __init__(self, dim, heads, hidden=None):
        super().__init__()
        self.norm1, self.attn = norm(dim), Attention(dim, heads)
        self.norm2, self.mlp = norm(dim), Mlp(dim, hidden or 4 * dim)

    def forward(self, x):
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class PatchEmbed(nn.Module):
    def __init__(self, patch, dim):
        super().__init__()
        self.proj = nn.Conv2d(3, dim, patch, patch)

    def forward(self, x):
        return self.proj(x).flatten(2).transpose(1, 2)


def table(tokens, dim):
    return nn.Parameter(torch.zeros(1, tokens, dim), requires_grad=False)


class Encoder(nn.Module):
    def __init__(self, size, patch, dim, depth, heads, hidden=None, class_token=False):
        super().__init__()
        self.patch_embed = PatchEmbed(patch, dim)
        self.pos_embed = table((size // patch) ** 2 + class_token, dim)
        if class_token:
            self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.blocks = nn.ModuleList(Block(dim, heads, hidden) for _ in range(depth))
        self.norm = norm(dim)

    def forward(self, x):
        x = self.patch_embed(x)
        if hasattr(self, "cls_token"):
            x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], 1)
        x = x + self.pos_embed
        for block in self.blocks:
            x = block(x)
        return self.norm(x)


def predictor(tokens, encoder_dim, dim, depth, heads):
    """The official names of a predictor; only names and shapes matter here."""
    module = nn.Module()
    module.predictor_embed = nn.Linear(encoder_dim, dim)
    module.mask_token = nn.Parameter(torch.zeros(1, 1, dim))
    module.predictor_pos_embed = table(tokens, dim)
    module.predictor_blocks = nn.ModuleList(Block(dim, heads) for _ in range(depth))
    module.predictor_norm = norm(dim)
    module.predictor_proj = nn.Linear(dim, encoder_dim)
    return module


def mae(size, patch, dim, depth, heads, decoder_dim, decoder_depth, decoder_heads):
    """MAE is one module: an encoder with a class token, and its decoder."""
    module = Encoder(size, patch, dim, depth, heads, class_token=True)
    module.decoder_embed = nn.Linear(dim, decoder_dim)
    module.mask_token = nn.Parameter(torch.zeros(1, 1, decoder_dim))
    module.decoder_pos_embed = table((size // patch) ** 2 + 1, decoder_dim)
    module.decoder_blocks = nn.ModuleList(Block(decoder_dim, decoder_heads) for _ in range(decoder_depth))
    module.decoder_norm = norm(decoder_dim)
    module.decoder_pred = nn.Linear(decoder_dim, 3 * patch**2)
    return module


# --- The check -------------------------------------------------------------------------------------------------------

PRESETS = {
    "b16": (224, 16, 768, 12, 12),
    "l16": (224, 16, 1024, 24, 16),
    "h14": (224, 14, 1280, 32, 16),
    "g16": (224, 16, 1408, 40, 16, 6144),
}
TOLERANCE = 1e-4


# In a small process of its own: the peak of a child counts from the memory of the process that started it.
MEASURE = """
import resource, subprocess, sys, time
start = time.time()
code = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL).returncode
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(time.time() - start, used.ru_utime + used.ru_stime, used.ru_maxrss * 1024 / 1e9)
sys.exit(code)
"""


def run(*command):
    """Runs a command; (seconds, processor seconds, peak resident memory in GB)."""
    done = subprocess.run([sys.executable, "-c", MEASURE, *command], stdout=subprocess.PIPE, text=True)
    if done.returncode != 0:
        sys.exit(f"failed: {' '.join(command)}")
    return tuple(map(float, done.stdout.split()))


def randomize(module, seed):
    """Weights large enough that every part of the network shows in the features, biases and norms included."""
    generator = torch.Generator().manual_seed(seed)
    for name, x in module.named_parameters():
        std = 0.5 * x[0].numel() ** -0.5 if x.dim() > 1 and "token" not in name and "pos" not in name else 0.2
        x.data.normal_(1.0 if "norm" in name and name.endswith("weight") else 0.0, std, generator=generator)


def features_agree(program, name, folder, class_token=False, dtype=torch.float32):
    """An encoder in the layout of the official files, `.pth.tar` to safetensors to features, against PyTorch's."""
    sizes = PRESETS[name]
    pth, weights, images, out = (os.path.join(folder, f) for f in ("w.pth.tar", "w.st", "images.st", "out.st"))
    with torch.no_grad():
        encoder = Encoder(*sizes, class_token=class_token).eval()
        randomize(encoder, 0)
        encoder.load_state_dict({k: x.to(dtype).float() for k, x in encoder.state_dict().items()})
        x = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(1))
        expected = encoder(x)
        state = {f"module.{k}": v.to(dtype) for k, v in encoder.state_dict().items()}
    torch.save({"target_encoder": state, "epoch": 300}, pth)
    save_file({"images": x}, images)
    del encoder, state
    from_torch(pth, weights)
    os.remove(pth)
    command = (program, "features", weights, "--preset", f"vit-{name}", "--images", images, "--out", out)
    seconds, processor, peak = run(*command)
    with safe_open(out, "pt") as file:
        found = file.get_tensor("features")
    error = (found - expected).abs().max().item()
    size = os.path.getsize(weights) / 1e9
    what = f"vit-{name} {str(dtype).removeprefix('torch.')}{' with class token' if class_token else ''}"
    print(
        f"{what}: file {size:.2f} GB; {tuple(found.shape)} features of spread {expected.std():.2f}, largest difference"
        f" {error:.1e}; start, load and forward pass in {seconds:.1f} s ({processor:.1f} s of processor time),"
        f" {peak:.2f} GB at the peak",
        flush=True,
    )
    os.remove(weights)
    return found.shape == expected.shape and error <= TOLERANCE


def read_all(path):
    with safe_open(path, "pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, file.metadata()


def round_trip(program, folder, method):
    """A checkpoint of ours into PyTorch's modules, strictly, and back: the same bits, and the program reads it."""
    program = os.path.abspath(program)
    small = "--dim 32 --depth 2 --heads 2 --predictor-dim 16 --predictor-depth 1 --predictor-heads 2"
    train = f"--batch 4 --steps 2 --out {folder} --name {method} --method {method}"
    run(program, "pretrain", *small.split(), *train.split())
    ours, pth, again, back = (
        os.path.join(folder, f) for f in (f"{method}/checkpoint.safetensors", "ours.pth.tar", "2.pth.tar", "back.st")
    )
    to_torch(ours, pth)
    saved = torch.load(pth, weights_only=True)
    sizes = (32, 4, 32, 2, 2)
    modules = {
        "encoder": lambda: Encoder(*sizes),
        "target_encoder": lambda: Encoder(*sizes),
        "predictor": lambda: predictor(64, 32, 16, 1, 2),
        "model": lambda: mae(*sizes, 16, 1, 2),
    }
    for name in saved:
        if name in modules:
            module = modules[name]()
            module.load_state_dict(saved[name], strict=True)
            saved[name] = nn.DataParallel(module).state_dict()  # with `module.` before every name
    torch.save(saved, again)
    from_torch(again, back)
    (a, metadata_a), (b, metadata_b) = read_all(ours), read_all(back)
    same = a.keys() == b.keys() and all(
        a[k].dtype == b[k].dtype and a[k].shape == b[k].shape and torch.equal(bits(a[k]), bits(b[k])) for k in a
    )
    run(program, "probe", back, "--probe-images", "20,20")
    # And after training in PyTorch: other weights, other checksums.
    next(iter(saved[next(iter(saved))].values())).add_(1)
    torch.save(saved, again)
    from_torch(again, back)
    run(program, "probe", back, "--probe-images", "20,20")
    changed = read_all(back)[1]["crc32"] != metadata_a["crc32"]
    print(
        f"{method}: {len(a)} tensors to PyTorch (strict) and back: {'the same bits' if same else 'DIFFERENT'}; with a"
        f" changed weight, {'read too' if changed else 'NOT CHANGED'}"
    )
    return same and metadata_a == metadata_b and changed


class Prints:
    """Says so when it is unpickled, if that is let happen."""

    def __reduce__(self):
        return print, ("EXECUTED",)


class Scripted(nn.Module):
    """As TorchScript, says so when it is loaded."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(2))

    @torch.jit.export
    def __getstate__(self):
        return self.weight, self.training

    @torch.jit.export
    def __setstate__(self, state: tuple[torch.Tensor, bool]):
        print("EXECUTED")
        self.weight = state[0]
        self.training = state[1]

    def forward(self, x):
        return x + self.weight


def files(folder):
    """Files of torch.save as they are found in the wild, each through this program's command line: what comes out, or
    what is said, and that nothing in them is executed."""
    weights = OrderedDict((f"module.{name}", torch.randn(3, 2)) for name in ("a.weight", "b.weight"))
    whole = {"encoder": weights, "args": argparse.Namespace(lr=0.1), "epoch": 3, "hook": Prints()}
    path = lambda name: os.path.join(folder, name)
    torch.save(dict(whole, hook=None), path("plain"))
    torch.save(whole, path("zip"))
    torch.save(whole, path("old"), _use_new_zipfile_serialization=False)
    torch.save([1, 2], path("list"))
    torch.save(Prints(), path("object"))
    torch.save({"epoch": 3}, path("empty"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.script(Scripted()).save(path("script"))
    save_file({"x": torch.zeros(1)}, path("safetensors"))
    for name in ("zip", "old"):
        with open(path(name), "rb") as file:
            content = file.read()
        with open(path(f"half-{name}"), "wb") as file:
            file.write(content[: len(content) // 2])
    with open(path("text"), "w") as file:
        file.write("no weights at all")
    cases = {
        "plain": "argparse.Namespace",
        "zip": "argparse.Namespace",
        "old": "argparse.Namespace",
        "list": "not a dictionary of tensors",
        "object": "a whole object",
        "empty": "no module's tensors",
        "script": "a TorchScript archive, which is code",
        "safetensors": "is a safetensors file already",
        "half-zip": "not a whole file of torch.save",
        "half-old": "not a whole file of torch.save",
        "text": "not a whole file of torch.save",
        "missing": "No such file",
    }
    results = []
    for name, words in cases.items():
        command = [sys.executable, os.path.abspath(__file__), "from-torch", path(name), path("out")]
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        fine = words in done.stdout and "EXECUTED" not in done.stdout and "Traceback" not in done.stdout
        read = name in ("plain", "zip", "old")
        fine = fine and done.returncode == (0 if read else 1) and os.path.exists(path("out")) == read
        if fine and read:
            found = read_all(path("out"))[0]
            expected = {name.replace("module.", "encoder."): x for name, x in weights.items()}
            fine = found.keys() == expected.keys() and all(torch.equal(found[k], expected[k]) for k in found)
            os.remove(path("out"))
        print(f"{name}: {'as it should be' if fine else f'WRONG: code {done.returncode}, {done.stdout}'}", flush=True)
        results.append(fine)
    return results


def check(program, names):
    results = []
    with tempfile.TemporaryDirectory() as folder:
        results += files(folder)
        if names == ["files"]:
            names = []
        else:
            results += [round_trip(program, folder, method) for method in ("stop", "ijepa", "mae")]
        for name in names:
            results.append(features_agree(program, name, folder))
            if name == "b16":
                for dtype in (torch.float16, torch.bfloat16, torch.float64):
                    results.append(features_agree(program, name, folder, dtype=dtype))
                results.append(features_agree(program, name, folder, class_token=True))
    print(f"{sum(results)} of {len(results)} checks pass")
    sys.exit(0 if all(results) else 1)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    for name, what in (("from-torch", ".pth.tar to safetensors"), ("to-torch", "safetensors to .pth.tar")):
        command = commands.add_parser(name, help=what)
        command.add_argument("source")
        command.add_argument("target")
    command.add_argument("--parallel", action="store_true", help="put `module.` before every name")
    command = commands.add_parser("check", help="compare features with PyTorch's, and both directions bit by bit")
    names = "b16, l16, h14, g16 [default: all but g16]; or files: only how files of torch.save are read, without the program"
    command.add_argument("names", nargs="*", default=["b16", "l16", "h14"], help=names)
    command.add_argument("--program", default="target/release/stop-mim")
    args = parser.parse_args()
    try:
        if args.command == "from-torch":
            from_torch(args.source, args.target)
        elif args.command == "to-torch":
            to_torch(args.source, args.target, args.parallel)
        else:
            check(args.program, args.names)
    except Exception as error:  # what is wrong is outside: a file, a disk, the memory
        place = f"{args.source} to {args.target}: " if args.command != "check" else ""
        sys.exit(f"{place}{brief(error)}")


if __name__ == "__main__":
    main()
