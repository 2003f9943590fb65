"""conf/*.yaml and the command line's overrides, composed and checked.

Hydra composes the files and applies `group=choice` and `key=value`; the dataclass
beside each owner checks the result. Knows nothing of weights.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
CONF = next(p for p in (HERE / "conf", HERE.parent / "conf") if p.is_dir())


def compose(overrides: Sequence[str] = ()) -> dict[str, Any]:
    """The whole configuration as plain values.

    Args:
        overrides: `group=choice` or `key=value`, as on the command line. With
            `zoo=[one,other]` the group `zoo` is a list of recipes, and `zoo.key=value`
            holds for each.

    Raises:
        ValueError: an unknown key, group or choice, or a malformed override; the valid
            ones are listed.
    """
    from hydra import compose as hydra_compose, initialize_config_dir
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    for override in overrides:
        if "=" not in override:
            raise ValueError(
                f"'{override}' is not an override. Write group=choice or key=value; groups: "
                + ", ".join(f"{g} ({', '.join(choices(g))})" for g in groups())
            )
    try:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            found: list[dict[str, Any]] = [
                OmegaConf.to_container(  # type: ignore[misc]
                    hydra_compose("config", overrides=single), resolve=True
                )
                for single in _one_zoo_each(overrides)
            ]
    except (HydraException, OmegaConfBaseException) as error:
        raise ValueError(_explain(error, overrides)) from error
    if len(found) == 1:
        return found[0]
    return {**found[0], "zoo": [config["zoo"] for config in found]}


def _one_zoo_each(overrides: Sequence[str]) -> list[list[str]]:
    """`zoo=[one,other]` as overrides for each; Hydra would merge the recipes into one."""
    from hydra.core.override_parser.overrides_parser import OverridesParser

    parsed = OverridesParser.create().parse_overrides(list(overrides))
    chosen = [o.key_or_group == "zoo" and isinstance(o.value(), list) for o in parsed]
    if not any(chosen):
        return [list(overrides)]
    rest = [text for text, is_list in zip(overrides, chosen, strict=True) if not is_list]
    lists = [o.value() for o, is_list in zip(parsed, chosen, strict=True) if is_list]
    names = [str(name) for name in lists[-1]]  # type: ignore[union-attr]
    if not names or len(set(names)) < len(names):
        raise ValueError(f"zoo must list recipes, none of them twice; got {names}")
    return [[f"zoo={name}", *rest] for name in names]


def sweep(overrides: Sequence[str]) -> list[list[str]]:
    """Overrides with several values (`encoder=graph,token seed=1,2`) as one list a combination."""
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    try:
        parsed = OverridesParser.create().parse_overrides(list(overrides))
        (batch,) = BasicSweeper.split_arguments(parsed, max_batch_size=None)
    except HydraException as error:
        raise ValueError(_explain(error, overrides)) from error
    return [list(combination) for combination in batch]


def groups() -> list[str]:
    """Names of the configuration groups."""
    return sorted(p.name for p in CONF.iterdir() if p.is_dir())


def choices(group: str) -> list[str]:
    """What a group may be set to."""
    return sorted(p.stem for p in (CONF / group).glob("*.yaml"))


def _explain(error: Exception, overrides: Sequence[str]) -> str:
    """One message that says what is valid, from Hydra's."""
    text = " ".join(str(error).split())
    if found := re.search(r"Could not override '([^']+)'", text):
        return _unknown_key(found[1])
    if found := re.search(r"In '[^']*': Could not find '([^']+)/([^']+)'", text):
        return f"{found[1]} has no choice '{found[2]}'; choices: {', '.join(choices(found[1]))}"
    return f"{' '.join(overrides)}: {text.partition(' See https')[0]}"


def _unknown_key(key: str) -> str:
    parts = key.split(".")
    node: Any = compose()
    place: list[str] = []
    while parts and isinstance(node, Mapping) and parts[0] in node:
        place.append(parts[0])
        node = node[parts.pop(0)]
    valid = sorted(node) if isinstance(node, Mapping) else []
    close = difflib.get_close_matches(parts[0], valid, 1) if parts else []
    hint = f" Did you mean '{'.'.join([*place, close[0]])}'?" if close else ""
    where = f"'{'.'.join(place)}'" if place else "the configuration"
    return f"unknown key '{key}': {where} has {', '.join(valid)}.{hint}"
