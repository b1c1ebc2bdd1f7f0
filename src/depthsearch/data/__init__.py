"""Labelled images, decoded once, split with a seed, and known by their content."""

from depthsearch.data.dataset import DataSet, ImageSet
from depthsearch.data.decode import Geometry, UnreadableError, decode_file
from depthsearch.data.loading import load_data
from depthsearch.data.ranges import ValueRange
from depthsearch.data.samples import Columns, Sample
from depthsearch.data.sources.folder import files_left_out, image_files
from depthsearch.data.sources.manifest import MANIFEST_SUFFIXES, read_samples
from depthsearch.data.sources.opening import check_source
from depthsearch.data.splits import divided
from depthsearch.data.surveying import Survey, survey

__all__ = [
    "MANIFEST_SUFFIXES",
    "Columns",
    "DataSet",
    "Geometry",
    "ImageSet",
    "Sample",
    "Survey",
    "UnreadableError",
    "ValueRange",
    "check_source",
    "decode_file",
    "divided",
    "files_left_out",
    "image_files",
    "load_data",
    "read_samples",
    "survey",
]
