"""Implicit networks, autoencoders, generators, flows, hypernetworks, spline layers."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .attention import SelfAttention
from .case import Family, draw, floats, heads, perms


class Sine(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.sin(30.0 * x)


class Encoded(nn.Module):
    """An implicit network over sines and cosines of its coordinates, with a skip."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("frequencies", 2.0 ** torch.arange(3) * math.pi)
        self.first, self.second = nn.Linear(12, 8), nn.Linear(8 + 12, 7)
        self.head = nn.Linear(7, 3)

    def forward(self, x: Tensor) -> Tensor:
        angle = (x.unsqueeze(-1) * self.frequencies).flatten(1)
        x = torch.cat([angle.sin(), angle.cos()], -1)
        y = F.relu(self.first(x))
        return self.head(F.relu(self.second(torch.cat([y, x], -1)))).sigmoid()


class FourierFeatures(nn.Module):
    """Random features as a parameter: a frequency owns a sine and a cosine."""

    def __init__(self) -> None:
        super().__init__()
        self.frequencies = nn.Parameter(torch.zeros(2, 6))
        self.body = nn.Sequential(nn.Linear(12, 5), nn.ReLU(), nn.Linear(5, 1))

    def forward(self, x: Tensor) -> Tensor:
        angle = 2 * math.pi * x @ self.frequencies
        return self.body(torch.cat([angle.sin(), angle.cos()], -1))


class Variational(nn.Module):
    """A VAE that returns the distribution of its latents, which gives those an identity."""

    def __init__(self, returned: bool) -> None:
        super().__init__()
        self.returned = returned
        self.encode = nn.Linear(6, 8)
        self.mean, self.spread = nn.Linear(8, 4), nn.Linear(8, 4)
        self.decode = nn.Sequential(nn.Linear(4, 7), nn.ReLU(), nn.Linear(7, 6))

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, ...]:
        y = F.relu(self.encode(x))
        mean, spread = self.mean(y), self.spread(y)
        if not self.returned:
            divergence = (spread.exp() + mean**2 - 1 - spread).sum(-1)
            return self.decode(mean), divergence
        drawn = mean + torch.randn_like(mean) * (spread / 2).exp()
        return self.decode(drawn), mean, spread


class Coupling(nn.Module):
    """A flow: one half of the data scales and shifts the other."""

    def __init__(self) -> None:
        super().__init__()
        self.nets = nn.ModuleList(
            nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 6)) for _ in range(2)
        )

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        volume = x.new_zeros(len(x))
        for net in self.nets:
            kept, changed = x.chunk(2, -1)
            scale, shift = net(kept).chunk(2, -1)
            x = torch.cat([changed * scale.tanh().exp() + shift, kept], -1)
            volume = volume + scale.tanh().sum(-1)
        return x, volume


class Denoiser(nn.Module):
    """A diffusion U-Net's block: group norms, a time embedding, attention over places."""

    def __init__(self) -> None:
        super().__init__()
        self.time = nn.Sequential(nn.Linear(4, 5), nn.SiLU(), nn.Linear(5, 7))
        self.stem, self.norm1 = nn.Conv2d(3, 8, 3, padding=1), nn.GroupNorm(4, 8)
        self.conv1, self.tell = nn.Conv2d(8, 12, 3, padding=1), nn.Linear(7, 12)
        self.norm2, self.conv2 = nn.GroupNorm(3, 12), nn.Conv2d(12, 8, 3, padding=1)
        self.norm3, self.qkv, self.out = nn.LayerNorm(8), nn.Linear(8, 24), nn.Linear(8, 8)
        self.norm4, self.head = nn.GroupNorm(4, 8), nn.Conv2d(8, 3, 3, padding=1)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        waves = 10.0 ** -torch.arange(2, dtype=time.dtype, device=time.device)
        angle = time[:, None] * waves
        t = F.silu(self.time(torch.cat([angle.sin(), angle.cos()], -1)))
        x = self.stem(x)
        y = self.conv1(F.silu(self.norm1(x))) + self.tell(t)[..., None, None]
        x = x + self.conv2(F.silu(self.norm2(y)))
        rows = self.norm3(x.flatten(2).transpose(1, 2))
        q, k, v = (p.unflatten(-1, (2, 4)).transpose(1, 2) for p in self.qkv(rows).chunk(3, -1))
        y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        x = x + self.out(y).transpose(1, 2).view_as(x)
        return self.head(F.silu(self.norm4(x)))


class Modulated(nn.Module):
    """A DiT block: a condition scales, shifts and gates attention and an MLP."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.condition = nn.Linear(4, 8), nn.Linear(3, 5)
        self.modulate = nn.Linear(5, 48)
        self.norm = nn.LayerNorm(8, elementwise_affine=False)
        self.attention = SelfAttention(fused=True)
        self.mlp = nn.Sequential(nn.Linear(8, 9), nn.GELU(), nn.Linear(9, 8))
        self.head = nn.Linear(8, 2)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        x = self.embed(x)
        parts = self.modulate(F.silu(self.condition(condition)))[:, None].chunk(6, -1)
        shift1, scale1, gate1, shift2, scale2, gate2 = parts
        x = x + gate1 * self.attention(self.norm(x) * (1 + scale1) + shift1)
        x = x + gate2 * self.mlp(self.norm(x) * (1 + scale2) + shift2)
        return self.head(x)


class Hyper(nn.Module):
    """A network whose output is another network's first layer."""

    def __init__(self) -> None:
        super().__init__()
        self.hyper = nn.Sequential(nn.Linear(2, 6), nn.Tanh(), nn.Linear(6, 4 * 3))
        self.second = nn.Linear(4, 2)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        weight = self.hyper(condition).view(4, 3)
        return self.second(torch.tanh(F.linear(x, weight)))


class Spline(nn.Module):
    """A Kolmogorov-Arnold layer: each edge has a cubic B-spline of its own."""

    def __init__(self, inner: int, outer: int) -> None:
        super().__init__()
        self.base = nn.Parameter(torch.zeros(outer, inner))
        self.coefficients = nn.Parameter(torch.zeros(outer, inner, 7))
        self.register_buffer("knots", torch.linspace(-3, 3, 11), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        knots, value = self.knots, x.unsqueeze(-1)
        basis = ((value >= knots[:-1]) & (value < knots[1:])).to(x)
        for k in range(1, 4):
            rising = (value - knots[: -k - 1]) / (knots[k:-1] - knots[: -k - 1])
            falling = (knots[k + 1 :] - value) / (knots[k + 1 :] - knots[1:-k])
            basis = rising * basis[..., :-1] + falling * basis[..., 1:]
        curves = F.linear(basis.flatten(1), self.coefficients.flatten(1))
        return F.linear(F.silu(x), self.base) + curves


def siren() -> nn.Module:
    return nn.Sequential(
        nn.Linear(2, 8), Sine(), nn.Linear(8, 8), Sine(), nn.Linear(8, 6), Sine(), nn.Linear(6, 1)
    )


def autoencoder() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, 2, 1), nn.ReLU(), nn.Conv2d(4, 6, 3, 2, 1), nn.ReLU(), nn.Flatten(),
        nn.Linear(24, 5), nn.Linear(5, 24), nn.ReLU(), nn.Unflatten(1, (6, 2, 2)),
        nn.ConvTranspose2d(6, 4, 2, 2), nn.ReLU(), nn.ConvTranspose2d(4, 1, 2, 2), nn.Sigmoid(),
    )  # fmt: skip


def generator() -> nn.Module:
    return nn.Sequential(
        nn.ConvTranspose2d(6, 12, 3, bias=False), nn.BatchNorm2d(12), nn.ReLU(),
        nn.ConvTranspose2d(12, 8, 4, 2, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU(),
        nn.ConvTranspose2d(8, 3, 4, 2, 1), nn.Tanh(),
    )  # fmt: skip


def discriminator() -> nn.Module:
    norm = nn.utils.parametrizations.spectral_norm
    return nn.Sequential(
        norm(nn.Conv2d(3, 6, 4, 2, 1)), nn.LeakyReLU(0.2), norm(nn.Conv2d(6, 8, 4, 2, 1)),
        nn.LeakyReLU(0.2), nn.Flatten(), norm(nn.Linear(32, 1)),
    )  # fmt: skip


COORDINATES = floats(7, 2)
FAMILIES = [
    Family(name="siren", build=siren, inputs=COORDINATES, symmetry=perms(8, 8, 6)),
    Family(name="inr-encoded", build=Encoded, inputs=COORDINATES, symmetry=perms(8, 7)),
    Family(name="inr-fourier", build=FourierFeatures, inputs=COORDINATES, symmetry=perms(6, 5)),
    Family(name="autoencoder", build=autoencoder, inputs=floats(2, 1, 8, 8),
           symmetry=perms(4, 6, 5, 6, 4),
           why="the code permutes; channels hold a row for each of 4 places"),
    Family(name="vae", build=lambda: Variational(False), inputs=floats(3, 6),
           symmetry=perms(8, 4, 7), why="latents permute: their divergence is summed"),
    Family(name="vae-returned-latents", build=lambda: Variational(True), inputs=floats(3, 6),
           symmetry=perms(8, 7), why="mean and variance of the latents are returned"),
    Family(name="gan-generator", build=generator, inputs=floats(2, 6, 1, 1),
           symmetry=perms(12, 8)),
    Family(name="gan-discriminator", build=discriminator, inputs=floats(2, 3, 8, 8),
           symmetry=perms(6, 8), why="under a spectral norm, whose vectors move along"),
    Family(name="coupling-flow", build=Coupling, inputs=floats(3, 6), symmetry=perms(5, 5)),
    Family(name="diffusion-block", build=Denoiser,
           inputs=lambda dtype: (draw(2, 3, 4, 4, dtype=dtype), draw(2, dtype=dtype, seed=2)),
           symmetry=perms(5, 7) * perms(4) * perms(2) ** 4 * perms(3) * perms(4) ** 3
           * heads(2, 4),
           why="time; the stream's groups of 2; the inner groups of 4; heads"),
    Family(name="dit-block", build=Modulated,
           inputs=lambda dtype: (draw(2, 5, 4, dtype=dtype), draw(2, 3, dtype=dtype, seed=2)),
           symmetry=perms(8, 5, 9) * heads(3, 4)),
    Family(name="hypernetwork", build=Hyper,
           inputs=lambda dtype: (draw(5, 3, dtype=dtype), draw(2, dtype=dtype, seed=2)),
           symmetry=perms(6, 4), least=perms(6), opaque=("hyper.2.weight", "hyper.2.bias"),
           why="the hidden units that are made owe their rows to a reshape of an activation"),
    Family(name="spline-layers", build=lambda: nn.Sequential(Spline(3, 5), Spline(5, 2)),
           inputs=floats(6, 3), symmetry=perms(5), least=perms(),
           opaque=("0.base", "0.coefficients", "1.base", "1.coefficients"),
           why="a basis of splines is no operation that a rule must know"),
]  # fmt: skip
