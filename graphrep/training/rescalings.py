"""What a model with `canonical` knows of a population: the rescalings of its architectures.

They are derived by trial on the networks' modules, which zoos can build, once for each
architecture; a saved model brings them along.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..model import WeightModel
from ..symmetry import derive_rescalings
from ..zoo import Zoo
from .queries import inputs_of, listed, zoo_module

NUM_INPUTS = 2  # a run of small inputs does


def learn_rescalings(model: WeightModel, zoos: Zoo | Sequence[Zoo]) -> WeightModel:
    """Derive the rescalings of the zoos' architectures where the model's settings need them.

    Raises:
        ValueError: a zoo that tells no module, or no inputs of it.
    """
    if not model.config.canonical:
        return model
    for zoo in listed(zoos):
        for architecture, rows, _ in zoo.groups():
            if architecture.fingerprint not in model.rescalings:
                module = zoo_module(zoo, int(rows[0]))
                inputs = inputs_of(zoo, module, NUM_INPUTS)
                model.learn_rescalings([derive_rescalings(architecture, module, inputs)])
    return model
