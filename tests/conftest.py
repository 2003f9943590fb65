"""What several folders of tests share: one tiny zoo, trained once a session."""

from __future__ import annotations

import pytest

from graphrep.zoo import Zoo, create_zoo
from tests.zoo.tiny import tiny_config


@pytest.fixture(scope="session")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Zoo:
    """The tiny zoo, trained in this process without a break."""
    path = tmp_path_factory.mktemp("zoo") / "tiny"
    return create_zoo(tiny_config(), path, num_workers=0, progress=False)
