"""From a model's URI to a folder on this machine.

Knows MLflow's stores; what is in the folder is its reader's business.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlparse

from .config import TrackingConfig
from .server import connect, in_short

if TYPE_CHECKING:
    from mlflow import MlflowClient

_FORMS = (
    "runs:/<run id>/<name>, models:/<model id>, models:/<registered name>/<version>, "
    "models:/<registered name>@<alias>, or a folder"
)


def resolve_model(uri: str, tracking_uri: str = "") -> Path:
    """The local folder of a model that `Run.log_model` recorded.

    Args:
        uri: A URI of MLflow, or the path of a folder, which comes back as it is.
        tracking_uri: The store to ask; empty for the default of `TrackingConfig`.

    Returns:
        The folder inside a local store (do not write to it), or a downloaded copy in a
        temporary folder.

    Raises:
        ValueError: No such model, or the store does not answer; the message tells which.
    """
    if not uri.startswith(("runs:/", "models:/")):
        if not Path(uri).is_dir():
            raise ValueError(f"'{uri}' is neither a folder nor a model's URI; expected {_FORMS}")
        return Path(uri)
    config = TrackingConfig(uri=tracking_uri)
    if config.database is not None and not config.database.exists():
        raise ValueError(
            f"{uri}: no MLflow store at {config.database}. Run in the folder where the model was "
            "recorded, or name its store by tracking.uri or MLFLOW_TRACKING_URI"
        )

    from mlflow.artifacts import download_artifacts
    from mlflow.exceptions import MlflowException

    try:
        location = _location(connect(config), uri, config)
        local = urlparse(location)
        if local.scheme in ("", "file"):
            folder = Path(unquote(local.path))
        else:
            folder = Path(download_artifacts(artifact_uri=location, tracking_uri=config.store_uri))
    except (MlflowException, OSError) as error:
        raise ValueError(
            f"{uri}: not found in MLflow at {config.store_uri} ({in_short(error)})"
        ) from error
    if not folder.is_dir():
        raise ValueError(
            f"{uri}: MLflow names the folder {folder}, which is not there. Was mlartifacts/ "
            "moved or deleted?"
        )
    return folder


def _location(client: MlflowClient, uri: str, config: TrackingConfig) -> str:
    """Where the store keeps the model's files.

    Does by hand what mlflow.artifacts does for such URIs, as that asks MLflow's global
    store for models:/ whatever store it is given.
    """
    scheme, _, rest = uri.partition(":/")
    parts = rest.strip("/").split("/")
    match scheme, parts:
        case "runs", [run_id, name]:
            run = client.get_run(run_id)
            models = client.search_logged_models(
                [run.info.experiment_id],
                filter_string=f"name = '{name}'",
                order_by=[{"field_name": "creation_timestamp", "ascending": False}],
            )
            for model in models:
                if model.source_run_id == run_id:
                    return str(model.artifact_location)
            outputs = run.outputs.model_outputs if run.outputs is not None else []
            names = sorted(output.model_id for output in outputs)
            raise ValueError(
                f"{uri}: run '{run.info.run_name}' in {config.store_uri} has no model '{name}'; "
                f"it has {len(names)} models ({', '.join(names) or 'none'})"
            )
        case "models", [name] if "@" in name:
            registered, _, alias = name.partition("@")
            version = client.get_model_version_by_alias(registered, alias).version
            return str(client.get_model_version_download_uri(registered, version))
        case "models", [model_id]:
            return str(client.get_logged_model(model_id).artifact_location)
        case "models", [name, version]:
            return str(client.get_model_version_download_uri(name, version))
        case _:
            raise ValueError(f"'{uri}' is not a model's URI; expected {_FORMS}")
