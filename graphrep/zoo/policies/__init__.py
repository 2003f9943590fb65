"""Zoos of policies: small networks that act in classic-control environments."""
