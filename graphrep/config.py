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
        overrides: `group=choice` or `key=value`, as on the command line.

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
            config = hydra_compose("config", overrides=list(overrides))
            return OmegaConf.to_container(config, resolve=True)  # type: ignore[return-value]
    except (HydraException, OmegaConfBaseException) as error:
        raise ValueError(_explain(error, overrides)) from error


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
