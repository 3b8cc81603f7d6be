"""Checks and measures all that this crate does on an NVIDIA GPU, in one go of under ten minutes.

    python benches/cuda.py --build DIR                   where Rust is: compiles the programs that are needed, into DIR
    python benches/cuda.py --binaries DIR [--out DIR]    where the GPU is: needs PyTorch and NumPy, no Rust, no network
    python benches/cuda.py --binaries DIR --rehearse     without a GPU: all of it in small, on the CPU that plays one
    python benches/cuda.py --workload FILE               writes workload T, which benches/training_step.rs reads

Both machines need this repository, and the second a C library that is new enough: the program says so. What it does:

- tests: every test that computes on a GPU;
- times: a step of workload T (a small ViT on 64 images of 32 x 32) and of ViT-B/16 on 64 images, in f32, tf32 and bf16,
  beside the same step in PyTorch (pytorch_step.py), on the same card, in turn; in bf16 also without CUDA graphs; medians
  over rounds;
- program: `stop-mim pretrain` with the toy preset on images like CIFAR-10's: images a second, the same bits from run to
  run, losses beside those of the CPU;
- sanitizers: compute-sanitizer's memcheck, racecheck, initcheck and synccheck on the tests of the kernels.

Every part has a limit of time, and what it finds is printed at once; a table of everything comes at the end, also when
it is stopped before (Ctrl-C or SIGTERM). It ends with 1 when something is wrong; a missed target is only said.
"""

import argparse
import contextlib
import hashlib
import json
import os
import queue
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
START = time.monotonic()
PRECISIONS = ["f32", "tf32", "bf16"]
MANNERS = ["eager", "compiled", "eager-graph", "compiled-graph"]
TOOLS = ["memcheck", "racecheck", "initcheck", "synccheck"]
BENCHES = ["training_step", "vit_b16"]

# Milliseconds a step at most, by workload and precision: what PyTorch reached on an H100, compiled (in f32: eager) and
# as one CUDA graph; and its memory.
TARGET_MS = {("T", "f32"): 6.6, ("T", "tf32"): 3.4, ("T", "bf16"): 2.5, ("ViT-B/16", "bf16"): 25.8}
TARGET_GIB = {("ViT-B/16", "bf16"): 5.6}
TARGET_IMAGES_A_SECOND = 100_000
# The first losses of workload T, of PyTorch on a CPU in f32; and how far off them, and off PyTorch's in the same precision,
# they may be. In f32 two CPU programs differ by 3e-8 (a wrong epsilon or momentum: 1e-5), in bf16 from f32 by 1e-4.
LOSSES = [0.439146, 0.365090, 0.311912]
LOSS_TOLERANCE = {"f32": 2e-6, "tf32": 1e-4, "bf16": 3e-4}


# ---- What is found -------------------------------------------------------------------------------------------------


class Report:
    """Lines that are printed as they come, with the time, and rows of the table at the end."""

    def __init__(self):
        self.rows, self.wrong, self.lines = [], [], []

    def say(self, text):
        line = f"[{time.monotonic() - START:4.0f} s] {text}"
        self.lines.append(line)
        print(line, flush=True)

    def problem(self, text):
        self.wrong.append(text)
        self.say("WRONG: " + text)

    def row(self, what, figure, target="", met=None, peers=()):
        verdict = {None: "", True: "met", False: "missed"}[met]
        figure = figure or "not measured"
        self.rows.append([what, figure, f"{target} {verdict}".strip(), *peers])
        self.say(f"{what}: {figure}" + (f" (target {target}: {verdict})" if target else ""))

    def table(self, machine):
        head = ["", "stop-mim", "target"] + ["PyTorch " + manner.replace("-graph", ", one graph") for manner in MANNERS]
        rows = [row + [""] * (len(head) - len(row)) for row in self.rows]
        lines = ["| " + " | ".join(row) + " |" for row in [head, ["---"] * len(head), *rows]]
        wrong = [f"- {text if len(text) < 250 else text[:250] + ' …'}" for text in self.wrong]
        ends = ["Wrong:", "", *wrong] if wrong else ["Nothing was found wrong in what was run."]
        return "\n".join([machine, "", *lines, "", *ends])


REPORT = Report()


class Limits:
    """What time is left until the deadline of everything."""

    def __init__(self, seconds):
        self.end = START + seconds

    def left(self, at_most=float("inf")):
        return max(0.0, min(at_most, self.end - time.monotonic()))


# ---- Programs ------------------------------------------------------------------------------------------------------

RUNNING = set()


def start(command, env, **streams):
    """A process with a group of its own, so that all that it starts ends with it."""
    words = [str(word) for word in command]
    streams |= {"text": True, "errors": "replace"}
    process = subprocess.Popen(words, env=env, cwd=ROOT, start_new_session=True, **streams)
    RUNNING.add(process)
    return process


def end(process):
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(5)
    RUNNING.discard(process)


def run(command, limit, env):
    """The exit status of a command, None if it did not end in time, and what it printed."""
    with tempfile.TemporaryFile("w+", errors="replace") as output:
        process = start(command, env, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT)
        code = None
        with contextlib.suppress(subprocess.TimeoutExpired):
            code = process.wait(max(limit, 0.1))
        end(process)
        output.seek(0)
        return code, output.read()


class Peer:
    """A program that speaks the line protocol of benches/common/place.rs."""

    def __init__(self, name, command, env):
        self.name, self.times, self.ready = name, {}, None
        self.errors = tempfile.TemporaryFile("w+", errors="replace")
        pipe = subprocess.PIPE
        self.process = start(command, env, stdin=pipe, stdout=pipe, stderr=self.errors, bufsize=1)
        self.answers = queue.Queue()
        threading.Thread(target=self.listen, daemon=True).start()

    def listen(self):
        for line in self.process.stdout:
            self.answers.put(line)
        self.answers.put(None)

    def answer(self, limit):
        """The next answer; None if there is none in time, or the program has ended."""
        with contextlib.suppress(queue.Empty, json.JSONDecodeError):
            line = self.answers.get(timeout=max(limit, 0.1))
            return json.loads(line) if line else None
        return None

    def become_ready(self, limit):
        self.ready = self.answer(limit)
        if self.ready is None:
            self.give_up(f"did not become ready, in {limit:.0f} s")

    def give_up(self, why):
        self.ready = None
        end(self.process)
        self.errors.seek(0)
        said = " ".join(self.errors.read().split())[-400:] or "it said nothing about it"
        REPORT.problem(f"{self.name} {why}: {said}")

    def ask(self, line, limit):
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.write(line + "\n")
            self.process.stdin.flush()
        return self.answer(limit)

    def close(self):
        """What it says at its end."""
        if not self.ready:
            return {}
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        last = self.answer(10) or {}
        end(self.process)
        return last


# ---- The programs that are measured --------------------------------------------------------------------------------


def build(folder, profile):
    """Compiles what is needed and lays it into the folder, with a note of what it is."""
    folder.mkdir(parents=True, exist_ok=True)
    tests = [path.stem for path in sorted((ROOT / "tests").glob("*.rs")) if 'feature = "cuda"' in path.read_text()]

    def cargo(*words):
        command = ["cargo", *words, "--features", "cuda", "--message-format", "json"]
        print("$ " + " ".join(command), flush=True)
        output = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout
        messages = (json.loads(line) for line in output.splitlines() if line.startswith("{"))
        return {(m["target"]["kind"][0], m["target"]["name"]): m["executable"] for m in messages if m.get("executable")}

    named = lambda flag, names: [word for name in names for word in (flag, name)]
    built = cargo("test", "--no-run", "--lib", *named("--test", tests))
    program_of_tests = built.pop(("bin", "stop-mim"), None)
    built |= cargo("bench", "--no-run", "--profile", profile, *named("--bench", BENCHES))  # and the program with them
    note = {"root": str(ROOT), "program_of_tests": program_of_tests, "profile": profile, "tests": []}
    for (kind, name), path in built.items():
        of_tests = kind in ("lib", "rlib", "test")
        copy = folder / (f"test-{name}" if of_tests else name)
        shutil.copy2(path, copy)
        if shutil.which("strip"):
            subprocess.run(["strip", copy], check=True)
        note["tests"] += [copy.name] if of_tests else []
    # The kernels themselves come first, and last what needs no GPU and is long.
    note["tests"].sort(key=lambda name: (name == "test-cuda_kernels_compile", name != "test-stop_mim", name))
    commit = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True)
    note["commit"] = commit.stdout.strip()
    files = [path for path in folder.iterdir() if path.name != "note.json"]
    versions = {tuple(map(int, v.split(b"."))) for f in files for v in re.findall(rb"GLIBC_(2\.\d+)", f.read_bytes())}
    note["glibc"] = max(versions)
    (folder / "note.json").write_text(json.dumps(note, indent=1))
    size = sum(path.stat().st_size for path in files) / 2**20
    needs = f"x86-64 Linux with glibc {dotted(note['glibc'])} or newer"
    print(f"{folder}: {len(files)} programs, {size:.0f} MiB, for {needs}")


def dotted(version):
    return ".".join(map(str, version))


def unpacked(folder):
    """The note of a folder of programs, once it is sure that they can run here."""
    note = json.loads((folder / "note.json").read_text())
    glibc = os.confstr("CS_GNU_LIBC_VERSION").split()[-1]
    if tuple(map(int, glibc.split("."))) < tuple(note["glibc"]):
        sys.exit(f"the programs need glibc {dotted(note['glibc'])}, here is {glibc}: build them on an older system")
    for path in folder.iterdir():
        if not os.access(path, os.X_OK):  # copying has lost it
            path.chmod(0o755)
    # Tests know the places of their files, and of the program, from when they were compiled.
    stand_in(Path(note["root"]), ROOT)
    if note["program_of_tests"]:
        stand_in(Path(note["program_of_tests"]), (folder / "stop-mim").resolve())
    return note


def stand_in(expected, there):
    """A link where something is expected that lies elsewhere here."""
    if not expected.exists():
        try:
            expected.parent.mkdir(parents=True, exist_ok=True)
            expected.symlink_to(there)
        except OSError as error:
            REPORT.say(f"{expected} is not here and cannot be made ({error}): tests that read files will fail")


def play_gpu(folder):
    """Builds the driver and the compiler that play a GPU on this CPU; tests/cuda_on_cpu/mod.rs does the same."""
    sources = ROOT / "tests/cuda_on_cpu"
    for library, source in ("libcuda.so", "driver.cpp"), ("libnvrtc.so", "nvrtc.cpp"):
        options = ["-O2", "-shared", "-fPIC", "-std=c++17", "-pthread", f"-Wl,-soname,{library}"]
        define = f'-DSOURCE_DIR="{sources}"'
        command = ["g++", *options, define, "-o", str(folder / library), str(sources / source), "-ldl"]
        subprocess.run(command, check=True)


def machine(note):
    """Card, driver and versions, in a line."""

    def first(command, pattern):
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            said = subprocess.run(command, capture_output=True, text=True, timeout=20).stdout
            if found := re.search(pattern, said):
                return found[1].strip()
        return "none"

    card = first(["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"], r"(.+)")
    nvcc = shutil.which("nvcc") or "/usr/local/cuda/bin/nvcc"
    torch = first([sys.executable, "-c", "import torch; print(torch.__version__)"], r"(.+)")
    toolkit = first([nvcc, "--version"], r"release ([\d.]+)")
    return (
        f"GPU, driver, memory: {card}; CUDA toolkit {toolkit}; PyTorch {torch}; {os.cpu_count()} cores; "
        f"stop-mim {note['commit']} ({note['profile']})"
    )


# ---- Workload T ----------------------------------------------------------------------------------------------------


def write_workload(path, images=64, width=192, depth=6, predictor_width=96, predictor_depth=3):
    """Weights, images and masks of a training step, the same every time (PCG64, seed 0), under the official names."""
    import numpy as np

    random, tensors = np.random.default_rng(0), {}

    def normal(*shape):
        return np.clip(random.standard_normal(shape), -2, 2).astype(np.float32) * np.float32(0.02)

    def linear(name, outputs, inputs, scale=1.0):
        tensors[f"{name}.weight"] = normal(outputs, inputs) * np.float32(scale)
        tensors[f"{name}.bias"] = np.zeros(outputs, np.float32)

    def norm(name, size):
        tensors[f"{name}.weight"], tensors[f"{name}.bias"] = np.ones(size, np.float32), np.zeros(size, np.float32)

    def blocks(name, size, count):
        for i in range(count):
            of_residual = 1 / np.sqrt(2.0 * (i + 1))
            norm(f"{name}.{i}.norm1", size)
            linear(f"{name}.{i}.attn.qkv", 3 * size, size)
            linear(f"{name}.{i}.attn.proj", size, size, of_residual)
            norm(f"{name}.{i}.norm2", size)
            linear(f"{name}.{i}.mlp.fc1", 4 * size, size)
            linear(f"{name}.{i}.mlp.fc2", size, 4 * size, of_residual)

    def positions(size):
        """Sines and cosines of the column, then of the row; [1, 64, size]."""
        frequencies = 1.0 / 10000 ** (np.arange(size // 4) / (size / 4))
        rows, columns = np.divmod(np.arange(64), 8)
        angles = [np.outer(place, frequencies) for place in (columns, rows)]
        return np.concatenate([f(a) for a in angles for f in (np.sin, np.cos)], axis=1).astype(np.float32)[None]

    def masks(image):
        """Four blocks of 3 x 4 tokens, and the first 36 tokens outside all of them."""
        state = 12345 + image

        def draw(below):
            nonlocal state
            state = (state * 1664525 + 1013904223) % 2**32
            return (state >> 16) % below

        while True:
            corners = [(draw(6), draw(5)) for _ in range(4)]
            targets = [[(top + r) * 8 + left + c for r in range(3) for c in range(4)] for top, left in corners]
            context = sorted(set(range(64)).difference(*targets))
            if len(context) >= 36:
                return context[:36], targets

    tensors["encoder.patch_embed.proj.weight"] = normal(width, 3, 4, 4)
    tensors["encoder.patch_embed.proj.bias"] = np.zeros(width, np.float32)
    tensors["encoder.pos_embed"] = positions(width)
    blocks("encoder.blocks", width, depth)
    norm("encoder.norm", width)
    linear("predictor.predictor_embed", predictor_width, width)
    tensors["predictor.mask_token"] = normal(1, 1, predictor_width)
    tensors["predictor.predictor_pos_embed"] = positions(predictor_width)
    blocks("predictor.predictor_blocks", predictor_width, predictor_depth)
    norm("predictor.predictor_norm", predictor_width)
    linear("predictor.predictor_proj", width, predictor_width)
    tensors["images"] = random.standard_normal((images, 3, 32, 32)).astype(np.float32)
    context, targets = zip(*map(masks, range(images)))
    tensors["masks_ctx"] = np.array(context, np.int64)
    tensors["masks_tgt"] = np.array(targets, np.int64).transpose(1, 0, 2)

    header, offset = {}, 0
    for name, values in tensors.items():
        dtype = {"float32": "F32", "int64": "I64"}[values.dtype.name]
        place = [offset, offset := offset + values.nbytes]
        header[name] = {"dtype": dtype, "shape": values.shape, "data_offsets": place}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    data = b"".join(values.tobytes() for values in tensors.values())
    Path(path).write_bytes(len(text).to_bytes(8, "little") + text + data)


def write_images(folder, per_file):
    """A folder like that of CIFAR-10, of noise: what is in an image does not matter to the time."""
    import numpy as np

    random = np.random.default_rng(0)
    folder.mkdir()
    for name in ["data_batch_1", "data_batch_2", "data_batch_3", "data_batch_4", "data_batch_5", "test_batch"]:
        records = random.integers(0, 256, (per_file, 3073), np.uint8)
        records[:, 0] %= 10
        records.tofile(folder / f"{name}.bin")


# ---- The parts -----------------------------------------------------------------------------------------------------


class Session:
    """What all parts need: the programs, where they compute, how much time there is."""

    def __init__(self, args, folder):
        self.folder, self.binaries, self.rehearsal = folder, args.binaries.resolve(), args.rehearse
        self.limits = Limits(args.deadline)
        self.note = unpacked(self.binaries)
        # The kernels are compiled once, for all parts.
        self.env = {**os.environ, "STOP_MIM_CUDA_CACHE": str(folder / "kernels"), "RUST_BACKTRACE": "0"}
        if self.rehearsal:
            play_gpu(folder)
            # Tests build it again themselves, here and not where another checkout's may lie.
            self.env |= {"STOP_MIM_CUDA_LIBRARIES": str(folder), "TMPDIR": str(folder)}
        self.machine = ("A rehearsal: the times mean nothing. " if self.rehearsal else "") + machine(self.note)
        self.peers = {}
        self.cifar = args.cifar

    def stop_mim(self, name, limit, *words):
        """A run of `stop-mim pretrain`; its folder, and whether it came to its end."""
        command = [self.binaries / "stop-mim", "pretrain", "--out", self.folder, "--name", name, *words]
        code, output = run(command, self.limits.left(limit), self.env)
        if code:
            REPORT.problem(f"pretrain {name}: " + " ".join(output.split())[-400:])
        return self.folder / name, code == 0

    def start_pytorch(self):
        """Starts PyTorch's programs early: compiling takes them a minute, in which the tests run."""
        self.workload = self.folder / "workload.safetensors"
        small = dict(images=2, width=24, depth=1, predictor_width=24, predictor_depth=1) if self.rehearsal else {}
        write_workload(self.workload, **small)
        wanted = {
            ("T", "f32"): MANNERS,
            ("T", "tf32"): MANNERS,
            ("T", "bf16"): MANNERS,
            ("ViT-B/16", "bf16"): MANNERS,
            ("ViT-B/16", "tf32"): ["eager", "compiled", "compiled-graph"],
            ("ViT-B/16", "f32"): ["eager"],
        }
        for (size, precision), manners in wanted.items():
            words = [self.workload if size == "T" else "vit-b16", "--precision", precision]
            words += ["--manners", ",".join(manners)]
            if self.rehearsal:
                words += ["--device", "cpu", "--images", 1, "--small", "--backend", "aot_eager"]
            command = [sys.executable, HERE / "pytorch_step.py", *words]
            self.peers[size, precision] = Peer(f"PyTorch, {size} in {precision}", command, self.env)


def tests(session, limit=150):
    begun = time.monotonic()
    for name in session.note["tests"]:
        filters = ["kernels::"] if name == "test-stop_mim" else []
        if session.rehearsal:
            filters = ["kernels::oracle::updates", "kernels::cuda"] if filters else ["a_trainer_works_where"]
        program = session.binaries / name
        listed = set(re.findall(r"^(\S+): test$", run([program, "--list", *filters], 30, session.env)[1], re.M))
        seconds = session.limits.left(limit - (time.monotonic() - begun))
        code, output = run([program, "--show-output", *filters], seconds, session.env)
        found = dict(re.findall(r"^test (\S+)(?: - should panic)? \.\.\. (\w+)", output, re.M))
        failed = sorted(test for test, result in found.items() if result == "FAILED")
        skipped = re.findall(r"^skipped: (.*)", output, re.M)
        for test in failed:
            block = rf"^---- {re.escape(test)} stdout ----\n(.*?)(?=^---- |^failures:|^successes:|\Z)"
            said = re.search(block, output, re.M | re.S)
            # What it printed before it failed may be long.
            why = "panicked at" + said[1].rsplit("panicked at", 1)[-1] if said else "it does not say why"
            why = " ".join(why.split("note: run with")[0].split())
            REPORT.problem(f"{name}: {test} failed: {why[:1000]}")
        if code is None:
            missing = ", ".join(sorted(listed - set(found)))
            REPORT.problem(f"{name}: not finished after {seconds:.0f} s: {missing[:600]}")
        elif code and not failed:
            REPORT.problem(f"{name}: ended with {code}: " + " ".join(output.split())[-400:])
        if skipped:
            REPORT.problem(f"{name}: {len(skipped)} tests were skipped: {skipped[0]}")
        passed = sum(result == "ok" for result in found.values())
        REPORT.row(f"tests of {name.removeprefix('test-')}", f"{passed} of {len(listed)} passed")


def await_pytorch(session, limit):
    """No time is taken while another of these programs still compiles."""
    begun = time.monotonic()
    for peer in session.peers.values():
        peer.become_ready(session.limits.left(limit - (time.monotonic() - begun)))


def times(session, size, rounds, steps, limit):
    """Steps of one size in every precision, stop-mim and PyTorch in turn."""
    begun = time.monotonic()
    left = lambda: session.limits.left(limit - (time.monotonic() - begun))
    ours = {}
    for precision in PRECISIONS:
        bench = session.binaries / ("training_step" if size == "T" else "vit_b16")
        words = [session.workload] if size == "T" else ["--images", "64", "--serve", "--bench"]
        device = "cuda"
        if session.rehearsal and size != "T":  # on the CPU that plays a GPU it would take hours
            device, words = "cpu", ["--serve"]
        if session.rehearsal and device == "cpu" and precision == "tf32":
            continue
        command = [bench, *words, "--device", device, "--precision", precision]
        ours[precision] = Peer(f"stop-mim, {size} in {precision}", command, session.env)
        ours[precision].become_ready(left())  # one after the other: the kernels that they share are compiled once
    # What launching kernels one by one costs, in the precision that came last.
    one_by_one = Peer(f"{ours[precision].name}, without graphs", command, session.env | {"STOP_MIM_CUDA_NO_GRAPHS": "1"})
    one_by_one.become_ready(left())
    theirs = {precision: session.peers[size, precision] for precision in PRECISIONS}
    first_losses(session, size, ours, theirs)

    turns = [(peer, "", str(steps)) for peer in [*ours.values(), one_by_one] if peer.ready]
    for peer in theirs.values():
        for manner, about in (peer.ready or {"manners": {}})["manners"].items():
            if "error" in about:
                REPORT.say(f"{peer.name}, {manner}: {about['error'].splitlines()[0]}")
            else:
                turns.append((peer, manner, f"{manner} {steps}"))
    for which in range(1 + rounds):  # the first does not count
        for peer, manner, line in turns:
            if not peer.ready or left() == 0:
                continue
            answer = peer.ask(line, seconds := min(20, left()))
            if answer is None:
                peer.give_up(f"did not make {steps} steps in {seconds:.0f} s: {line}")
            elif which > 0:
                peer.times.setdefault(manner, []).append(statistics.mean(answer["ms"]))
        if left() == 0:
            REPORT.say(f"{size}: time is up after {which} of {rounds} rounds")
            break
    for precision, peer in ours.items():
        rows_of_times(size, precision, peer, theirs[precision])
    if one_by_one.times:
        figure = f"{statistics.median(one_by_one.times['']):.2f}"
        REPORT.row(f"{size}, {PRECISIONS[-1]}, without graphs: ms a step", figure)
    for peer in [one_by_one, *theirs.values()]:
        peer.close()


def rows_of_times(size, precision, ours, theirs):
    text = lambda values: [f"{x:.{2 if x < 100 else 0}f}" if x else "" for x in values]
    ms = {manner: statistics.median(times) for manner, times in {**theirs.times, **ours.times}.items()}
    figure, target = ms.get(""), TARGET_MS.get((size, precision))
    met = bool(figure and figure <= target) if target else None
    others = text(ms.get(manner) for manner in MANNERS)
    REPORT.row(f"{size}, {precision}: ms a step", *text([figure]), f"≤ {target}" if target else "", met, others)

    gib, most = (ours.close().get("gpu_mb") or 0) / 1024, TARGET_GIB.get((size, precision))
    if gib and size != "T":
        manners = (theirs.ready or {"manners": {}})["manners"]
        peaks = text(manners.get(manner, {}).get("gpu_mb", 0) / 1024 for manner in MANNERS)
        met = gib <= most if most else None
        REPORT.row(f"{size}, {precision}: memory, GiB", *text([gib]), f"≤ {most}" if most else "", met, peaks)


def first_losses(session, size, ours, theirs):
    """Whether all compute the same step, and whether a precision has an effect at all."""
    losses = {precision: peer.ready["first_losses"] for precision, peer in ours.items() if peer.ready}
    for precision, peer in ours.items():
        if precision not in losses:
            continue
        chunk = peer.ready["chunk_images"]
        REPORT.say(f"{peer.name} ({chunk} images a chunk): losses " + " ".join(f"{x:.6f}" for x in losses[precision]))
        if precision != "f32" and losses[precision] == losses.get("f32"):
            REPORT.problem(f"{peer.name}: the losses are f32's, to the last bit: {precision} has no effect")
        if size == "T":
            expected = [] if session.rehearsal else [("PyTorch on a CPU", LOSSES)]
            if (peer := theirs[precision]).ready:
                expected.append((peer.name, peer.ready["first_losses"]))
            for name, other in expected:
                off = max(abs(x - y) for x, y in zip(losses[precision], other))
                if not off <= LOSS_TOLERANCE[precision]:
                    REPORT.problem(f"T in {precision}: the losses are off those of {name} by {off:.1e}: {other}")


TINY = ["--dim", 24, "--depth", 1, "--heads", 3, "--diagnose-every", 0]
TINY += ["--predictor-dim", 24, "--predictor-depth", 1, "--predictor-heads", 3]


def logged(folder, column):
    """A column of a run's log."""
    with contextlib.suppress(OSError, ValueError, StopIteration):
        lines = iter((folder / "log.csv").read_text().splitlines())
        at = next(lines).split(",").index(column)
        return [float(line.split(",")[at]) for line in lines if line.count(",") >= at]
    return []


def images_per_second(session):
    images = session.cifar or session.folder / "images"
    if not session.cifar:
        write_images(images, 10 if session.rehearsal else 10_000)
    for precision, batch in ("bf16", 64), ("bf16", 1024), ("f32", 64):
        words = ["--data", f"cifar10:{images}", "--device", "cuda", "--precision", precision, "--batch", batch]
        words += ["--steps", 1500 if batch == 64 else 300, "--diagnose-every", 0, "--checkpoint-every", 10_000]
        if session.rehearsal:
            precision, batch, words = "f32", 2, [*words[:4], "--batch", 2, "--steps", 3, *TINY]
        folder, _ = session.stop_mim(f"toy-{precision}-{batch}", 25, *words)
        speeds = logged(folder, "images_per_second")
        speeds = speeds[len(speeds) // 2 :]  # kernels are compiled, the loader has filled its queue
        figure = statistics.harmonic_mean(speeds) if speeds else 0.0
        target = TARGET_IMAGES_A_SECOND if precision == "bf16" else None
        what = f"toy preset, batch {batch}, {precision}: images a second"
        REPORT.row(what, f"{figure:,.0f}", f"≥ {target:,}" if target else "", figure >= target if target else None)
        if session.rehearsal:
            break


def same_bits(session):
    """Two runs from one seed end with the same file."""
    for precision in ["f32"] if session.rehearsal else PRECISIONS:
        words = ["--device", "cuda", "--precision", precision, "--batch", 64, "--steps", 30, "--diagnose-every", 0]
        if session.rehearsal:
            words = ["--device", "cuda", "--batch", 2, "--steps", 2, *TINY]
        runs = [session.stop_mim(f"bits-{precision}-{which}", 15, *words) for which in "ab"]
        hashes = []
        for folder, ended in runs:
            file = folder / "checkpoint.safetensors"
            hashes += [hashlib.sha256(file.read_bytes()).hexdigest()] if ended and file.exists() else []
        same = len(hashes) == 2 and hashes[0] == hashes[1]
        if len(hashes) < 2:
            REPORT.problem(f"same bits in {precision}: a run did not come to its end")
        elif not same:
            REPORT.problem(f"two runs in {precision} from one seed end with different weights")
        REPORT.row(f"same bits from run to run, {precision}", "yes" if same else "no")


def curves(session):
    """The losses of one run on the CPU and on the GPU."""
    steps = 3 if session.rehearsal else 200
    words = ["--batch", 2, "--steps", steps, *TINY] if session.rehearsal else ["--steps", steps, "--diagnose-every", 0]
    losses = {}
    for device, precision in ("cpu", "f32"), ("cuda", "f32"), ("cuda", "tf32"), ("cuda", "bf16"):
        if session.rehearsal and precision != "f32":
            continue
        name = f"{device} in {precision}"
        of_run = ["--device", device, "--precision", precision, *words]
        losses[name] = logged(session.stop_mim(f"curve-{device}-{precision}", 25, *of_run)[0], "loss")
    reference = losses.pop("cpu in f32")
    at = sorted({i for i in (0, 9, 49, 99, 199) if i < len(reference)} | {len(reference) - 1} - {-1})
    REPORT.say(f"losses of steps {[i + 1 for i in at]}: on the CPU " + " ".join(f"{reference[i]:.4f}" for i in at))
    for name, found in losses.items():
        if len(found) < steps or len(reference) < steps:
            REPORT.problem(f"loss curve of {name}: {len(found)} steps of {steps}, of the CPU {len(reference)}")
            continue
        REPORT.say(f"on {name}: " + " ".join(f"{found[i]:.4f}" for i in at))
        off = [abs(x - y) / abs(y) for x, y in zip(found, reference)]
        early, late = max(off[:10]), max(off)
        REPORT.row(f"loss curve of {name} beside the CPU's", f"{early:.1e} off in 10 steps, {late:.1e} in {steps}")
        if not early <= (1e-3 if name.endswith(" f32") else 2e-2):
            REPORT.problem(f"loss curve of {name}: off the CPU's by {early:.1e} within ten steps")


def sanitizers(session):
    """The tests of the kernels under compute-sanitizer, every tensor an allocation of its own."""
    program = session.binaries / "test-stop_mim"
    sanitizer = shutil.which("compute-sanitizer") or shutil.which("/usr/local/cuda/bin/compute-sanitizer")
    env = {**session.env, "STOP_MIM_CUDA_PLAIN_MEMORY": "1"}
    for i, tool in enumerate(TOOLS):
        if sanitizer is None:
            REPORT.row(tool, "skipped: there is no compute-sanitizer")
            continue
        limit = session.limits.left() / (len(TOOLS) - i)
        if limit < 5:
            REPORT.row(tool, "skipped: no time is left")
            continue
        command = [sanitizer, "--tool", tool, program, "kernels::oracle", "--test-threads", 1]
        code, output = run(command, limit, env)
        finished = len(re.findall(r"\.\.\. ok$", output, re.M))
        marked = re.findall(r"^========= (.+)", output, re.M)
        summary = next((line for line in marked if "SUMMARY" in line), None)
        kinds = "Error|Invalid|Uninitialized|Race|Barrier|Warning|Program hit"
        errors = [line for line in marked if re.match(kinds, line)]
        refused = next((line for line in marked if "not supported" in line), None)
        if refused:
            REPORT.row(tool, f"not possible here: {refused.strip()}")
            continue
        clean = summary is not None and re.search(r"SUMMARY: 0 (errors|hazards)", summary) and code == 0
        if errors or (code is not None and not clean):
            REPORT.problem(f"{tool}: " + " / ".join(errors[:3] or marked[-3:] or output.splitlines()[-3:]))
        verdict = "clean" if not errors and (clean or code is None) else f"reports: {len(errors)}"
        in_time = "" if code is not None else f", not finished in {limit:.0f} s"
        REPORT.row(tool, f"{verdict}, tests: {finished}{in_time}")


# ---- All of it -----------------------------------------------------------------------------------------------------


def parts(session):
    rounds, steps = (1, 1) if session.rehearsal else (11, 20)
    return {
        "tests": lambda: tests(session),
        "times": lambda: (
            await_pytorch(session, 90),
            times(session, "T", rounds, steps, 75),
            times(session, "ViT-B/16", max(1, rounds // 2), max(1, steps // 4), 75),
        ),
        "program": lambda: (images_per_second(session), same_bits(session), curves(session)),
        "sanitizers": lambda: sanitizers(session),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", type=Path, metavar="DIR", help="compile the programs into this folder, and stop")
    parser.add_argument("--profile", default="bench", help="of --build: dev is quicker to compile, and slower")
    parser.add_argument("--workload", type=Path, metavar="FILE", help="write workload T, and stop")
    parser.add_argument("--binaries", type=Path, metavar="DIR", help="the folder of --build")
    parser.add_argument("--out", type=Path, metavar="DIR", help="where report.md goes: the table, then all lines")
    parser.add_argument("--cifar", type=Path, metavar="DIR", help="CIFAR-10's binary version, instead of noise")
    parser.add_argument("--only", default="tests,times,program,sanitizers", help="some of these parts")
    parser.add_argument("--deadline", type=float, default=570.0, metavar="SECONDS", help="for everything")
    parser.add_argument("--rehearse", action="store_true", help="in small, without a GPU")
    args = parser.parse_args()
    if args.build:
        return build(args.build, args.profile)
    if args.workload:
        return write_workload(args.workload)
    if not args.binaries:
        parser.error("--binaries says where the programs are, which --build DIR makes")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with tempfile.TemporaryDirectory(prefix="stop-mim-cuda-") as folder:
        session = Session(args, Path(folder))
        REPORT.say(session.machine)
        try:
            wanted = args.only.split(",")
            if "times" in wanted:
                session.start_pytorch()
            for name, part in parts(session).items():
                if name in wanted:
                    try:
                        part()
                    except Exception as error:  # the others may work
                        REPORT.problem(f"{name} broke off: {type(error).__name__}: {error}")
        except (KeyboardInterrupt, SystemExit):
            REPORT.problem("stopped before its end")
            raise
        finally:
            for process in list(RUNNING):
                end(process)
            table = REPORT.table(session.machine)
            print("\n" + table, flush=True)
            if args.out:
                args.out.mkdir(parents=True, exist_ok=True)
                lines = "\n".join(f"    {line}" for line in REPORT.lines)
                (args.out / "report.md").write_text(f"{table}\n\n{lines}\n")
    sys.exit(1 if REPORT.wrong else 0)


if __name__ == "__main__":
    main()
