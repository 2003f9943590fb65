"""Zoos of image classifiers: drawn from ranges, trained on images."""
