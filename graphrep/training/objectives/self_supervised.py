"""Masked reconstruction and contrast: what SANE and Hyper-Representations train on, and more.

Sources: SANE, arXiv:2406.09997 (gamma * NT-Xent + (1 - gamma) * reconstruction);
Hyper-Representations, arXiv:2110.15288 (E_D, E_c, E_cD; E_c+D pulls positives together);
masked block modelling reads hidden numbers off the states of the units at their two ends.
Where we differ: the target is the clean view, padding counts in no loss, and what is
hidden is told apart from what is seen. SANE's first view is canonical: here it is the network
as the zoo has it, where not `permute_first`; align a zoo beforehand to have it aligned.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from ...encoders import Batch, Embedding
from ...model import WeightModel
from ...tokens import TokenGrid, token_grid
from ..networks import Rows
from .base import Objective
from .losses import nt_xent, positives, reconstruction
from .views import View, ViewConfig, make_view


@dataclass(frozen=True, kw_only=True)
class SelfSupervisedConfig:
    """Settings of `SelfSupervised`; see conf/objective/*.yaml. A weight of 0 leaves a term out."""

    name: str = "self_supervised"
    seen_weight: float = 1.0  # of reconstructing the tokens' numbers that the encoder saw
    hidden_weight: float = 1.0  # of those that it did not see
    numbers_weight: float = 0.0  # of hidden numbers predicted by the encoder itself
    contrast_weight: float = 0.0  # of NT-Xent between two views
    positives_weight: float = 0.0  # of the distance between two views, without negatives
    temperature: float = 0.1  # of NT-Xent
    projection_dim: int = 30  # of the head that contrast and positives read
    window: int = 128  # tokens a network and step, from a random start
    permute_first: bool = True  # else, of two views, only the second is reordered, as in SANE
    reconstruct_both: bool = False  # of two views; else the first alone
    views: ViewConfig = field(default_factory=ViewConfig)

    def __post_init__(self) -> None:
        weights = ("seen", "hidden", "numbers", "contrast", "positives")
        values = [getattr(self, f"{name}_weight") for name in weights]
        if min(values) < 0 or not any(values):
            raise ValueError(f"objective weights must be 0 or more and not all 0, got {values}")
        if self.window < 1:
            raise ValueError(f"objective.window must be at least 1, got {self.window}")


class SelfSupervised(Objective):
    """All terms on views of the same networks; a second view is made only when one needs it."""

    def __init__(self, config: SelfSupervisedConfig, embedding_dim: int) -> None:
        super().__init__()
        self.config = config
        self.paired = bool(config.contrast_weight or config.positives_weight)
        self.decodes = bool(config.seen_weight or config.hidden_weight)
        D, H = embedding_dim, config.projection_dim
        if self.paired:  # sizes as in SANE
            self.projection = nn.Sequential(
                *(nn.Linear(D, H), nn.LayerNorm(H), nn.ReLU()),
                *(nn.Linear(H, H), nn.LayerNorm(H), nn.ReLU()),
            )

    def losses(
        self, model: WeightModel, rows: Rows, generator: torch.Generator
    ) -> dict[str, Tensor]:
        size, config = model.config.token_size, self.config
        grid = token_grid(rows.architecture, size)
        view = self._view(model, rows, generator, permute=config.permute_first)
        window = slice(0, grid.num_tokens)
        if grid.num_tokens > config.window:
            start = int(torch.randint(grid.num_tokens - config.window + 1, (), generator=generator))
            window = slice(start, start + config.window)
        embedding = self._encode(model, rows, view, window, predict=bool(config.numbers_weight))
        seen_by_decoder = [(view, embedding)] if self.decodes else []
        if self.paired:
            other_view = self._view(model, rows, generator)
            both = self.decodes and config.reconstruct_both
            other = self._encode(model, rows, other_view, window, tokens=both)
            seen_by_decoder += [(other_view, other)] if both else []
        losses: dict[str, Tensor] = {}
        if seen_by_decoder:
            found = [self._reconstruct(model, grid, window, *one) for one in seen_by_decoder]
            for name, values in zip(("seen", "hidden"), zip(*found, strict=True), strict=True):
                losses[name] = torch.stack(values).mean()
        if config.numbers_weight:
            assert embedding.numbers is not None
            error = (embedding.numbers - view.target).square()
            missing = ~view.visible & torch.isfinite(error)
            losses["numbers"] = torch.where(missing, error, 0).sum() / missing.sum().clamp(min=1)
        if self.paired:
            projected = self.projection(embedding.model), self.projection(other.model)
            if config.contrast_weight:
                losses["contrast"] = nt_xent(*projected, config.temperature)
            if config.positives_weight:
                losses["positives"] = positives(*projected)
        weighted = [getattr(config, f"{name}_weight") * value for name, value in losses.items()]
        return {**losses, "loss": torch.stack(weighted).sum()}

    @staticmethod
    def _reconstruct(
        model: WeightModel, grid: TokenGrid, window: slice, view: View, embedding: Embedding
    ) -> tuple[Tensor, Tensor]:
        """Errors of the tokens' numbers that were seen, and of those that were not."""
        found = model.decoder(embedding.tokens, grid.position[window])
        target, visible = (grid.cut(t, window) for t in (view.target, view.visible.to(found)))
        return reconstruction(found, target, grid.mask[window].to(found.device), visible > 0)

    def _view(
        self, model: WeightModel, rows: Rows, generator: torch.Generator, permute: bool = True
    ) -> View:
        size, views = model.config.token_size, self.config.views
        views = replace(views, permute=views.permute and permute)
        return make_view(rows.theta, rows.architecture, model.values, views, size, generator)

    def _encode(
        self,
        model: WeightModel,
        rows: Rows,
        view: View,
        window: slice,
        tokens: bool | None = None,
        predict: bool = False,
    ) -> Embedding:
        batch = Batch(
            rows.architecture,
            view.values,
            model.config.token_size,
            view.visible,
            window,
            tokens=self.decodes if tokens is None else tokens,
            predict=predict,
        )
        found = model.embed(batch)
        if predict and found.numbers is None:
            raise ValueError(
                f"objective.numbers_weight needs an encoder that predicts hidden numbers; "
                f"{type(model.encoder).__name__} does not. Take encoder=graph, or weigh "
                "hidden_weight instead"
            )
        return found
