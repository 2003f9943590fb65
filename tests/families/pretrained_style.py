"""The transformers library's own models, tiny and random, built from configs offline."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from .case import (
    Family,
    Inputs,
    below,
    draw,
    experts,
    grouped_heads,
    heads,
    perms,
)

VOCABULARY, WIDTH, HIDDEN, LENGTH = 19, 16, 20, 6
EAGER = {"attn_implementation": "eager"}  # with a mask it runs on `meta`, sdpa reads values
FLOAT32 = {"law_dtype": torch.float32}  # norms that compute in float32 whatever they are given


class Only(nn.Module):
    """One of a model's outputs: what is returned has an identity, which fixes its units."""

    def __init__(self, model: nn.Module, wanted: str) -> None:
        super().__init__()
        self.model, self.wanted = model, wanted

    def forward(self, **inputs: Tensor) -> Tensor:
        return getattr(self.model(**inputs), self.wanted)


def build(model: str, only: str = "", **settings: Any) -> nn.Module:
    """A model class of transformers with its config class, from settings."""
    import transformers
    from transformers.utils import logging

    logging.set_verbosity_error()
    made = getattr(transformers, model)
    found = made(made.config_class(**settings))
    return Only(found, only) if only else found


def bert(model: str, **more: Any) -> nn.Module:
    return build(
        model, vocab_size=VOCABULARY, hidden_size=WIDTH, num_hidden_layers=2, num_labels=3,
        num_attention_heads=2, intermediate_size=HIDDEN, max_position_embeddings=12, **more,
    )  # fmt: skip


def llama(model: str, **more: Any) -> nn.Module:
    return build(
        model, vocab_size=VOCABULARY, hidden_size=WIDTH, num_hidden_layers=2, head_dim=4,
        num_attention_heads=4, num_key_value_heads=2, intermediate_size=HIDDEN, use_cache=False,
        max_position_embeddings=12, tie_word_embeddings=False, **more,
    )  # fmt: skip


def vit(model: str, **more: Any) -> nn.Module:
    return build(
        model, image_size=8, patch_size=4, hidden_size=WIDTH, num_hidden_layers=2,
        num_attention_heads=2, intermediate_size=HIDDEN, num_labels=3, **more,
    )  # fmt: skip


def gpt2() -> nn.Module:
    return build(
        "GPT2LMHeadModel", vocab_size=VOCABULARY, n_positions=12, n_embd=WIDTH, n_layer=2,
        n_head=2, n_inner=HIDDEN, use_cache=False, attn_implementation="eager",
    )  # fmt: skip


def neox() -> nn.Module:
    return build(
        "GPTNeoXForCausalLM", vocab_size=VOCABULARY, hidden_size=WIDTH, num_hidden_layers=2,
        num_attention_heads=2, intermediate_size=HIDDEN, max_position_embeddings=12,
        use_cache=False, rotary_pct=0.25,
    )  # fmt: skip


def opt() -> nn.Module:
    return build(
        "OPTForCausalLM", vocab_size=VOCABULARY, hidden_size=WIDTH, num_hidden_layers=2,
        num_attention_heads=2, ffn_dim=HIDDEN, max_position_embeddings=12, use_cache=False,
        word_embed_proj_dim=WIDTH,
    )  # fmt: skip


def distilbert() -> nn.Module:
    return build(
        "DistilBertForSequenceClassification", vocab_size=VOCABULARY, dim=WIDTH, n_layers=2,
        n_heads=2, hidden_dim=HIDDEN, max_position_embeddings=12, num_labels=3,
    )  # fmt: skip


def t5(gated: bool, only: str = "logits") -> nn.Module:
    return build(
        "T5ForConditionalGeneration", only, vocab_size=VOCABULARY, d_model=WIDTH, d_kv=4,
        d_ff=HIDDEN, num_layers=2, num_heads=2, use_cache=False, decoder_start_token_id=0,
        relative_attention_num_buckets=8, relative_attention_max_distance=12,
        feed_forward_proj="gated-gelu" if gated else "relu", tie_word_embeddings=not gated,
    )  # fmt: skip


def whisper() -> nn.Module:
    return build(
        "WhisperForConditionalGeneration", "logits", vocab_size=VOCABULARY, num_mel_bins=5,
        d_model=WIDTH, encoder_layers=2, decoder_layers=2, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=HIDDEN, decoder_ffn_dim=HIDDEN, use_cache=False,
        max_source_positions=4, max_target_positions=8, pad_token_id=0, bos_token_id=1,
        eos_token_id=2, decoder_start_token_id=1, suppress_tokens=None, begin_suppress_tokens=None,
        attn_implementation="eager",
    )  # fmt: skip


def clip() -> nn.Module:
    tower = {"num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": HIDDEN}
    text = {"vocab_size": VOCABULARY, "hidden_size": WIDTH, "max_position_embeddings": 12}
    text |= {"eos_token_id": 2, "bos_token_id": 1, "pad_token_id": 0}
    vision = {"hidden_size": 12, "image_size": 8, "patch_size": 4}
    return build(
        "CLIPModel", "logits_per_image", projection_dim=7, text_config=text | tower,
        vision_config=vision | tower,
    )  # fmt: skip


def swin() -> nn.Module:
    return build(
        "SwinForImageClassification", image_size=16, patch_size=2, embed_dim=8, depths=[2, 1],
        num_heads=[2, 4], window_size=4, mlp_ratio=2.0, num_labels=3,
    )  # fmt: skip


def convnext() -> nn.Module:
    return build(
        "ConvNextForImageClassification", patch_size=2, num_stages=2, hidden_sizes=[6, 8],
        depths=[1, 2], image_size=8, num_labels=3,
    )  # fmt: skip


def resnet(kind: str, width: int) -> nn.Module:
    return build(
        "ResNetForImageClassification", embedding_size=width, hidden_sizes=[width, width + 8],
        depths=[2, 1], layer_type=kind, num_labels=3,
    )  # fmt: skip


def mobilenet() -> nn.Module:
    return build(
        "MobileNetV2ForImageClassification", depth_multiplier=0.125, min_depth=2,
        depth_divisible_by=2, expand_ratio=3, image_size=32, num_labels=3,
        finegrained_output=False,
    )  # fmt: skip


def tokens(dtype: torch.dtype) -> dict[str, Tensor]:
    return {"input_ids": below(VOCABULARY, 2, LENGTH)}


def masked(dtype: torch.dtype) -> Inputs:
    return {**tokens(dtype), "attention_mask": torch.ones(2, LENGTH, dtype=torch.int64)}


def to_decode(dtype: torch.dtype) -> Inputs:
    return {
        "input_ids": below(VOCABULARY, 2, LENGTH),
        "decoder_input_ids": below(VOCABULARY, 2, 4, seed=2),
    }


def pixels(size: int, batch: int = 2):
    return lambda dtype: {"pixel_values": draw(batch, 3, size, size, dtype=dtype)}


READS = "without a mask, transformers reads the values of positions"
stream, hidden = perms(WIDTH), perms(HIDDEN)
layer = heads(2, WIDTH // 2) * hidden
rope = grouped_heads(2, 2, 4, rope=True)
T5_WITHIN = perms(4) ** 4  # dims of q/k and of v in each of two heads
T5 = (T5_WITHIN * hidden) ** 2 * (T5_WITHIN**2 * hidden) ** 2 * perms(2) ** 4
FAMILIES = [
    Family(name="vit", build=lambda: vit("ViTForImageClassification"), inputs=pixels(8),
           symmetry=stream * layer**2),
    Family(name="dinov2", build=lambda: vit("Dinov2ForImageClassification", mlp_ratio=2),
           inputs=pixels(8), symmetry=stream * (heads(2, 8) * perms(32)) ** 2,
           opaque=("dinov2.embeddings.mask_token",),
           why="layer scales move with the stream; the mask token is not used"),
    Family(name="bert", build=lambda: bert("BertForSequenceClassification"), inputs=tokens,
           symmetry=stream * layer**2 * stream, why="the pooler has units of its own"),
    Family(name="bert-masked", build=lambda: bert("BertForMaskedLM"), inputs=tokens,
           symmetry=stream * layer**2,
           why="the tied decoder makes the last transform's rows columns of the embedding"),
    Family(name="roberta",
           build=lambda: bert("RobertaForSequenceClassification", pad_token_id=1),
           inputs=tokens, symmetry=stream * layer**2 * stream),
    Family(name="distilbert", build=distilbert, inputs=tokens,
           symmetry=stream * layer**2 * stream),
    Family(name="gpt2", build=gpt2, inputs=masked, symmetry=stream * layer**2),
    Family(name="gpt-neox", build=neox, inputs=tokens,
           no_meta=READS, symmetry=stream * (perms(2) * perms(6, 8) ** 2 * hidden) ** 2,
           why="2 of each head's 8 q/k dims are rotated, the other 6 may be permuted"),
    Family(name="opt", build=opt, inputs=tokens, symmetry=stream * layer**2),
    Family(name="llama", build=lambda: llama("LlamaForCausalLM", **EAGER), inputs=masked,
           symmetry=stream * (rope * hidden) ** 2, **FLOAT32),
    Family(name="mistral", build=lambda: llama("MistralForCausalLM", sliding_window=3),
           inputs=masked, symmetry=stream * (rope * hidden) ** 2, **FLOAT32),
    Family(name="qwen2", build=lambda: llama("Qwen2ForCausalLM"), inputs=tokens,
           no_meta=READS, symmetry=stream * (rope * hidden) ** 2, **FLOAT32),
    Family(name="qwen3", build=lambda: llama("Qwen3ForCausalLM"), inputs=tokens,
           no_meta=READS, symmetry=stream * (rope * hidden) ** 2, **FLOAT32,
           why="a norm of q and k, whose dims the rotary embedding fixes anyway"),
    Family(name="gemma", build=lambda: llama("GemmaForCausalLM", **EAGER), inputs=masked,
           symmetry=stream * (rope * hidden) ** 2, **FLOAT32),
    Family(name="mixtral",
           build=lambda: llama("MixtralForCausalLM", num_local_experts=4, num_experts_per_tok=2,
                               experts_implementation="eager"),
           inputs=tokens, symmetry=stream * (rope * experts(4, HIDDEN)) ** 2, **FLOAT32,
           no_meta="the loop over experts reads values"),
    Family(name="mixtral-batched",
           build=lambda: llama("MixtralForCausalLM", num_local_experts=4, num_experts_per_tok=2,
                               experts_implementation="batched_mm", **EAGER),
           inputs=masked, symmetry=stream * (rope * experts(4, HIDDEN)) ** 2, **FLOAT32),
    Family(name="t5", build=lambda: t5(False), inputs=to_decode, symmetry=stream * T5, **FLOAT32,
           why="one table of position biases a stack ties its heads over layers; cross "
           "attention has none"),
    Family(name="t5-gated", build=lambda: t5(True), inputs=to_decode, symmetry=stream * T5,
           **FLOAT32),
    Family(name="t5-all-outputs", build=lambda: t5(False, ""), inputs=to_decode, symmetry=T5,
           **FLOAT32, why="the encoder's last states are returned, which fixes the stream"),
    Family(name="whisper", build=whisper,
           inputs=lambda dtype: {
               "input_features": draw(1, 5, 8, dtype=dtype),
               "decoder_input_ids": below(VOCABULARY, 1, 4),
               "decoder_attention_mask": torch.ones(1, 4, dtype=torch.int64)},
           symmetry=stream**3 * layer**2 * (layer * heads(2, 8)) ** 2,
           why="between the two convolutions, encoder, decoder; positions are parameters"),
    Family(name="clip", build=clip,
           inputs=lambda dtype: {
               "input_ids": torch.tensor([[1, 5, 7, 2], [1, 8, 2, 0]]),
               "pixel_values": draw(2, 3, 8, 8, dtype=dtype)},
           symmetry=stream * layer**2 * perms(12) * (heads(2, 6) * hidden) ** 2 * perms(7),
           why="two towers, and the space in which they meet"),
    Family(name="swin", build=swin, inputs=pixels(16, 1),
           symmetry=perms(8, 16) * (heads(2, 4) * perms(16)) ** 2 * heads(4, 4) * perms(32)),
    Family(name="convnext", build=convnext, inputs=pixels(8),
           symmetry=perms(6, 24, 8) * perms(32) ** 2),
    Family(name="resnet-basic", build=lambda: resnet("basic", 8), inputs=pixels(16),
           symmetry=perms(8, 8, 8) * perms(16, 16),
           why="the stem's width is the first stage's, so its stream is too"),
    Family(name="resnet-bottleneck", build=lambda: resnet("bottleneck", 16), inputs=pixels(16),
           symmetry=perms(16) * perms(4, 4) ** 2 * perms(24) * perms(6, 6),
           why="a quarter of a stage's width inside each of its blocks, twice"),
    Family(name="mobilenet-v2", build=mobilenet, inputs=pixels(32, 1),
           symmetry=perms(4, 2) * perms(4, 4, 8, 12, 20, 40)
           * perms(6) * perms(12) ** 5 * perms(24) ** 4 * perms(36) ** 3 * perms(60) ** 3
           * perms(160),
           why="the stem, a stream for each run of residuals, a width inside each block, the end"),
]  # fmt: skip
