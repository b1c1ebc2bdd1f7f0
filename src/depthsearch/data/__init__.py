"""Labelled images, decoded once, split with a seed, and known by their content."""

from depthsearch.data.dataset import DataSet, ImageSet
from depthsearch.data.loading import load_data

__all__ = ["DataSet", "ImageSet", "load_data"]
