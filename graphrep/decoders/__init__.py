"""Decoders: latents back to weights."""

from .token import DecoderConfig as DecoderConfig, TokenDecoder as TokenDecoder
