"""Graph networks of torch_geometric; nodes are data, features are units."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch_geometric import nn as geometric

from .case import Family, draw, perms

EDGES = torch.tensor([[0, 1, 2, 3, 4, 5, 0, 2, 5, 1], [1, 2, 3, 4, 5, 0, 3, 5, 2, 4]])


class Network(nn.Module):
    """Two graph layers and a head, for every node or for the mean over nodes."""

    def __init__(self, first: nn.Module, second: nn.Module, width: int, whole: bool) -> None:
        super().__init__()
        self.first, self.second = first, second
        self.head, self.whole = nn.Linear(width, 3), whole

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        x = self.second(self.first(x, edge_index).relu(), edge_index).relu()
        if self.whole:
            x = geometric.global_mean_pool(x, x.new_zeros(len(x), dtype=torch.int64), size=1)
        return self.head(x)


def family(name: str, build: Any, symmetry: Any, whole: bool = False, **more: Any) -> Family:
    return Family(
        name=name, build=lambda: Network(*build(), whole),
        inputs=lambda dtype: {"x": draw(6, 4, dtype=dtype), "edge_index": EDGES},
        symmetry=symmetry, **more,
    )  # fmt: skip


def isomorphism() -> tuple[nn.Module, nn.Module, int]:
    def inside(inner: int) -> nn.Module:
        return nn.Sequential(nn.Linear(inner, 7), nn.ReLU(), nn.Linear(7, 5))

    return geometric.GINConv(inside(4), train_eps=True), geometric.GINConv(inside(5)), 5


LOOPS = "self-loops are added by values of edge_index"
FAMILIES = [
    family("gcn", lambda: (geometric.GCNConv(4, 6), geometric.GCNConv(6, 5), 5), perms(6, 5),
           no_meta=LOOPS),
    family("sage", lambda: (geometric.SAGEConv(4, 6), geometric.SAGEConv(6, 5), 5), perms(6, 5),
           whole=True),
    family("gin", isomorphism, perms(7, 5) ** 2, whole=True),
    family("gat",
           lambda: (geometric.GATConv(4, 3, heads=2), geometric.GATConv(6, 5, heads=2), 10),
           perms(2) * perms(3) ** 2 * perms(2) * perms(5) ** 2, no_meta=LOOPS,
           why="heads, and the features of each head"),
    family("gat-averaged",
           lambda: (
               geometric.GATv2Conv(4, 3, heads=2),
               geometric.GATv2Conv(6, 5, heads=2, concat=False), 5),
           perms(2) * perms(3) ** 2 * perms(2) * perms(5), no_meta=LOOPS,
           why="averaged heads share the order of their features"),
]  # fmt: skip
