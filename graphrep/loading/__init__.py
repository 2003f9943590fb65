"""Files of every kind -> parameter graphs, with notes on what was done and assumed."""

from .open import Loaded as Loaded, load_graph as load_graph
