"""The picture of an architecture: every box, arrow and text in a place of its own."""

from __future__ import annotations

import re
from collections.abc import Iterator
from html import unescape
from itertools import combinations, pairwise
from pathlib import Path

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text

from graphrep.architecture import Architecture
from graphrep.architecture.trace import trace
from graphrep.figures import architecture_picture, save_picture
from graphrep.figures.arrows import Arrow, route
from graphrep.figures.boxes import Box
from graphrep.figures.lanes import lanes
from graphrep.figures.layout import Layout, lay_out
from tests.architectures import CASES
from tests.figures.designs import (
    chain,
    dense_connections,
    grouped_convolutions,
    one_bias_for_all,
    plain_attention,
    residual,
    shared_heads,
    side_by_side,
    skipping,
    straight,
    transformer,
    two_streams,
    u_shaped,
)

LONG = "a_model_with_a_long_name.encoder.deeply.nested.stages"
DESIGNS = {
    "short": straight(2),
    "long": straight(30),
    "uneven": chain(
        [*pairwise(["input", "a", "b", "c", "d", "e", "f", "output"]), ("b", "f"), ("a", "c")],
        list("abcdef"),
    ),
    "residual": residual(3),
    "folded": residual(12),
    "skipping": skipping(),
    "u": u_shaped(4),
    "dense": dense_connections(9),
    "side by side": side_by_side(4),
    "alike": side_by_side(9, alike=True),
    "attention": plain_attention(),
    "transformer": transformer(2, model=LONG),
    "deep transformer": transformer(12),
    "cross attention": transformer(6, cross=True),
    "groups": grouped_convolutions(4),
    "shared heads": shared_heads(2),
    "shared bias": one_bias_for_all(4),
    "two streams": two_streams(),
}
TRACED = [case for case in CASES if "resnet" in case.name or "lstm" in case.name]


def traced() -> Iterator[tuple[str, Architecture]]:
    for case in TRACED:
        yield case.name, trace(case.module(), case.example())


ALL = [pytest.param(a, id=n) for n, a in [*DESIGNS.items(), *traced()]]


def texts(figure: Figure) -> list[Text]:
    found = [t for t in figure.findobj(Text) if isinstance(t, Text)]
    return [t for t in found if t.get_text().strip()]


def written(figure: Figure) -> str:
    return "\n".join(t.get_text() for t in texts(figure))


def overlaps(a: Box, b: Box) -> bool:
    apart = a.right <= b.x or b.right <= a.x or a.bottom <= b.y or b.bottom <= a.y
    return not apart


def holds(frame: Box, box: Box) -> bool:
    inside = frame.x < box.x and box.right < frame.right and frame.y < box.y
    return inside and box.bottom < frame.bottom


def drawn(architecture: Architecture) -> tuple[Layout, list[Arrow]]:
    layout = lay_out(architecture)
    return layout, route(layout)


def extents(figure: Figure) -> list[tuple[Text, float, float, float, float]]:
    """Texts with left, top, right, bottom as the renderer draws them, in the layout's inches."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    axes = figure.axes[0]
    found = []
    for text in texts(figure):
        box = text.get_window_extent(canvas.get_renderer())
        (x0, y1), (x1, y0) = axes.transData.inverted().transform(
            [(box.x0, box.y0), (box.x1, box.y1)]
        )
        found.append((text, x0, y0, x1, y1))
    return found


@pytest.mark.parametrize("arch", ALL)
def test_boxes_do_not_overlap_and_frames_hold_what_is_theirs(arch: Architecture) -> None:
    layout, _ = drawn(arch)
    for a, b in combinations(layout.boxes.values(), 2):
        nested = b in list(a.walk()) or a in list(b.walk())
        assert not overlaps(a, b) or nested, (a.units, b.units)
    for frame in layout.boxes.values():
        assert all(holds(frame, child) for child in frame.children)
    assert overlaps(frame, frame)  # control


def on_border(box: Box, point: tuple[float, float]) -> bool:
    x, y = point
    beside = min(abs(x - box.x), abs(x - box.right)) < 1e-6 and box.y <= y <= box.bottom
    return beside or (min(abs(y - box.y), abs(y - box.bottom)) < 1e-6 and box.x <= x <= box.right)


def crosses(box: Box, a: tuple[float, float], b: tuple[float, float]) -> bool:
    """Whether a level or upright line meets the inside of a box."""
    (left, right), (top, low) = sorted((a[0], b[0])), sorted((a[1], b[1]))
    beside = right <= box.x + 1e-6 or left >= box.right - 1e-6
    return not beside and low > box.y + 1e-6 and top < box.bottom - 1e-6


@pytest.mark.parametrize("arch", ALL)
def test_every_arrow_leads_from_box_to_box_and_through_no_other(arch: Architecture) -> None:
    layout, arrows = drawn(arch)
    boxes = layout.boxes
    expected = {
        (b.source, b.target)
        for b in arch.blocks
        if b.source in boxes and b.target in boxes and b.source != b.target
    }
    missing = expected - {(arrow.source, arrow.target) for arrow in arrows}
    assert not {(s, t) for s, t in missing if boxes[s].repeats == boxes[t].repeats == 1}
    for arrow in arrows:
        a, b = boxes[arrow.source], boxes[arrow.target]
        assert on_border(a, arrow.points[0]) and on_border(b, arrow.points[-1]), arrow
        for box in boxes.values():
            if a in list(box.walk()) or b in list(box.walk()):
                continue
            for start, end in pairwise(arrow.points):
                assert start[0] == end[0] or start[1] == end[1]
                assert not crosses(box, start, end), (arrow.source, arrow.target, box.units)
    if arrows:  # control: a straight way from the source to the target's other side
        far = (b.right if arrow.points[-1][0] < b.right else b.x, b.y + b.height / 2)
        assert crosses(b, (b.x + b.width / 2, far[1]), far)


@pytest.mark.parametrize("arch", ALL)
def test_texts_fit_their_boxes_and_stay_clear_of_each_other(arch: Architecture) -> None:
    layout, arrows = drawn(arch)
    found = extents(architecture_picture(arch))
    labels = {"\n".join(arrow.lines) for arrow in arrows}
    for text, x0, y0, x1, y1 in found:
        if text.get_text() in labels:
            continue
        x, y = text.get_position()
        within = [b for b in layout.boxes.values() if b.x <= x <= b.right and b.y <= y <= b.bottom]
        for box in within[-1:]:
            assert box.x < x0 and x1 < box.right + 1e-6, (text.get_text(), box.units)
            assert box.y < y0 + 0.02 and y1 - 0.02 < box.bottom, (text.get_text(), box.units)
    shrunk = [(t, x0, y0 + 0.015, x1, y1 - 0.015) for t, x0, y0, x1, y1 in found]
    for (s, a0, b0, a1, b1), (t, c0, d0, c1, d1) in combinations(shrunk, 2):
        assert a1 <= c0 or c1 <= a0 or b1 <= d0 or d1 <= b0, (s.get_text(), t.get_text())


def test_a_name_that_is_not_broken_would_leave_its_box(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("graphrep.figures.boxes.title", lambda name, limit: [(name, True)])
    with pytest.raises(AssertionError):
        test_texts_fit_their_boxes_and_stay_clear_of_each_other(transformer(2, model=LONG))


@pytest.mark.parametrize("arch", ALL)
def test_svg_keeps_all_names_as_text(arch: Architecture, tmp_path: Path) -> None:
    layout, _ = drawn(arch)
    save_picture(architecture_picture(arch), tmp_path / "net.svg")
    svg = (tmp_path / "net.svg").read_text()
    lines = [unescape(t) for t in re.findall(r"<text[^>]*>([^<]*)</text>", svg)]
    whole = "".join(lines)
    for box in layout.boxes.values():
        if box.repeats == 1:
            assert box.units in whole
        assert "".join(line for line, _ in box.title) in whole
        assert f'id="{box.units}"' in svg
    assert "10^" in whole and "no such unit" not in whole


def test_files_are_written_whole_and_only_as_pictures(tmp_path: Path) -> None:
    figure = architecture_picture(straight(2))
    save_picture(figure, tmp_path / "net.png")
    assert (tmp_path / "net.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(ValueError, match=r"\.png, \.svg or \.pdf"):
        save_picture(figure, tmp_path / "net.txt")
    assert [path.name for path in tmp_path.iterdir()] == ["net.png"]
    save_picture(figure, tmp_path / "a.svg")
    save_picture(architecture_picture(straight(2)), tmp_path / "b.svg")
    a, b = (re.sub("<dc:date>.*", "", (tmp_path / n).read_text()) for n in ("a.svg", "b.svg"))
    assert a == b  # equal pictures are equal files


def test_a_chain_runs_down_and_a_long_one_takes_another_column() -> None:
    uneven = [f"h{i}" for i in range(14)]
    long = chain(
        [*pairwise(["input", *uneven, "output"]), *zip(uneven, uneven[2:], strict=False)], uneven
    )
    short = lay_out(straight(2))
    assert [box.row for box in short.boxes.values()] == [0, 1, 2, 3]
    assert {box.column for box in short.boxes.values()} == {0}
    assert {box.column for box in lay_out(long).boxes.values()} > {0}


def test_many_layers_alike_in_a_row_are_drawn_once() -> None:
    few, many = lay_out(straight(5)), lay_out(straight(14))
    assert set(few.boxes) == {"input", *(f"h{i}" for i in range(5)), "output"}
    assert set(many.boxes) == {"input", "h0", "h1", "h13", "output"}
    assert many.boxes["h1"].alike == [f"h{i}" for i in range(1, 13)]
    assert "h1–12" in written(architecture_picture(straight(14)))


def test_branches_stand_beside_their_stream_and_many_alike_become_one() -> None:
    few, many = lay_out(residual(3)), lay_out(residual(12))
    assert set(few.boxes) == {"input", "stream", "branch0", "branch1", "branch2", "output"}
    assert set(many.boxes) == {"input", "stream", "branch0", "output"}
    assert many.boxes["branch0"].repeats == 12
    bar, branch = few.boxes["stream"], few.boxes["branch2"]
    assert branch.x > bar.right and bar.y < branch.y and branch.bottom < bar.bottom
    assert {"×12", "branch0–11"} <= set(written(architecture_picture(residual(12))).split("\n"))


def test_branches_that_differ_are_not_drawn_as_one() -> None:
    layout = lay_out(transformer(12))
    assert len(layout.streams["stream"].branches) == 2  # attention and the two layers after it
    assert layout.boxes["model.layers.0.mlp.fc1"].repeats == 12


def test_units_that_only_hold_others_are_frames_around_them() -> None:
    layout = lay_out(transformer(2))
    frame = layout.boxes["model.layers.0.self_attn.heads"]
    names = [child.units.rpartition(".")[2] for child in frame.children]
    assert names == ["k_proj", "q_proj", "v_proj"]
    assert frame.children[0].lines[0] == "3 × 4 units"
    assert "within …k_proj" in frame.children[1].lines  # keys have blocks, so no frame
    assert not layout.boxes["stream"].children
    shown = written(architecture_picture(transformer(2)))
    assert "units of units" in shown
    assert "units of units" not in written(architecture_picture(straight(2)))


def test_frames_lie_in_frames_and_take_arrows_of_their_own() -> None:
    layout, arrows = drawn(shared_heads(2))
    frame = layout.boxes["layers.0.attn.shared_heads"]
    assert [box.units.rpartition(".")[2] for box in frame.children] == ["heads", "v_proj"]
    assert [box.units for box in frame.children[1].children] == ["layers.0.attn.o_proj.in"]
    assert layout.boxes["layers.1.attn.v_proj"].top is layout.boxes["layers.1.attn.shared_heads"]
    into = next(arrow for arrow in arrows if arrow.target == frame.units)
    assert into.points[-1][0] == frame.x  # control: not at what it holds
    assert into.points[-1][1] < frame.children[0].y


def test_what_is_alike_within_a_frame_is_drawn_once() -> None:
    layout = lay_out(one_bias_for_all(4))
    frame = layout.boxes["layers.0.heads"]
    assert frame.repeats == 1
    assert [(child.units, child.repeats) for child in frame.children] == [
        ("layers.0.q", 4),
        ("layers.0.v", 4),
    ]
    assert written(architecture_picture(one_bias_for_all(4))).split("\n").count("×4") == 2
    few = lay_out(one_bias_for_all(2)).boxes["layers.0.heads"]
    assert len(few.children) == 4


def test_a_stream_has_a_row_of_its_own() -> None:
    layout = lay_out(two_streams())
    assert {"encoder", "decoder"} == set(layout.streams)
    rows = [row for column in layout.columns for row in column.rows]
    assert ["encoder"] in rows and ["decoder"] in rows
    row_of = {name: i for i, row in enumerate(rows) for name in row}
    assert row_of["tokens"] == row_of["decoder"] - 1  # near its reader
    assert row_of["head.encoder"] == row_of["head"] - 1


def test_what_comes_back_to_what_it_left_goes_up_beside_it() -> None:
    layout, arrows = drawn(u_shaped(4))
    down, up = layout.columns
    assert up.up and not down.up
    assert abs(layout.boxes["bottom"].bottom - layout.boxes["up3"].bottom) < 1e-6
    for i in range(4):
        assert layout.boxes[f"down{i}"].column == 0 and layout.boxes[f"up{i}"].column == 1
        across = next(a for a in arrows if (a.source, a.target) == (f"down{i}", f"up{i}"))
        assert across.points[0][0] == layout.boxes[f"down{i}"].right
    assert not any(column.up for column in lay_out(DESIGNS["uneven"]).columns)


def test_arrows_that_skip_rows_run_in_lanes_of_their_own() -> None:
    _, arrows = drawn(skipping())
    beside = [arrow for arrow in arrows if arrow.lanes]
    assert {(arrow.source, arrow.target) for arrow in beside} == {("a", "c"), ("a", "output")}
    assert len({arrow.lanes[0] for arrow in beside}) == 2
    assert lanes([(0, 2), (2, 4)]) == [0, 0]  # control: spans that only touch share a lane
    assert "odd 3: opaque" in written(architecture_picture(skipping()))


def test_an_architecture_without_units_has_a_picture_too() -> None:
    empty = Architecture(name="nothing", units=(), blocks=(), tensors=())
    assert "nothing" in written(architecture_picture(empty))


def test_a_deep_network_with_arrows_past_its_rows_has_a_picture() -> None:
    names = [f"h{i}" for i in range(150)]
    ends = ["input", *names, "output"]
    edges = [(a, b) for j, b in enumerate(ends) for a in ends[max(0, j - 3) : j]]
    layout, arrows = drawn(chain(edges, names))
    assert len(layout.boxes) == 152 and len(arrows) == len(edges)
