"""Drawing latents that decode to new networks."""

from .density import METHODS as METHODS, Method as Method, sample_latents as sample_latents
