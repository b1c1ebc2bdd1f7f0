from .gallery import (
    Picture as Picture,
    draw_gallery as draw_gallery,
    pick_photos as pick_photos,
    read_photos as read_photos,
)
from .layers import (
    MapLayer as MapLayer,
    Subject as Subject,
    choose_layers as choose_layers,
    find_layers as find_layers,
    subject_of as subject_of,
)
from .maps import (
    Comparison as Comparison,
    Explanation as Explanation,
    Insight as Insight,
    Photo as Photo,
    compare as compare,
    explain as explain,
    look as look,
    pretrained_classes as pretrained_classes,
)
from .picture import draw as draw
