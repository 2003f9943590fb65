"""Probes, behaviour of samples, and whole comparisons."""
