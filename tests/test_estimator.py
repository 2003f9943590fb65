"""The scikit-learn transformer: scikit-learn's own checks, and what it adds for networks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.base import BaseEstimator, clone
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import Ridge
from sklearn.model_selection import GridSearchCV, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import check_estimator, parametrize_with_checks

from graphrep import Architecture, NetworkEmbedding, ParameterGraph, Representation
from graphrep.estimator import vector_architecture
from graphrep.zoo import Zoo

CHECKED = [
    NetworkEmbedding(encoder=encoder, num_steps=steps, batch_size=16)
    for encoder, steps in (("graph", 1), ("token", 1), ("raw", 0))
]


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.SkipTestWarning")
@parametrize_with_checks(CHECKED)
def test_it_is_what_scikit_learn_expects(estimator: BaseEstimator, check: Any) -> None:
    check(estimator)


class Moody(NetworkEmbedding):
    """Embeds the same network another way each time."""

    def transform(self, X: Any) -> np.ndarray:
        found = super().transform(X)
        return found + np.random.default_rng().normal(size=found.shape)


def test_scikit_learn_s_checks_would_notice_a_transformer_that_changes_its_mind() -> None:
    with pytest.raises(AssertionError):
        check_estimator(Moody(encoder="raw", num_steps=0))


@pytest.fixture(scope="module")
def saved(zoo: Zoo, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A representation of the tiny zoo's architectures, trained for a few steps."""
    folder = tmp_path_factory.mktemp("model")
    estimator = NetworkEmbedding(num_steps=3).fit(zoo)
    estimator.representation_.save_pretrained(folder)
    return folder


def test_a_trained_representation_embeds_as_it_does_and_learns_nothing(
    saved: Path, zoo: Zoo
) -> None:
    known, graphs = Representation.from_pretrained(saved), list(zoo.graphs)
    expected = known.encode(graphs)
    for given in (saved, str(saved), known):
        estimator = NetworkEmbedding(given)
        assert np.array_equal(estimator.fit(graphs[:3]).transform(graphs), expected)
        assert np.array_equal(estimator.fit(graphs[3:]).transform(zoo), expected)
        assert estimator.fit_transform(zoo.graphs).dtype == np.float32
        names = estimator.get_feature_names_out()
        assert names[0] == "networkembedding0" and len(names) == expected.shape[1]
    learned = NetworkEmbedding(num_steps=1).fit(graphs[:6]).transform(graphs)
    assert learned.shape == expected.shape and not np.allclose(learned, expected, atol=1e-3)


def test_graphs_files_modules_and_rows_embed_alike(saved: Path, zoo: Zoo, tmp_path: Path) -> None:
    graphs = [graph for graph in zoo.graphs if graph.architecture == zoo.graphs[0].architecture][:4]
    architecture = graphs[0].architecture
    files = [tmp_path / f"{number}.pt" for number in range(len(graphs))]
    for graph, file in zip(graphs, files, strict=True):
        torch.save(graph.state_dict(), file)
    modules = [graph.load_into(zoo.network(0)) for graph in graphs]
    rows = torch.stack([graph.theta for graph in graphs]).numpy()
    estimator = NetworkEmbedding(saved, architecture=architecture).fit(graphs)
    expected = estimator.transform(graphs)
    for given in (files, np.array([str(file) for file in files]), modules, rows):
        assert np.allclose(estimator.transform(given), expected, atol=1e-5)
    assert not np.allclose(estimator.transform(rows[::-1]), expected, atol=1e-3)
    double = estimator.transform(rows.astype(np.float64))
    assert double.dtype == np.float64 and np.allclose(double, expected, atol=1e-4)
    by_width = NetworkEmbedding(saved).fit(rows).transform(rows)  # one known has this many
    assert np.array_equal(by_width, estimator.transform(rows))


def test_fitting_is_decided_by_the_seed_and_leaves_the_caller_s_alone(zoo: Zoo) -> None:
    graphs = list(zoo.graphs)
    state = torch.random.get_rng_state()
    one, two, other = (
        NetworkEmbedding(num_steps=2, random_state=seed).fit_transform(graphs) for seed in (0, 0, 1)
    )
    assert torch.equal(torch.random.get_rng_state(), state)
    assert np.array_equal(one, two) and not np.allclose(one, other, atol=1e-3)
    known = NetworkEmbedding(num_steps=0).fit(graphs).representation_
    before = {k: v.clone() for k, v in known.model.state_dict().items()}
    moved = NetworkEmbedding(known, device="cpu").fit(graphs)
    moved.representation_.model.double()
    assert all(torch.equal(v, before[k]) for k, v in known.model.state_dict().items())
    assert next(known.model.parameters()).dtype == torch.float32


def test_it_works_in_a_pipeline_and_a_search_over_networks(saved: Path, zoo: Zoo) -> None:
    graphs, accuracy = list(zoo.graphs), zoo.properties["test_accuracy"].to_numpy()
    pipeline = make_pipeline(NetworkEmbedding(saved), StandardScaler(), Ridge())
    predicted = cross_val_predict(pipeline, graphs, accuracy, cv=4)
    assert predicted.shape == accuracy.shape and np.isfinite(predicted).all()
    assert pipeline.fit(graphs, accuracy).score(graphs, accuracy) > 0.5
    assert pipeline.fit(graphs, accuracy[::-1]).score(graphs, accuracy) < 0.5
    search = GridSearchCV(
        make_pipeline(NetworkEmbedding(num_steps=0), Ridge()),
        {"networkembedding__encoder": ["statistics", "raw"]},
        cv=2,
    )
    assert search.fit(graphs, accuracy).best_params_["networkembedding__encoder"]
    frame = NetworkEmbedding(saved).set_output(transform="pandas").fit_transform(graphs[:3])
    assert list(frame.columns[:2]) == ["networkembedding0", "networkembedding1"]
    assert clone(NetworkEmbedding(Representation.from_pretrained(saved))).fit(graphs[:2])


@pytest.mark.parametrize(
    ("settings", "given", "message"),
    [
        ({"encoder": "graph2"}, "rows", "encoder must be one of graph, "),
        ({"batch_size": 0}, "rows", "batch_size >= 1"),
        ({"num_steps": -1}, "rows", "num_steps >= 0"),
        ({"representation": "nowhere"}, "rows", "no such folder"),
        ({"representation": "saved"}, "rows", r"knows 0 architectures .* Pass architecture="),
        ({"architecture": "first"}, "rows", "rows of 5 numbers, but architecture"),
        ({"device": "abacus"}, "rows", "device 'abacus' cannot be used"),
        ({}, "graph", r"one ParameterGraph; put it in \[\]"),
        ({}, "module", "fits none of the architectures"),
        ({}, "nothing", "minimum of 1 is required|Expected 2D array"),
    ],
)
def test_bad_requests_are_refused(
    saved: Path, zoo: Zoo, settings: dict, given: str, message: str
) -> None:
    known = {"saved": saved, "first": zoo.graphs[0].architecture}
    settings = {k: known.get(v, v) if isinstance(v, str) else v for k, v in settings.items()}
    X = {
        "rows": np.ones((4, 5)),
        "graph": zoo.graphs[0],
        "module": [torch.nn.Linear(2, 3)],
        "nothing": [],
    }[given]
    with pytest.raises(ValueError, match=message):
        NetworkEmbedding(**{"num_steps": 1, **settings}).fit(X)
    with pytest.raises(NotFittedError):
        NetworkEmbedding().transform(np.ones((4, 5)))


def test_vectors_without_structure_keep_every_number() -> None:
    architecture = vector_architecture(7)
    assert architecture.num_parameters == 7
    assert Architecture.from_json(architecture.to_json()) == architecture
    graph = ParameterGraph(architecture, torch.arange(7.0))
    assert graph.state_dict()["vector"].tolist() == list(range(7))
