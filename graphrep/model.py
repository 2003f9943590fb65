"""One weight model: scaling, an encoder, the shared decoder.

Knows how theta becomes latents and latents become theta, and from which form of a network;
knows no zoo, no loss.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from .answers import AnswerReader
from .architecture import Architecture, Block
from .architecture.reorder import read_block
from .components import Components
from .decoders import DecoderConfig, TokenDecoder
from .encoders import Batch, Embedding, EncoderConfig, GraphEncoderConfig, build_encoder
from .encoders.magnitudes import NUM_MAGNITUDES, layer_magnitudes
from .encoders.moments import NUM_MOMENTS, layer_moments
from .encoders.streaming import reader_of, stream
from .scaling import Scaling, Thetas
from .symmetry.canonical_form import canonical_rows
from .symmetry.duplicates import merge_rows
from .symmetry.rescaling import Rescalings
from .tokens import token_grid

CHUNK = 256  # networks brought to their canonical form at once, to fit the scaling
COUNTS = ("moment_slots", "readout_dim", "num_queries", "magnitude_slots", "num_components")
NARROWEST = 1e-3  # least scale of a role, relative to its centre: canonical variances are equal


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Settings of `WeightModel`. Equal for all encoders of a comparison but for `encoder`."""

    encoder: EncoderConfig = field(default_factory=GraphEncoderConfig)
    decoder: DecoderConfig = field(default_factory=DecoderConfig)
    token_size: int = 32  # numbers a token at most
    latent_dim: int = 32  # of a token
    window: int = 128  # tokens decoded at a time
    halo: int = 32  # tokens of context either side of a decoded window, dropped on stitching
    canonical: bool = False  # encode and decode the canonical form among rescaled copies
    merge_duplicates: bool = False  # the model embedding reads one unit for all copies of it
    moment_slots: int = 0  # depths whose layer moments s(W) stand beside what the encoder says
    readout_dim: int = 0  # numbers that a perceptron adds to the model embedding; 0 for none
    num_queries: int = 0  # inputs that every network is run on, for numbers beside the learned ones
    magnitude_slots: int = 0  # depths whose layers' magnitudes stand beside what is learned
    num_components: int = 0  # principal components in place of all learned numbers; 0 for these

    def __post_init__(self) -> None:
        if self.window <= 2 * self.halo:
            raise ValueError(f"window must exceed twice the halo ({self.halo}), got {self.window}")
        for name in COUNTS:
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be 0 or more, got {getattr(self, name)}")


class WeightModel(nn.Module):
    """theta [B, P] <-> latents [B, T, Z], for any architecture.

    With `canonical` embeddings are the same for all rescaled copies of a network, and what is
    decoded is its canonical form; it takes the rescalings of every architecture
    (`learn_rescalings`). With `merge_duplicates` model embeddings are the same for all networks
    that split units of one into copies; tokens and units are still those of the network as it
    is. Copies are merged first: those that were rescaled apart are not recognised.

    A model embedding holds the encoder's numbers, layer moments where `moment_slots` asks for
    them, the readout's, layers' magnitudes with `magnitude_slots`, and with `num_queries` what the
    network answers (`AnswerReader`), which takes the modules of all architectures. With
    `num_components` the learned ones give way to their principal components, once these are
    fitted (`training.components`); moments stay as they are.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.scaling = Scaling()
        self.encoder = build_encoder(config.encoder, config.token_size, config.latent_dim)
        self.decoder = TokenDecoder(config.decoder, config.token_size, config.latent_dim)
        self.readout: nn.Sequential | None = None
        self.answers = AnswerReader(config.num_queries) if config.num_queries else None
        if config.readout_dim:
            D, R = self.learned_dim - config.readout_dim, config.readout_dim
            self.readout = nn.Sequential(
                *(nn.LayerNorm(D), nn.Linear(D, R), nn.GELU()), *(nn.Linear(R, R), nn.GELU())
            )
        self.components: Components | None = None
        if config.num_components:
            num_learned = int(self.is_learned().sum())
            self.components = Components(num_learned, config.num_components)
        self.rescalings: dict[str, Rescalings] = {}  # by fingerprint of the architecture

    def learn_rescalings(self, found: Iterable[Rescalings]) -> WeightModel:
        """Remember the rescalings of some architectures, for `canonical`."""
        self.rescalings |= {r.fingerprint: r for r in found}
        return self

    def fit_scaling(self, groups: Iterable[tuple[Architecture, Thetas]]) -> WeightModel:
        """Fit the scaling to networks in rows, in the form that is encoded."""
        if not self.config.canonical:
            self.scaling.fit(groups)
            return self
        self.scaling.fit((a, _Canonical(theta, a, self)) for a, theta in groups)
        self.scaling.scale.copy_(self.scaling.scale.max(NARROWEST * self.scaling.centre.abs()))
        return self

    def values(self, theta: Tensor, architecture: Architecture) -> Tensor:
        """What an encoder reads and a decoder gives: theta [B, P] in its form, scaled."""
        return self.scaling(self.form(theta, architecture), architecture)

    def form(
        self, theta: Tensor, architecture: Architecture, whole: Architecture | None = None
    ) -> Tensor:
        """theta [B, P] itself, or in canonical form.

        Args:
            whole: What the architecture was merged from, whose rescalings are known.

        Raises:
            ValueError: the rescalings of this architecture are not known.
        """
        if not self.config.canonical:
            return theta
        whole = whole or architecture
        if whole.fingerprint not in self.rescalings:
            raise ValueError(
                f"model.canonical needs the rescalings of '{whole.name}' ({whole.fingerprint}), "
                "which is none of the architectures that this model was trained on. Call "
                "model.learn_rescalings([derive_rescalings(architecture, module, "
                "example_inputs)]), or encode the module with example_inputs"
            )
        known = self.rescalings[whole.fingerprint]
        if architecture is not whole:
            known = known.resized(architecture)
        return canonical_rows(theta, architecture, known)

    @property
    def learned_dim(self) -> int:
        """D of what `embed` gives, which is read off weights: all but the answers."""
        moments = self.config.moment_slots * NUM_MOMENTS
        return self.encoder.embedding_dim + moments + self.config.readout_dim

    def is_learned(self) -> Tensor:
        """Which numbers of what `embed` gives are learned, bool [learned_dim]: no moments."""
        encoder, moments = self.encoder.embedding_dim, self.config.moment_slots * NUM_MOMENTS
        learned = torch.ones(self.learned_dim, dtype=torch.bool)
        learned[encoder - self.encoder.num_moments : encoder + moments] = False
        return learned

    @property
    def is_condensed(self) -> bool:
        """Whether components stand in place of the learned numbers: once they are fitted."""
        return self.components is not None and self.components.is_fitted

    @property
    def embedding_dim(self) -> int:
        """D of a model embedding."""
        D = self.learned_dim + self.config.magnitude_slots * NUM_MAGNITUDES
        if self.is_condensed:
            D += self.config.num_components - int(self.is_learned().sum())
        return D + (0 if self.answers is None else self.answers.num_numbers)

    def embed(self, batch: Batch) -> Embedding:
        """What a batch's weights say: the encoder's numbers, layer moments, the readout's."""
        found: Embedding = self.encoder(batch)
        if self.config.moment_slots:
            moments = layer_moments(batch, self.config.moment_slots)
            found = replace(found, model=torch.cat([found.model, moments], 1))
        if self.readout is None:
            return found
        return replace(found, model=torch.cat([found.model, self.readout(found.model)], 1))

    def encode(
        self,
        theta: Tensor,
        architecture: Architecture,
        *,
        tokens: bool = True,
        answers: Tensor | None = None,
    ) -> Embedding:
        """Networks in rows, theta [B, P], to their embedding; nothing hidden.

        Without `tokens` an encoder whose model embedding does not need them makes none.

        Args:
            answers: What `answers.read` said of these networks, where that is known; else the
                networks are run.
        """
        found = self.encode_weights(theta, architecture, tokens=tokens)
        return replace(found, model=self.beside_answers(found.model, theta, architecture, answers))

    def encode_weights(
        self, theta: Tensor, architecture: Architecture, *, tokens: bool = True
    ) -> Embedding:
        """As `encode`, without what the networks answer."""
        found = self._encode_form(self.form(theta, architecture), architecture, tokens)
        for part in merge_rows(theta, architecture) if self.config.merge_duplicates else ():
            form = self.form(part.theta, part.architecture, architecture)
            own = self._encode_form(form, part.architecture, tokens=False).model
            rows = part.rows.to(own.device)
            found = replace(found, model=found.model.index_copy(0, rows, own))
        return found

    def _encode_form(self, form: Tensor, architecture: Architecture, tokens: bool) -> Embedding:
        """What the weights of networks in their form say."""
        values = self.scaling(form, architecture)
        found = self.embed(Batch(architecture, values, self.config.token_size, tokens=tokens))
        return replace(found, model=self.beside_magnitudes(found.model, form, architecture))

    def beside_magnitudes(
        self, learned: Tensor, form: Tensor, architecture: Architecture
    ) -> Tensor:
        """What `embed` gives of networks, condensed if that is fitted, beside their magnitudes.

        Args:
            learned: [B, learned_dim].
            form: The networks' own numbers, [B, P], as `form` gives them.
        """
        return self._beside(
            learned, architecture, lambda block: read_block(architecture, block, form)
        )

    def _beside(
        self, learned: Tensor, architecture: Architecture, read: Callable[[Block], Tensor]
    ) -> Tensor:
        if self.components is not None and self.is_condensed:
            is_learned = self.is_learned().to(learned.device)
            kept = [self.components(learned[:, is_learned]), learned[:, ~is_learned]]
            learned = torch.cat(kept, 1)
        if not self.config.magnitude_slots:
            return learned
        slots, like = self.config.magnitude_slots, learned.new_zeros(len(learned), 0)
        return torch.cat([learned, layer_magnitudes(architecture, read, slots, like)], 1)

    def beside_answers(
        self,
        learned: Tensor,
        theta: Tensor,
        architecture: Architecture,
        answers: Tensor | None = None,
    ) -> Tensor:
        """What weights say, [B, learned_dim], and what the networks answer, if they are asked."""
        if self.answers is None:
            return learned
        if answers is None:
            answers = self.answers.read(theta, architecture)
        return torch.cat([learned, answers.to(learned)], 1)

    @property
    def streams(self) -> bool:
        """Whether a network can be embedded block by block."""
        config = self.config
        whole = config.canonical or config.merge_duplicates or config.num_queries
        return self.encoder.streams and not whole

    def encode_streamed(
        self, tensor: Callable[[str], Tensor], architecture: Architecture
    ) -> Embedding:
        """One network as above, without tokens, its tensors asked for by name as they are needed.

        Raises:
            ValueError: an encoder, or a form, that needs all numbers at once.
        """
        if not self.encoder.streams:
            raise ValueError(
                f"{type(self.encoder).__name__} needs all of a network's numbers at once; "
                "take encoder=graph or encoder=statistics for networks of this size"
            )
        if not self.streams:
            raise ValueError(
                "model.canonical, model.merge_duplicates and model.num_queries need all of a "
                "network's numbers at once; encode it whole, or take a model without them"
            )
        batch = stream(architecture, tensor, self.scaling, self.config.token_size)
        found = self.embed(batch)
        read = reader_of(architecture, tensor, batch.values)
        return replace(found, model=self._beside(found.model, architecture, read))

    def decode(self, latents: Tensor, architecture: Architecture) -> Tensor:
        """Token latents [B, T, Z] to theta [B, P], in windows with a halo of context."""
        grid = token_grid(architecture, self.config.token_size)
        window, halo = self.config.window, self.config.halo
        position = grid.position
        if grid.num_tokens <= window:
            tokens = self.decoder(latents, position)
        else:
            kept, core = [], window - 2 * halo
            for start in range(0, grid.num_tokens, core):
                low, high = max(0, start - halo), min(grid.num_tokens, start + core + halo)
                part = self.decoder(latents[:, low:high], position[low:high])
                kept.append(part[:, start - low : start - low + core])
            tokens = torch.cat(kept, 1)
        return self.scaling.inverse(grid.join(tokens), architecture)

    @property
    def num_parameters(self) -> int:
        """Trainable numbers of encoder, readout and decoder."""
        return sum(p.numel() for p in self.parameters())


@dataclass(frozen=True, eq=False)
class _Canonical:
    """Networks in rows in the form that a model encodes, made when they are asked for."""

    theta: Thetas
    architecture: Architecture
    model: WeightModel

    def __len__(self) -> int:
        return len(self.theta)

    def __getitem__(self, index: Tensor) -> Tensor:
        parts = [self.model.form(self.theta[i], self.architecture) for i in index.split(CHUNK)]
        return torch.cat(parts)

    def split(self, num: int) -> Iterable[Tensor]:
        return (self.model.form(part, self.architecture) for part in self.theta.split(num))
