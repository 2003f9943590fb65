"""Damaged files by the hundred: each is read or refused in one line, within bounded memory.

Run as `python -m tests.loading.fuzz KIND,KIND NUM FOLDER`: a process of its own, so that its
memory can be limited. Mutations follow from a seed, which a failure names.
"""

from __future__ import annotations

import json
import random
import resource
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn

from graphrep.checkpoint import read_checkpoint
from graphrep.loading import load_graph

SPARE = 2 << 30  # bytes of addresses beside what the libraries take
INTERESTING = [0, 1, 0x7F, 0x80, 0xFF]


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 3))


def mutate(content: bytes, rng: random.Random) -> bytes:
    """Cut, flip, overwrite, repeat, drop or move pieces; now and then several of these."""
    data = bytearray(content)
    for _ in range(rng.choice([1, 1, 1, 2, 4])):
        at = rng.randrange(len(data) + 1)
        length = rng.choice([1, 2, 4, 8, 8, 32])
        match rng.randrange(7):
            case 0:
                del data[at:]
            case 1 if data:
                data[at % len(data)] ^= 1 << rng.randrange(8)
            case 2:
                data[at : at + length] = bytes([rng.choice(INTERESTING)]) * length
            case 3:
                data[at : at + length] = rng.randbytes(length)
            case 4:
                other = rng.randrange(len(data) + 1)
                data[at:at] = data[other : other + length * 4]
            case 5:
                del data[at : at + length]
            case 6 if data:  # a digit of a number in text
                places = [i for i, b in enumerate(data) if 48 <= b < 58]
                if places:
                    data[rng.choice(places)] = rng.choice(b"0123456789-e.")
    return bytes(data)


def make(kind: str, folder: Path) -> tuple[Path, list[Path], Callable[[Path], object]]:
    """A good file of a kind, the files of it to damage, and what reads it."""
    state = {k: v for k, v in network().state_dict().items() if v.dim()}
    match kind:
        case "safetensors":
            path = folder / "net.safetensors"
            save_file(state, path)
        case "torch":
            path = folder / "net.pt"
            torch.save({"state_dict": state, "epoch": 3}, path)
        case "legacy":
            path = folder / "net.pth"
            torch.save({"state_dict": state}, path, _use_new_zipfile_serialization=False)
        case "shards":
            return make_shards(folder, state)
        case "folder":
            return make_folder(folder)
        case "onnx":
            path = folder / "net.onnx"
            write_onnx(path)
            return path, [path], lambda p: load_graph(p, verify=False)
        case _:
            raise ValueError(f"no kind '{kind}'")
    return path, [path], read_checkpoint


def make_shards(
    folder: Path, state: dict[str, torch.Tensor]
) -> tuple[Path, list[Path], Callable[[Path], object]]:
    path = folder / "model.safetensors.index.json"
    places = {n: f"model-{i % 2}.safetensors" for i, n in enumerate(state)}
    for file in set(places.values()):
        save_file({n: state[n] for n, f in places.items() if f == file}, folder / file)
    path.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": places}))
    return path, [path], read_checkpoint


def make_folder(folder: Path) -> tuple[Path, list[Path], Callable[[Path], object]]:
    import transformers

    from graphrep.loading.huggingface import open_folder

    small = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = transformers.BertConfig(
        **small, intermediate_size=8, vocab_size=10, max_position_embeddings=16
    )
    torch.manual_seed(0)
    transformers.BertModel(config).save_pretrained(folder)
    return folder, [folder / "config.json", folder / "model.safetensors"], open_folder


def write_onnx(path: Path) -> None:
    """A convolution, a reshape by computed sizes, a linear layer, written by hand."""
    import onnx
    from onnx import helper, numpy_helper

    generator = torch.Generator().manual_seed(0)
    sizes = {"conv.weight": (4, 1, 3, 3), "conv.bias": (4,), "fc.weight": (3, 64), "fc.bias": (3,)}
    tensors = [
        numpy_helper.from_array(torch.randn(s, generator=generator).numpy(), n)
        for n, s in sizes.items()
    ]
    tensors.append(numpy_helper.from_array(torch.tensor([1]).numpy(), "one"))
    tensors.append(numpy_helper.from_array(torch.tensor([-1]).numpy(), "rest"))
    nodes = [
        helper.make_node("Conv", ["x", "conv.weight", "conv.bias"], ["a"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("MaxPool", ["b"], ["c"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Shape", ["c"], ["d"], end=1),
        helper.make_node("Mul", ["d", "one"], ["e"]),
        helper.make_node("Concat", ["e", "rest"], ["f"], axis=0),
        helper.make_node("Reshape", ["c", "f"], ["g"]),
        helper.make_node("Gemm", ["g", "fc.weight", "fc.bias"], ["y"], transB=1),
    ]
    x = helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["N", 1, 8, 8])
    y = helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["N", 3])
    graph = helper.make_graph(nodes, "net", [x], [y], tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    path.write_bytes(model.SerializeToString())


def fuzz(kind: str, num: int, folder: Path) -> dict[str, object]:
    """Read damaged files of one kind: how many were read and refused, and how memory grew."""
    path, victims, read = make(kind, folder)
    read(path)  # a good file is read, and all libraries are loaded
    originals = {v: v.read_bytes() for v in victims}
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + SPARE
    resource.setrlimit(resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    failures: list[str] = []
    num_read = num_refused = 0
    for seed in range(num):
        for file, content in originals.items():
            file.write_bytes(content)
        victim = victims[seed % len(victims)]
        victim.write_bytes(mutate(originals[victim], random.Random(seed)))
        try:
            read(path)
            num_read += 1
        except ValueError as error:
            message = str(error)
            listed = "nothing was loaded" in message  # names and shapes side by side
            clear = listed or ("\n" not in message and len(message) < 800)
            if not clear or str(folder) not in message:
                failures.append(f"seed {seed}, unclear: {message[:600]!r}")
            num_refused += 1
        except BaseException as error:
            failures.append(f"seed {seed}: {type(error).__name__}: {str(error)[:300]!r}")
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    found = {"kind": kind, "read": num_read, "refused": num_refused}
    return {**found, "grown_mib": grown >> 10, "failures": failures}


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    for number, kind in enumerate(sys.argv[1].split(",")):
        folder = Path(sys.argv[3]) / str(number)
        folder.mkdir()
        print(json.dumps(fuzz(kind, int(sys.argv[2]), folder)))
