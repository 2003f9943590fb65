"""The command line: wires configuration, zoos, models, evaluation and tracking together."""

from .app import app as app, main as main
