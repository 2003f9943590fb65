"""What a run records, on disk and in MLflow. Knows nothing of weights.

Every run has a local record in its own folder, and MLflow follows it: a server that is
away costs a warning, never a training. MLflow is imported when first used.
"""

from .config import TrackingConfig as TrackingConfig
from .models import resolve_model as resolve_model
from .record import read_metrics as read_metrics
from .run import RecordedRun as RecordedRun, Run as Run
from .tracker import Tracker as Tracker, replay as replay
from .ui import (
    Comparison as Comparison,
    Pages as Pages,
    comparison_url as comparison_url,
    newest_comparison as newest_comparison,
    serve_ui as serve_ui,
    start_ui as start_ui,
    summary_url as summary_url,
    table_url as table_url,
)
