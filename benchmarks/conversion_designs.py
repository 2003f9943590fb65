"""Designs of all sizes with random values, for graph_conversion.py; the largest on `meta`."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from graphrep.zoo import NetworkConfig, build_network

DESIGNS = (
    *("demo cnn", "resnet-18", "resnet-50", "vit-b/16", "bert-base", "gpt2"),
    *("llama-7b (meta)", "mixtral-8x7b (meta)"),
)


def build(name: str) -> tuple[nn.Module, Any]:
    """A module with random values, or on `meta`, and small example inputs."""
    flat: dict[str, Any] = {"pooling": "none", "head": "global"}
    images = {"demo cnn": 8, "small cnn": 28, "1.2 M cnn": 28}
    if name in images:
        config = {
            "demo cnn": NetworkConfig(),
            "small cnn": NetworkConfig(hidden=(16, 16, 16), **flat),
            "1.2 M cnn": NetworkConfig(hidden=(256, 256, 256), **flat),
        }[name]
        size = images[name]
        return build_network(config, (1, size, size), 10).eval(), torch.randn(2, 1, size, size)
    import transformers as hf

    hf.logging.set_verbosity_error()
    pixels = {"pixel_values": torch.randn(1, 3, 32, 32)}
    tokens = {"input_ids": torch.arange(8).view(1, 8)}
    masked = {"input_ids": torch.zeros(1, 4).long(), "attention_mask": torch.ones(1, 4).long()}
    meta: dict[str, Any] = {"use_cache": False, "attn_implementation": "eager"}
    classes: dict[str, Any] = {"num_labels": 1000}
    match name:
        case "resnet-18":
            widths: dict[str, Any] = {"depths": [2, 2, 2, 2], "hidden_sizes": [64, 128, 256, 512]}
            basic = hf.ResNetConfig(layer_type="basic", **classes, **widths)
            return hf.ResNetForImageClassification(basic).eval(), pixels
        case "resnet-50":
            return hf.ResNetForImageClassification(hf.ResNetConfig(**classes)).eval(), pixels
        case "vit-b/16":
            large = {"pixel_values": torch.randn(1, 3, 224, 224)}
            return hf.ViTForImageClassification(hf.ViTConfig(**classes)).eval(), large
        case "bert-base":
            return hf.BertModel(hf.BertConfig()).eval(), tokens
        case "gpt2":
            return hf.GPT2LMHeadModel(hf.GPT2Config(use_cache=False)).eval(), tokens
        case "llama-7b (meta)":
            with torch.device("meta"):
                return hf.LlamaForCausalLM(hf.LlamaConfig(**meta)).eval(), masked
        case "mixtral-8x7b (meta)":
            meta["experts_implementation"] = "batched_mm"  # the loop over experts reads values
            mixture = hf.MixtralConfig(**meta)
            with torch.device("meta"):
                return hf.MixtralForCausalLM(mixture).eval(), masked
    raise ValueError(f"design must be one of {', '.join(DESIGNS)}, got '{name}'")
