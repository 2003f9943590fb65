"""What a zoo of SIRENs is made from: images, a size, a start, a number of steps.

Which image a member fits and from which start follow from the recipe and the
member's index alone.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..images import IMAGE_SETS
from ..recipe import Recipe, check_choice

PARTS = ("train", "test")


@dataclass(frozen=True, kw_only=True)
class SirenRecipe(Recipe):
    """A zoo of SIRENs, one an image; see conf/zoo/mnist_inr.yaml."""

    kind: ClassVar[str] = "siren"

    images: str  # digits, mnist, fashion_mnist or cifar10
    part: str = "train"  # or test: which images are fitted, in an order drawn by the seed
    hidden: tuple[int, ...] = (32, 32)  # units of each hidden layer
    omega: float = 30.0  # frequency of the sines
    shared_start: bool = False  # one start for all members instead of one each
    learning_rate: float = 1e-3  # Adam's; every step sees the whole image
    steps: int = 200
    checkpoints: tuple[int, ...] = (50, 100, 200)  # steps kept; 0 is the start

    def __post_init__(self) -> None:
        for name in ("hidden", "checkpoints"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        super().__post_init__()
        check_choice("images", self.images, IMAGE_SETS)
        check_choice("part", self.part, PARTS)
        if not self.hidden or min(self.hidden) < 1:
            raise ValueError(f"hidden must hold positive widths, got {list(self.hidden)}")
        for name in ("omega", "learning_rate", "steps"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
        if outside := [step for step in self.checkpoints if not 0 <= step <= self.steps]:
            raise ValueError(
                f"checkpoints {outside} lie outside of steps 0 to {self.steps}: "
                "change checkpoints or steps"
            )

    @property
    def chunk(self) -> int:
        """How many networks are fitted at once."""
        return 256

    @property
    def kept_steps(self) -> tuple[int, ...]:
        """Steps after which weights are kept, ascending, the last one always."""
        return tuple(sorted({*self.checkpoints, self.steps}))

    def start_seed(self, index: int) -> int:
        """Seed of a member's initial values."""
        which = "shared" if self.shared_start else f"member {index}"
        return random.Random(f"graphrep zoo {self.seed} {which} start").randrange(2**62)

    def image_order(self, num_images: int) -> Tensor:
        """The image that each member fits, by index; none twice.

        Raises:
            ValueError: more members than images. Two members of one image would stand
                on either side of a split by model.
        """
        if self.num_models > num_images:
            raise ValueError(
                f"num_models is {self.num_models}, but the {self.part} part of {self.images} has "
                f"{num_images} images, and each is fitted once: ask for at most {num_images}"
            )
        generator = torch.Generator().manual_seed(self.seed)
        return torch.randperm(num_images, generator=generator)[: self.num_models]
