from .checking import check_source as check_source
from .dataset import DataSet as DataSet, ImageSet as ImageSet, divided as divided
from .decode import Geometry as Geometry, UnreadableError as UnreadableError, decode_file as decode_file
from .listing import Listing as Listing
from .loading import load_data as load_data
from .ranges import ValueRange as ValueRange
from .samples import Columns as Columns, Sample as Sample
from .sources.folder import files_left_out as files_left_out, image_files as image_files
from .sources.manifest import MANIFEST_SUFFIXES as MANIFEST_SUFFIXES, read_samples as read_samples
from .sources.opening import Source as Source
from .splits import Division as Division
from .surveying import Survey as Survey, survey as survey
