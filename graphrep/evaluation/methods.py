"""Methods of a comparison: what is trained on what, and how it is read.

A method is a set of overrides of conf/, so that each is what the command line gives by
the same words. Knows no zoo and no training.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

MODES = ("self_supervised", "untrained", "features", "end_to_end", "boosting")
PROBED = ("self_supervised", "untrained", "features")  # read by a linear probe
SUPERVISED = ("end_to_end", "boosting")  # given the property


@dataclass(frozen=True, kw_only=True)
class Method:
    """One way to say properties from weights.

    `self_supervised`: an encoder trained without labels, read by a linear probe;
    `untrained`: the same encoder as it was drawn; `features`: a floor, read by the probe;
    `end_to_end`: an encoder trained on the property; `boosting`: gradient boosting on a floor.
    """

    name: str
    mode: str
    overrides: tuple[str, ...] = ()  # of conf/, for what is trained
    family: str = ""  # a name that chooses several

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise ValueError(f"mode must be one of {', '.join(MODES)}, got '{self.mode}'")

    @property
    def trained(self) -> bool:
        """Whether there is an encoder."""
        return self.mode not in ("features", "boosting")

    @property
    def seeded(self) -> bool:
        """Whether another seed gives another result; boosting bins and splits by no chance."""
        return self.trained

    @property
    def runs_networks(self) -> bool:
        """Whether the networks are run, for which a zoo must tell their modules."""
        return self.asks_networks or "objective=responses" in self.overrides

    @property
    def asks_networks(self) -> bool:
        """Whether networks are run also when they are read, and not from weights alone."""
        return self.family == "answers" or PROBING in self.overrides

    @property
    def label(self) -> str:
        """Short, for tables and figures."""
        added = {"untrained": ", untrained", "end_to_end": ", end to end", "boosting": ", boosting"}
        return self.name + added.get(self.mode, "")


def _encoder(name: str, objective: str, *more: str) -> tuple[Method, ...]:
    own = (f"encoder={name}", *more)
    return (
        Method(name=name, mode="self_supervised", overrides=(*own, f"objective={objective}")),
        Method(name=name, mode="untrained", overrides=own),
        Method(
            name=name,
            mode="end_to_end",
            overrides=(*own, "objective=property", "training=end_to_end"),
        ),
    )


def _responses(encoder: str, *more: str) -> Method:
    """Trained on what networks answer to unlabelled queries: no labels, but images and modules."""
    return Method(
        name=f"{encoder}_responses",
        mode="self_supervised",
        overrides=(f"encoder={encoder}", *more, "objective=responses"),
        family="responses",
    )


def _beside(encoder: str, what: str, setting: str, *more: str) -> tuple[Method, ...]:
    """An encoder with other numbers beside its own: layer moments, or what networks answer."""
    kinds = [m for m in _encoder(encoder, *more) if m.mode != "untrained"]
    return tuple(
        replace(m, name=f"{encoder}_{what}", overrides=(*m.overrides, setting), family=what)
        for m in kinds
    )


def _hyperrep(objective: str) -> Method:
    return Method(
        name=f"hyperrep_{objective}",
        mode="self_supervised",
        overrides=("encoder=hyperrep", f"objective={objective}"),
        family="hyperrep",
    )


def _floor(name: str, encoder: str = "", family: str = "", *more: str) -> tuple[Method, ...]:
    """With an encoder of the same numbers, also the property objective's perceptron on them."""
    found = [Method(name=name, mode=mode, family=family) for mode in ("features", "boosting")]
    if encoder:
        overrides = (f"encoder={encoder}", "objective=property", "training=end_to_end", *more)
        found.append(Method(name=name, mode="end_to_end", overrides=overrides, family=family))
    return tuple(found)


WIDE = "model.latent_dim=128"  # a token's latent, as in SANE
PROBING = "model.num_queries=64"
MOMENTS = "model.moment_slots=1"  # as many as the zoo's networks have layers, once they are known
METHODS: tuple[Method, ...] = (
    *_encoder("graph", "blocks"),
    _responses("graph"),
    *_encoder("token", "sane", WIDE),
    _responses("token", WIDE),
    *map(_hyperrep, ("e_d", "e_c", "e_cd", "e_c_plus_d")),
    *(m for m in _encoder("hyperrep", "e_d") if m.mode != "self_supervised"),
    *_encoder("pna", "masked"),
    _responses("pna"),
    *_floor("statistics_plain", family="statistics"),
    *_floor("statistics_asinh", "statistics", family="statistics"),
    *_floor("raw", "raw"),
    *_beside("graph", "bare", "encoder.moments=false", "blocks"),
    *_beside("pna", "moments", MOMENTS, "blocks"),
    *_beside("token", "moments", MOMENTS, "sane", WIDE),
    *_beside("graph", "probed", PROBING, "blocks"),
    *_beside("pna", "probed", PROBING, "blocks"),
    *_beside("token", "probed", PROBING, "sane", WIDE),
    *_floor("answers", family="answers"),
    *_floor("statistics_answers", "statistics", "answers", PROBING),
)


ASKING = frozenset(method.name for method in METHODS if method.asks_networks)


def choose_methods(
    names: Sequence[str] = (), modes: Sequence[str] = (), variants: Iterable[str] = ()
) -> list[Method]:
    """Methods by name or family, and by mode.

    Args:
        names: Which, in order; empty for all and all variants.
        modes: Of MODES; empty for all but `untrained`.
        variants: `new = old key=value ...`: a method with other settings, or a replaced one.

    Raises:
        ValueError: no such method or mode, or one that has none of the modes.
    """
    known: dict[str, list[Method]] = {}
    for method in METHODS:
        known.setdefault(method.name, []).append(method)
    for variant in variants:
        name, equals, rest = (part.strip() for part in variant.partition("="))
        base, *changes = rest.split() or [""]
        if not (name and equals and base in known):
            raise ValueError(
                f"a variant is 'name = method key=value ...' with one of {', '.join(known)}; "
                f"got '{variant}'"
            )
        known[name] = [
            replace(m, name=name, overrides=(*m.overrides, *changes), family="")
            for m in known[base]
        ]
    wrong = [mode for mode in modes if mode not in MODES]
    if wrong:
        raise ValueError(f"no mode {', '.join(wrong)}; there are {', '.join(MODES)}")
    every = [method for own in known.values() for method in own]
    wanted = modes or [mode for mode in MODES if mode != "untrained"]
    found: dict[Method, None] = {}
    for name in names or known:
        chosen = [m for m in every if name in (m.name, m.family)]
        if not chosen:
            raise ValueError(f"no method '{name}'; there are {', '.join(known)}")
        found |= dict.fromkeys(m for m in chosen if m.mode in wanted)
    if not found:
        raise ValueError(f"none of the methods has the modes {', '.join(wanted)}")
    return list(found)
