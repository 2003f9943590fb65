"""Names in pictures: they fit, they break at dots, and those alike become one."""

from __future__ import annotations

import pytest

from graphrep.figures.lettering import TITLE, merged, ranged, relative, title, width, wrap

NAME = "resnet.encoder.stages.0.layers.0.layer.0.convolution"


@pytest.mark.parametrize("limit", [0.4, 1.0, 2.0, 9.0])
@pytest.mark.parametrize("name", [NAME, "x", "an_identifier_without_any_dots_at_all", "a.b", "h#2"])
def test_broken_lines_fit_and_are_the_whole_name_together(name: str, limit: float) -> None:
    lines = wrap(name, limit)
    assert "".join(lines) == name
    assert all(width(line) <= limit for line in lines)
    parts = title(name, limit)
    assert "".join(text for text, _ in parts) == name
    assert all(width(t, TITLE, True) <= limit for t, bold in parts if bold)
    assert parts[-1][1]  # the bold one comes last
    if limit == 9.0:
        assert lines == [name] and len(parts) == 1


def test_a_width_is_that_of_the_text() -> None:
    assert width("mm") == pytest.approx(2 * width("m"), rel=0.05)
    assert width("m", TITLE) > width("m") and width("m", TITLE, True) > width("m", TITLE)


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["h.0.fc", "h.1.fc", "h.2.fc"], "h.0–2.fc"),
        (["h.0.fc", "h.2.fc"], "h.{0,2}.fc"),
        ([f"h.{i}.fc" for i in range(0, 20, 2)], "h.{0,2,…,18}.fc"),
        (["a.0.b.0", "a.0.b.1", "a.1.b.0", "a.1.b.1"], "a.0–1.b.0–1"),
        (["a.0.b.0", "a.1.b.1"], None),  # not all combinations
        (["a", "b"], None),
        (["one"], "one"),
        (["layer9", "layer10", "layer11"], "layer9–11"),
    ],
)
def test_names_that_differ_in_numbers_become_a_range(
    names: list[str], expected: str | None
) -> None:
    assert ranged(names) == expected


def test_lines_are_merged_only_where_they_say_the_same() -> None:
    lines = [("h.0.ln", "norm"), ("h.1.ln", "norm"), ("h.2.ln", "bias"), ("f.ln", "norm")]
    assert merged(lines) == [("h.0–1.ln", "norm"), ("h.2.ln", "bias"), ("f.ln", "norm")]
    stages = [("s.0.l.0", "x"), ("s.0.l.1", "x"), ("s.1.l.0", "x")]
    assert merged(stages) == [("s.0.l.0–1", "x"), ("s.1.l.0", "x")]


@pytest.mark.parametrize(
    ("name", "to", "expected"),
    [
        ("h.0.norm", "h.0.conv", "…norm"),
        ("h.0.conv", "h.0.conv", ""),
        ("norm", "conv", "norm"),
        ("down.0.1", "down.0.0", "down.0.1"),  # a number alone says nothing
        ("a.stages.0.layers.1.norm", "a.stages.0.layers.0.conv", "…layers.1.norm"),
        ("a.b", "a.b.c", "…b"),
    ],
)
def test_a_name_beside_another_leaves_out_what_they_share(
    name: str, to: str, expected: str
) -> None:
    assert relative(name, to) == expected
