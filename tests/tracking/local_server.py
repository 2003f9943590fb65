"""MLflow's HTTP server inside a test: it can fall ill, die and come back."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any


class LocalServer:
    """MLflow's own HTTP server in a thread, which can fall ill, die and come back."""

    def __init__(self, store: Path) -> None:
        from mlflow.server import app, handlers

        handlers.initialize_backend_stores(f"sqlite:///{store}", None, "mlflow-artifacts:/")
        self._app = app
        self._port = 0
        self.ill = False
        self.num_requests = 0
        self.start()

    def _answer(self, environ: dict[str, Any], start_response: Any) -> Any:
        self.num_requests += 1
        if self.ill:
            start_response("500 Internal Server Error", [("Content-Type", "text/plain")])
            return [b"ill"]
        return self._app(environ, start_response)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def start(self) -> None:
        from werkzeug.serving import make_server

        self._server = make_server("127.0.0.1", self._port, self._answer, threaded=True)
        self._port = self._server.server_port
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()

    def stop(self) -> None:
        if self._thread.is_alive():
            self._server.shutdown()
            self._thread.join()
            self._server.server_close()
