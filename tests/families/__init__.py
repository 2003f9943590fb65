"""Every family that the tracer must handle, with the symmetry that theory says it has."""

from dataclasses import replace

from . import (
    attention,
    convolutional,
    gated,
    generative,
    graphs,
    normalisation,
    pretrained_style,
    recurrent,
    sharing,
    transformer_layers,
)
from .case import Family as Family

FAMILIES: tuple[Family, ...] = tuple(
    replace(
        family,
        group=module.__name__.rpartition(".")[2].replace("_", " "),
        needs="transformers" if module is pretrained_style else "",
    )
    for module in (
        sharing,
        convolutional,
        normalisation,
        gated,
        attention,
        transformer_layers,
        recurrent,
        generative,
        graphs,
        pretrained_style,
    )
    for family in module.FAMILIES
)
BY_NAME = {family.name: family for family in FAMILIES}
assert len(BY_NAME) == len(FAMILIES), "two families share a name"
