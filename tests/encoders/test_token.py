"""The token encoder: its transformer, its windows, its precision, its share of what is hidden."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from graphrep.architecture import Architecture
from graphrep.encoders import Batch, TokenEncoder, TokenEncoderConfig, build_encoder
from graphrep.encoders.token import parts
from graphrep.tokens import token_grid
from graphrep.transformer import Transformer

from ..architectures import CASES
from ..encoding import TOKEN, architecture_of, networks, relative

SIZE = 8
LONG = 10  # tokens a window, fewer than the network has


@pytest.fixture(scope="module")
def architecture() -> Architecture:
    return architecture_of(CASES[5])


def encoder_of(config: TokenEncoderConfig = TOKEN) -> TokenEncoder:
    torch.manual_seed(0)
    built = build_encoder(config, SIZE, 8)
    assert isinstance(built, TokenEncoder)
    nn.init.normal_(built.hidden)
    return built.double().eval()


def torch_layers(ours: Transformer, num_heads: int, norm_first: bool) -> nn.TransformerEncoder:
    """torch's own transformer with the same weights."""
    dim = ours.layers[0].out.in_features
    layer = nn.TransformerEncoderLayer(
        dim,
        num_heads,
        4 * dim,
        dropout=0.0,
        activation="gelu",
        batch_first=True,
        norm_first=norm_first,
        bias=False,
    )
    built = nn.TransformerEncoder(layer, len(ours.layers), enable_nested_tensor=False).double()
    for own, other in zip(ours.layers, built.layers, strict=True):
        other.load_state_dict(
            {
                "self_attn.in_proj_weight": own.qkv.weight,
                "self_attn.out_proj.weight": own.out.weight,
                "linear1.weight": own.up.weight,
                "linear2.weight": own.down.weight,
                "norm1.weight": own.norm1.weight,
                "norm2.weight": own.norm2.weight,
            }
        )
    return built


@torch.no_grad()
def test_the_transformer_computes_what_torch_layers_compute() -> None:
    torch.manual_seed(0)
    ours, tokens = Transformer(12, 3, 2).double(), torch.randn(4, 7, 12).double()
    for layer in ours.layers:
        nn.init.normal_(layer.norm1.weight)
        nn.init.normal_(layer.norm2.weight)
    found = ours(tokens)
    assert relative(found - torch_layers(ours, 3, norm_first=True)(tokens), found) < 1e-9
    assert relative(found - torch_layers(ours, 3, norm_first=False)(tokens), found) > 1e-2
    assert relative(found - torch_layers(ours, 2, norm_first=True)(tokens), found) > 1e-3


def test_heads_must_divide_the_width() -> None:
    with pytest.raises(ValueError, match="multiple of num_heads=3, got 8"):
        Transformer(8, 3, 1)


def test_a_window_is_cut_as_from_the_whole(architecture: Architecture) -> None:
    grid, theta = token_grid(architecture, SIZE), networks(architecture)
    plain = theta[:, grid.index.clamp(min=0)] * grid.mask
    for window in (slice(None), slice(3, 9), slice(5, None), slice(4, 4)):
        assert torch.equal(grid.cut(theta, window), plain[:, window])
    assert not torch.equal(grid.cut(theta, slice(3, 9)), plain[:, 2:8])
    seen = theta > 0
    assert torch.equal(grid.cut(seen), seen[:, grid.index.clamp(min=0)] & grid.mask)


def test_gradients_pass_through_cut_and_join(architecture: Architecture) -> None:
    grid, theta = token_grid(architecture, SIZE), networks(architecture).requires_grad_()
    weights = torch.randn(grid.index.shape, dtype=torch.float64)
    (found,) = torch.autograd.grad((grid.cut(theta) * weights).sum(), theta)
    assert torch.equal(found, grid.join(weights.expand(len(theta), -1, -1)))
    tokens = grid.cut(theta.detach()).requires_grad_()
    (found,) = torch.autograd.grad((grid.join(tokens) * theta.detach()).sum(), tokens)
    assert torch.equal(found, grid.cut(theta.detach()))


def test_parts_are_few_and_of_even_length() -> None:
    assert parts(0, 4) == []
    assert parts(4, 4) == [(0, 4)]
    assert parts(9, 4) == [(0, 3), (3, 6), (6, 9)]
    assert parts(10, 4) == [(0, 3), (3, 6), (6, 10)]


@torch.no_grad()
def test_a_long_network_is_the_mean_over_all_tokens_of_its_windows(
    architecture: Architecture,
) -> None:
    values, num = networks(architecture), token_grid(architecture, SIZE).num_tokens
    whole = encoder_of()
    windowed = encoder_of(replace(TOKEN, max_window=LONG))
    assert num > 2 * LONG
    found = windowed(Batch(architecture, values, SIZE))
    each = [
        whole(Batch(architecture, values, SIZE, window=slice(low, high))).tokens
        for low, high in parts(num, LONG)
    ]
    tokens = torch.cat(each, 1)
    assert found.tokens.shape == (len(values), num, 8)
    assert relative(found.tokens - tokens, tokens) < 1e-9
    assert relative(found.model - tokens.mean(1), found.model) < 1e-9
    at_once = whole(Batch(architecture, values, SIZE)).tokens
    assert relative(found.tokens - at_once, at_once) > 1e-6  # they do not see each other


@torch.no_grad()
def test_without_tokens_the_embedding_is_the_same(architecture: Architecture) -> None:
    values = networks(architecture)
    for config in (TOKEN, replace(TOKEN, max_window=LONG)):
        built = encoder_of(config)
        found = built(Batch(architecture, values, SIZE, tokens=False))
        assert found.tokens.shape == (len(values), 0, 8)
        assert torch.equal(found.model, built(Batch(architecture, values, SIZE)).model)


@torch.no_grad()
def test_padding_has_no_part_in_the_share_that_is_hidden(architecture: Architecture) -> None:
    """Where all is visible nothing is marked, in tokens of any filling."""
    values, grid = networks(architecture), token_grid(architecture, SIZE)
    assert not grid.mask.all()
    built = encoder_of(replace(TOKEN, max_window=LONG))

    def embed(visible: Tensor | None) -> Tensor:
        shown = values if visible is None else values * visible
        return built(Batch(architecture, shown, SIZE, visible)).tokens

    seen = torch.ones_like(values, dtype=torch.bool)
    before = embed(None)
    assert relative(embed(seen) - before, before) < 1e-9
    padded = int(grid.mask.all(1).logical_not().nonzero()[0])
    seen[:, grid.index[padded][grid.mask[padded]]] = False
    assert relative((embed(seen) - before)[:, padded], before) > 1e-3


def test_bfloat16_is_near_float32(architecture: Architecture) -> None:
    """In its embeddings and in its gradients; and it is not the same."""
    torch.manual_seed(1)
    values, found = torch.randn(6, architecture.num_parameters), {}
    for precision in ("float32", "bfloat16"):
        built = encoder_of(replace(TOKEN, precision=precision)).float()
        embedding = built(Batch(architecture, values, SIZE))
        assert embedding.model.dtype == embedding.tokens.dtype == torch.float32
        embedding.tokens.square().mean().backward()
        gradient = built.blocks.layers[0].qkv.weight.grad
        assert gradient is not None
        with torch.no_grad():  # attention takes another way there
            quiet = built(Batch(architecture, values, SIZE)).tokens
        found[precision] = embedding.tokens.detach(), gradient, quiet
    for exact, near in zip(found["float32"], found["bfloat16"], strict=True):
        assert 1e-4 < (near - exact).norm() / exact.norm() < 0.03


def test_a_network_beyond_the_learned_positions_is_refused(architecture: Architecture) -> None:
    built = encoder_of(replace(TOKEN, max_tokens=LONG))
    batch = Batch(architecture, networks(architecture), SIZE)
    with pytest.raises(ValueError, match=f"max_tokens={LONG}. Train with a larger max_tokens"):
        built(batch)
    built(replace(batch, window=slice(0, LONG)))


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"precision": "half"}, "precision must be float32 or bfloat16, got 'half'"),
        ({"max_window": 0}, "max_window must be at least 1, got 0"),
        ({"model_dim": 10, "num_heads": 4}, "multiple of num_heads=4, got 10"),
    ],
)
def test_settings_are_checked(setting: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TokenEncoderConfig(**setting)  # type: ignore[arg-type]
