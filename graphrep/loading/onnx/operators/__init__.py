"""ONNX operators as torch functions, by family; importing this fills the table."""

from . import (
    elementwise as elementwise,
    layers as layers,
    movement as movement,
    recurrent as recurrent,
    reductions as reductions,
    shapes as shapes,
    windows as windows,
)
