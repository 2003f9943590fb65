"""Laws 4, 5 and 6 in float32, to the tolerances that the encoders state."""

from __future__ import annotations

import pytest
import torch

import graphrep
from graphrep.architecture.reorder import reorder_theta
from graphrep.encoders import Batch, EncoderConfig

from ..architectures import Case
from ..encoding import GRAPH, TOKEN, architecture_of, every_case, model, networks, relative
from ..nested import Design
from ..references import explicit_units

SCALES = [1.0, 0.1]  # of the weights: drawn, and as small as trained ones


@every_case
@pytest.mark.parametrize("scale", SCALES)
@torch.no_grad()
def test_order_and_explicit_edges_change_single_precision_by_rounding(
    case: Case | Design, scale: float
) -> None:
    architecture = architecture_of(case)
    theta, built = scale * networks(architecture).float(), model().float()
    order = graphrep.random_permutation(architecture, torch.Generator().manual_seed(4))
    before = built.encode(theta, architecture)
    after = built.encode(reorder_theta(architecture, theta, order), architecture)
    assert relative(after.model - before.model, before.model) < 1e-5  # law 4
    units = built.encoder(Batch(architecture, theta[:2], 8)).units
    expected = explicit_units(built.encoder, architecture, theta[0])
    assert relative(units[0] - expected, units) < 3e-4  # law 6; a sum over edges loses digits
    assert relative(units[1] - expected, units) > 1e-3


@every_case
@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("config", [GRAPH, TOKEN], ids=lambda c: c.name)
@torch.no_grad()
def test_company_changes_single_precision_by_rounding(
    case: Case | Design, scale: float, config: EncoderConfig
) -> None:
    architecture = architecture_of(case)
    theta, built = scale * networks(architecture).float(), model(config).float()
    together = built.encode(theta, architecture)
    alone = built.encode(theta[1:2], architecture)
    assert relative(together.model[1:2] - alone.model, together.model) < 1e-5  # law 5
    assert relative(together.tokens[1:2] - alone.tokens, together.tokens) < 1e-5
    assert relative(together.model[:1] - alone.model, together.model) > 1e-3
