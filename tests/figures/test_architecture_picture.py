"""The picture of an architecture: every box and arrow in a place of its own."""

from __future__ import annotations

from itertools import pairwise

import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text

from graphrep.architecture import Architecture, Block, Span, TensorSpec, Units
from graphrep.architecture.spec import UnitKind
from graphrep.figures import architecture_picture
from graphrep.figures.arrows import route
from graphrep.figures.layout import lanes, lay_out


def texts(figure: Figure) -> str:
    return "\n".join(t.get_text() for t in figure.findobj(Text) if isinstance(t, Text))


def chain(
    edges: list[tuple[str, str]], hidden: list[str], name: str = "net", opaque: bool = False
) -> Architecture:
    """An architecture by its edges; every unit has 4 members and a bias."""
    names = ["input", *hidden, "output"]
    blocks, tensors, offset = [], [], 0
    for i, (source, target) in enumerate(edges):
        axes = (Span(units=target, size=4), Span(units=source, size=4))
        tensor = f"layer{i}.weight"
        blocks.append(
            Block(name=tensor, tensor=tensor, kind="dense", role="weight", axes=axes,
                  source=source, target=target, source_axis=1, target_axis=0)
        )  # fmt: skip
        tensors.append(
            TensorSpec(name=tensor, shape=(4, 4), dtype="float32", role="parameter", offset=offset)
        )
        offset += 16
    for units in hidden:
        blocks.append(
            Block(name=f"{units}.bias", tensor=f"{units}.bias", kind="diagonal", role="bias",
                  axes=(Span(units=units, size=4),), target=units, target_axis=0)
        )  # fmt: skip
    if opaque:
        blocks.append(
            Block(
                name="odd",
                tensor="odd",
                kind="opaque",
                role="opaque",
                axes=(Span(units=None, size=3),),
            )
        )
    kinds: dict[str, UnitKind] = {"input": "input", "output": "output"}
    all_units = tuple(Units(name=n, size=4, kind=kinds.get(n, "hidden")) for n in names)
    return Architecture(name=name, units=all_units, blocks=tuple(blocks), tensors=tuple(tensors))


def residual(num_branches: int) -> Architecture:
    inner = [f"branch{i}" for i in range(num_branches)]
    edges = [("input", "stream")]
    for name in inner:
        edges += [("stream", name), (name, "stream")]
    return chain([*edges, ("stream", "output")], ["stream", *inner])


def straight(num_layers: int) -> Architecture:
    names = [f"h{i}" for i in range(num_layers)]
    ends = ["input", *names, "output"]
    return chain(list(pairwise(ends)), names)


SKIPPING = chain(
    [("input", "a"), ("a", "b"), ("b", "c"), ("c", "output"), ("a", "c"), ("a", "output")],
    ["a", "b", "c"],
    opaque=True,
)


@pytest.mark.parametrize("arch", [straight(2), straight(14), residual(3), residual(12), SKIPPING])
def test_boxes_of_a_picture_do_not_overlap_and_all_arrows_are_drawn(arch: Architecture) -> None:
    layout = lay_out(arch)
    boxes = list(layout.boxes.values())
    for i, a in enumerate(boxes):
        for b in boxes[:i]:
            apart = a.x + a.width <= b.x or b.x + b.width <= a.x
            assert apart or a.bottom <= b.y or b.bottom <= a.y, (a.units, b.units)
    drawn = {(arrow.source, arrow.target) for arrow in route(layout)}
    expected = {(b.source, b.target) for b in arch.blocks if b.source in layout.boxes}
    assert drawn == {(s, t) for s, t in expected if t in layout.boxes and s != t}
    shown = texts(architecture_picture(arch))
    assert all(box.units in shown for box in boxes) and "4×4" in shown


def test_a_chain_runs_down_and_a_long_one_takes_another_column() -> None:
    short, long = lay_out(straight(2)), lay_out(straight(14))
    assert [box.row for box in short.boxes.values()] == [0, 1, 2, 3]
    assert {box.column for box in short.boxes.values()} == {0}
    assert {box.column for box in long.boxes.values()} > {0}


def test_branches_stand_beside_their_stream_and_many_alike_become_one() -> None:
    few, many = lay_out(residual(3)), lay_out(residual(12))
    assert set(few.boxes) == {"input", "stream", "branch0", "branch1", "branch2", "output"}
    assert set(many.boxes) == {"input", "stream", "branch0", "output"}
    assert many.boxes["branch0"].repeats == 12
    bar, branch = few.boxes["stream"], few.boxes["branch2"]
    assert branch.x > bar.x + bar.width and bar.y < branch.y and branch.bottom < bar.bottom
    assert "×12" in texts(architecture_picture(residual(12)))


def test_arrows_that_skip_rows_curve_in_lanes_of_their_own() -> None:
    curved = [arrow for arrow in route(lay_out(SKIPPING)) if arrow.curved]
    assert {(arrow.source, arrow.target) for arrow in curved} == {("a", "c"), ("a", "output")}
    assert len({arrow.points[1][0] for arrow in curved}) == 2
    assert lanes([(0, 2), (2, 4)]) == [0, 0]  # control: spans that only touch share a lane
    assert "odd 3: opaque" in texts(architecture_picture(SKIPPING))
