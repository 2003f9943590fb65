"""Folders of Hugging Face: config.json names the architecture, transformers builds it.

Works offline on the folder alone. Code that a folder brings along is never run: the class
comes from the installed transformers, and weights are read by `graphrep.checkpoint`.
"""

from __future__ import annotations

import importlib
import inspect
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import reduce
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from ..checkpoint import Checkpoint, read_checkpoint
from ..checkpoint.shards import read_json
from .compare import require_fit
from .extras import need

Config: TypeAlias = Any  # PreTrainedConfig; transformers need not be installed
Model: TypeAlias = Any  # PreTrainedModel
LARGEST_NUMBER = 10**9  # of a config; the largest honest ones are vocabularies and contexts
COUNTS = re.compile(r"(num|n)_.*(layers?|blocks?|experts?)$|^(depths?|layers?|n_layers?)$")
SMALL_IMAGE, FEW_TOKENS, FEW_SAMPLES = 64, 8, 4000


def open_folder(
    folder: Path, shapes: Sequence[Sequence[int]] = ()
) -> tuple[Checkpoint, nn.Module, dict[str, Tensor], tuple[str, ...]]:
    """What was read, the module with its values, inputs for it, and what was done.

    Args:
        shapes: Of the inputs in the order of the module's forward, instead of small ones.

    Raises:
        ValueError: transformers is not installed, knows no such class, or the weights differ
            from what config.json describes; then both are listed and nothing is loaded.
    """
    if not (folder / "config.json").is_file():
        raise ValueError(
            f"{folder}: is a folder without config.json. Name the file of weights in it, or pass "
            "--model package.module:factory"
        )
    content = read_json(folder / "config.json")
    checkpoint = read_checkpoint(folder)
    check_config(folder, content, len(checkpoint.state_dict))
    transformers = need("transformers", folder, "a Hugging Face folder")
    with quiet():
        config, kind, notes = describe(folder, content, transformers)
        module = fill(folder, kind, config, checkpoint)
        inputs = small_inputs(module, shapes)
    built = module.state_dict()
    renamed = [n for n in checkpoint.state_dict if n not in built]
    if renamed:
        count = f"{len(renamed)} of {len(checkpoint.state_dict)} tensors"
        notes = (*notes, f"transformers renamed {count}, such as '{renamed[0]:.80}'")
    texts = [f"'{n}' {','.join(map(str, v.shape))}" for n, v in inputs.items()]
    return checkpoint, module, inputs, (*notes, f"assumed input {'; '.join(texts)}")


def check_config(folder: Path, content: Mapping[str, Any], num_tensors: int) -> None:
    """Refuse numbers that no file of this many tensors can mean, before anything is built."""
    for name, value in numbers_in(content):
        if abs(value) > LARGEST_NUMBER or (
            COUNTS.search(name) and value > 64 + 64 * max(1, num_tensors)
        ):
            raise ValueError(
                f"{folder / 'config.json'}: '{name:.60}' is {value:,}, which the {num_tensors} "
                "tensors of the folder cannot fill. Correct it, or do not trust it."
            )


def numbers_in(content: Any, name: str = "") -> Iterator[tuple[str, int]]:
    """Every whole number of a JSON value, with the nearest name."""
    if isinstance(content, Mapping):
        for key, value in content.items():
            yield from numbers_in(value, key)
    elif isinstance(content, list):
        for value in content:
            yield from numbers_in(value, name)
    elif isinstance(content, int):
        yield name, content


def describe(
    folder: Path, content: dict[str, Any], transformers: Any
) -> tuple[Config, type[Model], tuple[str, ...]]:
    """The config, the class that `architectures` names, and what to report.

    Raises:
        ValueError: a kind of model that the installed transformers does not have.
    """
    families = transformers.CONFIG_MAPPING
    place = folder / "config.json"
    family = content.get("model_type")
    if not isinstance(family, str) or family not in families:
        custom = "the folder brings its own code, which is never run; " * ("auto_map" in content)
        raise ValueError(
            f"{place}: model_type {str(family)[:60]!r} is not one of transformers "
            f"{transformers.__version__}; {custom}pass --model package.module:factory"
        )
    if content.get("quantization_config"):
        raise ValueError(
            f"{place}: describes quantised weights, expected floats. Pass a folder of the "
            "unquantised model, or --model package.module:factory"
        )
    try:
        config = families[family].from_dict(dict(content))
    except Exception as error:  # every family checks its own settings
        raise _refused(place, error) from error
    config._attn_implementation = "eager"
    for part in (config, *(v for v in vars(config).values() if hasattr(v, "to_diff_dict"))):
        if hasattr(part, "use_cache"):
            part.use_cache = False
    names = content.get("architectures")
    name = names[0] if isinstance(names, list) and names and isinstance(names[0], str) else ""
    kind = getattr(transformers, name, None) if name.isidentifier() else None
    if isinstance(kind, type) and issubclass(kind, transformers.PreTrainedModel):
        return config, kind, (f"built {name} of transformers {transformers.__version__}",)
    try:
        found = transformers.MODEL_MAPPING[type(config)]
    except KeyError as error:
        raise ValueError(f"{place}: transformers has no model class for '{family}'") from error
    kind = found[0] if isinstance(found, list | tuple) else found
    said = f"names {name!r:.60}, which is no class of transformers" if name else "names no class"
    return config, kind, (f"config.json {said}; assumed {kind.__name__}",)


def fill(folder: Path, kind: type[Model], config: Config, checkpoint: Checkpoint) -> Model:
    """The module with the folder's values, in their own precision.

    Raises:
        ValueError: sizes that the files cannot fill, or other names or shapes; listed.
    """
    state = checkpoint.state_dict
    floats = [v.dtype for v in state.values() if v.is_floating_point()]
    dtype = reduce(torch.promote_types, floats) if floats else torch.float32
    held = sum(v.numel() for v in state.values())
    try:
        with torch.device("meta"):
            claimed = sum(p.numel() for p in kind(config).parameters())
    except Exception as error:  # settings that do not go together, as every family says it
        raise _refused(folder / "config.json", error) from error
    if claimed > 4 * held + (1 << 20):
        raise ValueError(
            f"{folder}: config.json describes {claimed:,} parameters, the files hold {held:,}. "
            "Are they of one model?"
        )
    try:
        module, info = kind.from_pretrained(
            None,
            config=config,
            state_dict=dict(state),
            dtype=dtype,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
            local_files_only=True,
        )
    except Exception as error:
        raise _refused(folder, error) from error
    _require_all(folder, checkpoint, module, info)
    return module


def _require_all(
    folder: Path, checkpoint: Checkpoint, module: Model, info: Mapping[str, Any]
) -> None:
    """Raise ValueError, both sides listed, unless every tensor found its place."""
    built = module.state_dict()
    mismatched = {entry[0] for entry in info["mismatched_keys"]}
    odd = mismatched | set(info["unexpected_keys"])
    found = {n: checkpoint.state_dict[n] for n in odd if n in checkpoint.state_dict}
    lacking = [n for n in built if n in mismatched or n in info["missing_keys"]]
    wanted = {n: built[n] for n in lacking}
    require_fit(folder, found, wanted, type(module).__name__, len(built))
    if found or lacking or info["error_msgs"]:
        raise _refused(folder, ValueError("; ".join(info["error_msgs"]) or str(sorted(odd))))


def small_inputs(module: Model, shapes: Sequence[Sequence[int]]) -> dict[str, Tensor]:
    """Inputs by name, for the kind of data that the module's forward takes."""
    config = module.config
    takes = list(inspect.signature(module.forward).parameters)
    text = getattr(config, "text_config", None) or config
    vision = getattr(config, "vision_config", None) or config
    both = vision is not config and text is not config
    main = module.main_input_name
    inputs: dict[str, Tensor] = {}
    if "input_ids" in takes and (main == "input_ids" or both):
        inputs["input_ids"] = tokens(text, FEW_TOKENS)
    if "pixel_values" in takes and (main == "pixel_values" or both):
        channels = getattr(vision, "num_channels", 3)
        inputs["pixel_values"] = noise(1, channels, *image_size(vision))
    if main == "input_values":
        inputs["input_values"] = noise(1, FEW_SAMPLES)
    if main == "input_features":
        length = 2 * getattr(config, "max_source_positions", 50)
        inputs["input_features"] = noise(1, getattr(config, "num_mel_bins", 80), length)
    if config.is_encoder_decoder and "decoder_input_ids" in takes:
        inputs["decoder_input_ids"] = tokens(text, FEW_TOKENS // 2)
    if not inputs:
        raise ValueError(
            f"{type(module).__name__} takes '{main}', for which graphrep knows no example. Pass "
            "--model package.module:factory and --input"
        )
    for name, shape in zip(list(inputs), shapes, strict=False):
        whole = not inputs[name].is_floating_point()
        inputs[name] = inputs[name].flatten()[:1].expand(shape).clone() if whole else noise(*shape)
    return {n: v.to(module.dtype) if v.is_floating_point() else v for n, v in inputs.items()}


def tokens(config: Config, length: int) -> Tensor:
    """One sentence of an ordinary token, with the end that some heads look for."""
    special = {getattr(config, f"{n}_token_id", None) for n in ("pad", "bos", "eos")}
    size = getattr(config, "vocab_size", None) or 1
    plain = next((i for i in range(size) if i not in special), 0)
    ids = torch.full((1, length), plain)
    end = getattr(config, "eos_token_id", None)
    if isinstance(end, int) and 0 <= end < size:
        ids[0, -1] = end
    return ids


def image_size(config: Config) -> tuple[int, int]:
    size = getattr(config, "image_size", None) or SMALL_IMAGE
    if isinstance(size, Mapping):
        size = tuple(size.values())[:2]
    return (size, size) if isinstance(size, int) else (int(size[0]), int(size[-1]))


def noise(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def _refused(place: Path, error: Exception) -> ValueError:
    reason = " ".join(str(error).split())[:200] or type(error).__name__
    return ValueError(
        f"{place}: transformers does not open it ({reason}). Is the folder complete? Else pass "
        "--model package.module:factory"
    )


@contextmanager
def quiet() -> Iterator[None]:
    """transformers logs what graphrep reports or raises itself."""
    logging = importlib.import_module("transformers.utils.logging")
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity(50)  # critical, as in the standard library
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
