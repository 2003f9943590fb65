"""What does it cost to embed a checkpoint that stays on disk, block by block?

    python benchmarks/encoder_stored.py --layers 22 --threads 2 --folder /large/disk

Writes a Llama-shaped checkpoint in bfloat16 shards of one layer each (random weights; kept if
it is there already), and embeds it with `Representation.encode(folder, architecture=...)`, which
never lays the network out. Says seconds, bytes, and the peak of the process' own memory
(RssAnon; mapped pages of the file are the page cache's, and counted apart).
"""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path
from typing import Annotated

import torch
import typer

import graphrep
from graphrep.architecture import Architecture
from graphrep.encoders import GraphEncoderConfig
from graphrep.model import ModelConfig, WeightModel
from graphrep.representation import Representation


def main(
    hidden: int = 2048,
    inner: int = 5632,
    layers: int = 22,
    heads: int = 32,
    vocabulary: int = 32000,
    threads: int = 2,
    folder: Annotated[Path, typer.Option(help="of the checkpoint")] = Path("runs/stored"),
) -> None:
    torch.set_num_threads(threads)
    started = time.perf_counter()
    architecture = llama(hidden, inner, layers, heads, vocabulary)
    traced = time.perf_counter() - started
    size = write(architecture, folder)
    torch.manual_seed(0)
    representation = Representation(WeightModel(ModelConfig(encoder=GraphEncoderConfig())))
    largest = max(spec.numel for spec in architecture.stored)
    before = memory()
    with Peak() as peak:
        started = time.perf_counter()
        found = representation.encode(folder, architecture=architecture)
        seconds = time.perf_counter() - started
    row = {
        "weights": architecture.num_parameters,
        "bytes on disk": size,
        "trace s": round(traced, 1),
        "embed s": round(seconds, 1),
        "weights per second": round(architecture.num_parameters / seconds),
        "largest tensor, MB as float32": round(4 * largest / 1e6),
        "own memory above start, MB": round((peak.own - before[0]) / 1e6),
        "mapped pages at most, MB": round(peak.mapped / 1e6),
        "threads": threads,
        "finite": bool(torch.isfinite(torch.as_tensor(found)).all()),
    }
    print(json.dumps(row, indent=1))


def llama(hidden: int, inner: int, layers: int, heads: int, vocabulary: int) -> Architecture:
    """The architecture alone: traced on `meta`, in no memory."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        hidden_size=hidden,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        vocab_size=vocabulary,
        use_cache=False,
    )
    with torch.device("meta"):
        module = LlamaForCausalLM(config).to(torch.bfloat16).eval()
    example = {  # a mask that is given is not looked at
        "input_ids": torch.zeros(1, 8, dtype=torch.long, device="meta"),
        "attention_mask": torch.zeros(1, 1, 8, 8, device="meta", dtype=torch.bfloat16),
        "position_ids": torch.zeros(1, 8, dtype=torch.long, device="meta"),
    }
    return graphrep.to_graph(module, example).architecture


def write(architecture: Architecture, folder: Path) -> int:
    """A shard for every some tensors, and their index; bytes of all."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    index = folder / "model.safetensors.index.json"
    if not index.exists():
        generator = torch.Generator().manual_seed(0)
        places: dict[str, str] = {}
        shard: dict[str, torch.Tensor] = {}
        stored = list(architecture.stored)
        for number, spec in enumerate(stored):
            values = torch.empty(spec.shape, dtype=spec.torch_dtype)
            shard[spec.name] = values.normal_(0, 0.02, generator=generator)
            if sum(v.nbytes for v in shard.values()) > 2**29 or number == len(stored) - 1:
                name = f"model-{number:05d}.safetensors"
                save_file(shard, folder / name)
                places |= dict.fromkeys(shard, name)
                shard = {}
        index.write_text(json.dumps({"metadata": {}, "weight_map": places}))
    return sum(file.stat().st_size for file in folder.glob("*.safetensors"))


def memory() -> tuple[int, int]:
    """Bytes of this process' own memory, and of mapped files."""
    lines = Path("/proc/self/status").read_text().splitlines()
    found = {key: value for key, value in (line.split(":", 1) for line in lines)}
    return tuple(int(found[key].split()[0]) * 1024 for key in ("RssAnon", "RssFile"))  # type: ignore[return-value]


class Peak:
    """The most of both, looked at every 20 ms."""

    def __enter__(self) -> Peak:
        self.own, self.mapped, self.done = 0, 0, threading.Event()
        self.thread = threading.Thread(target=self._look)
        self.thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.done.set()
        self.thread.join()

    def _look(self) -> None:
        while not self.done.wait(0.02):
            own, mapped = memory()
            self.own, self.mapped = max(self.own, own), max(self.mapped, mapped)


if __name__ == "__main__":
    typer.run(main)
