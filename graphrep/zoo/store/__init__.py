"""A zoo on disk: its folder, how it is written, read and checked."""
