"""Decoded pixels in memory-mapped files."""
