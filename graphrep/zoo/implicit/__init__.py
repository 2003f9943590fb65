"""Zoos of implicit neural representations: a small network for each image."""
