"""Drawing latents that decode to new networks."""

from .density import METHODS as METHODS
from .density import Method as Method
from .density import sample_latents as sample_latents
