"""Figures that people read: tables and arrays in, matplotlib figures out.

Pure functions outside pyplot's global state; they know neither models nor MLflow.
matplotlib is imported when a figure is drawn.
"""

from .architecture import architecture_picture as architecture_picture
from .curves import finetuning_curves as finetuning_curves, loss_curves as loss_curves
from .embedding import embedding_map as embedding_map
from .neurons import neuron_picture as neuron_picture
from .picture import save_picture as save_picture
from .probes import predicted_against_true as predicted_against_true, probe_scores as probe_scores
from .samples import sample_accuracies as sample_accuracies
