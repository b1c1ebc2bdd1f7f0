"""Labelled images, decoded once, split with a seed, and known by their content."""

from depthsearch.data.dataset import DataSet, ImageSet
from depthsearch.data.loading import load_data
from depthsearch.data.splits import divided

__all__ = ["DataSet", "ImageSet", "divided", "load_data"]
