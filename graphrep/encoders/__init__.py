"""Encoders on equal terms: a batch of networks in, latents of tokens and of the whole out."""

from .base import Batch as Batch, Embedding as Embedding, Encoder as Encoder
from .graph import GraphEncoder as GraphEncoder, GraphEncoderConfig as GraphEncoderConfig
from .hyperrep import (
    HyperRepresentationConfig as HyperRepresentationConfig,
    HyperRepresentationEncoder as HyperRepresentationEncoder,
)
from .pna import PNAEncoder as PNAEncoder, PNAEncoderConfig as PNAEncoderConfig
from .statistics import (
    RawEncoder as RawEncoder,
    RawEncoderConfig as RawEncoderConfig,
    StatisticsEncoder as StatisticsEncoder,
    StatisticsEncoderConfig as StatisticsEncoderConfig,
)
from .token import TokenEncoder as TokenEncoder, TokenEncoderConfig as TokenEncoderConfig

EncoderConfig = (
    GraphEncoderConfig
    | TokenEncoderConfig
    | PNAEncoderConfig
    | HyperRepresentationConfig
    | StatisticsEncoderConfig
    | RawEncoderConfig
)
ENCODERS: dict[str, type[EncoderConfig]] = {
    "graph": GraphEncoderConfig,
    "token": TokenEncoderConfig,
    "pna": PNAEncoderConfig,
    "hyperrep": HyperRepresentationConfig,
    "statistics": StatisticsEncoderConfig,
    "raw": RawEncoderConfig,
}


def build_encoder(config: EncoderConfig, token_size: int, latent_dim: int) -> Encoder:
    """The encoder that a configuration describes."""
    match config:
        case GraphEncoderConfig():
            return GraphEncoder(config, token_size, latent_dim)
        case TokenEncoderConfig():
            return TokenEncoder(config, token_size, latent_dim)
        case PNAEncoderConfig():
            return PNAEncoder(config, token_size, latent_dim)
        case HyperRepresentationConfig():
            return HyperRepresentationEncoder(config, token_size, latent_dim)
        case StatisticsEncoderConfig():
            return StatisticsEncoder(config, token_size, latent_dim)
        case RawEncoderConfig():
            return RawEncoder(config, token_size, latent_dim)
