"""What a person should know of a traced run: which line of code cost which symmetry."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import torch
from torch import Tensor

OWN_CODE = (str(Path(torch.__file__).parent), str(Path(__file__).parents[1]))


@dataclass(frozen=True)
class Remark:
    """A symmetry that was given up, or what was seen of the path that was taken."""

    subject: Tensor | str
    operation: str
    module: str
    reason: str
    line: str = ""  # of the code that was traced, as file:number
    unsupported: bool = False  # for want of a rule, not by the nature of the network


def calling_line() -> str:
    """The innermost line on the stack that is neither torch's nor ours."""
    frame: FrameType | None = sys._getframe()
    while frame is not None:
        file = frame.f_code.co_filename
        if not file.startswith(OWN_CODE) and not file.startswith("<"):
            return f"{file}:{frame.f_lineno}"
        frame = frame.f_back
    return ""
