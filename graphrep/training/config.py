"""Settings of training, whatever it minimises."""

from __future__ import annotations

from dataclasses import dataclass

PRECISIONS = ("float32", "bfloat16")
DEVICES = ("cpu", "cuda", "auto")


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """Settings of `train`; see conf/training/*.yaml.

    A step of the optimiser is taken on `batch_size` x `accumulate` x processes networks.
    """

    seed: int = 0
    num_steps: int = 2000
    batch_size: int = 32  # networks of one architecture, or of several that have fewer
    accumulate: int = 1  # batches of one step and process
    balance: float = 0.0  # shares of several zoos: 0 by their size, 1 equal
    learning_rate: float = 2e-3  # the peak of the one-cycle schedule
    weight_decay: float = 3e-9  # on matrices
    warmup: float = 0.3  # share of the steps
    clip_norm: float = 1.0  # of the gradient; 0 for no limit
    validate_every: int = 200  # steps; the best model by validation loss is kept
    patience: int = 0  # validations without a better one until training stops; 0 never stops it
    precision: str = "float32"  # of products while training: one of PRECISIONS
    device: str = "cpu"  # one of DEVICES; auto takes a GPU if torch finds one
    num_threads: int = 0  # 0 leaves torch's own choice

    def __post_init__(self) -> None:
        for name in ("num_steps", "batch_size", "accumulate", "validate_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"training.{name} must be at least 1, got {getattr(self, name)}")
        for name in ("clip_norm", "patience"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"training.{name} must be 0 or more, got {getattr(self, name)}")
        if not 0 <= self.balance <= 1:
            raise ValueError(f"training.balance must lie in [0, 1], got {self.balance}")
        for name, choices in (("precision", PRECISIONS), ("device", DEVICES)):
            if getattr(self, name) not in choices:
                raise ValueError(
                    f"training.{name} must be one of {', '.join(choices)}, "
                    f"got '{getattr(self, name)}'"
                )
