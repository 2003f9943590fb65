"""Decoders: latents back to weights."""

from .token import DecoderConfig as DecoderConfig
from .token import TokenDecoder as TokenDecoder
