"""ONNX files as modules: initializers are the parameters, nodes are run with torch functions."""

from .example import open_onnx as open_onnx
from .file import is_onnx as is_onnx
