"""Make the picture of the page on `depthsearch explain`: a classifier that tells crops of two photos apart.

The photos are scikit-learn's, both CC BY 2.0: china.jpg by danielbuechele, flower.jpg by vultilion (on
Flickr; the notes beside them name danielbuechele for both). Takes some minutes on two cores:

    python tools/make_explain_picture.py docs/pictures/explain.png
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from sklearn.datasets import load_sample_image
from torch import nn

from depthsearch.classifier.explain.maps import Photo, compare, explain, pretrained_classes
from depthsearch.classifier.explain.picture import draw
from depthsearch.models.backbones import Backbone, load_backbone
from depthsearch.models.candidates import list_cuts
from depthsearch.models.cuts import Cut, find_cut
from depthsearch.models.freezing import freeze_before
from depthsearch.models.heads import with_head
from depthsearch.models.pixels import Normalisation

CLASSES = ("china", "flower")
FIRST_TRAINED = 104
N_STEPS, BATCH = 20, 16


def crop(photo: np.ndarray, size: int, random: np.random.Generator) -> torch.Tensor:
    """Cut a square of half to all of a photo's height out of it: ``(3, size, size)``, uint8."""
    height, width, _ = photo.shape
    side = int(random.integers(height // 2, height))
    top, left = int(random.integers(height - side)), int(random.integers(width - side))
    square = Image.fromarray(photo[top : top + side, left : left + side]).resize((size, size))
    return torch.from_numpy(np.asarray(square).copy()).permute(2, 0, 1)


def fine_tune(backbone: Backbone, cut: Cut) -> nn.Module:
    """Train from the cut on to tell crops of the photos apart."""
    photos = [load_sample_image(f"{name}.jpg") for name in CLASSES]
    size = backbone.preprocessing.image_size
    random = np.random.default_rng(0)
    torch.manual_seed(0)
    model = with_head(backbone.model, backbone.classifier, len(CLASSES))
    freeze_before(model, cut)
    model.train()
    normalise = Normalisation(backbone.preprocessing)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    for step in range(N_STEPS):
        labels = torch.arange(BATCH) % len(CLASSES)
        images = torch.stack([crop(photos[label], size, random) for label in labels.tolist()])
        loss = nn.functional.cross_entropy(model(normalise(images)), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        print(f"step {step + 1}/{N_STEPS}: loss {loss.item():.3f}", file=sys.stderr)
    return model.eval()


def main(path: Path) -> None:
    """Fine-tune, look, draw."""
    backbone = load_backbone("tf_efficientnet_lite0", image_size=192)
    cut = find_cut(list_cuts(backbone.model), FIRST_TRAINED)
    comparison = compare(
        fine_tune(backbone, cut),
        backbone.model,
        classes=CLASSES,
        before_classes=pretrained_classes(backbone),
        preprocessing=replace(backbone.preprocessing, crop_share=1.0),
        cut=cut,
    )
    photo = load_sample_image("flower.jpg")
    side = photo.shape[0]
    left = (photo.shape[1] - side) // 2
    square = Image.fromarray(photo[:, left : left + side]).resize((192, 192))
    pixels = torch.from_numpy(np.asarray(square).copy()).permute(2, 0, 1)
    picture = draw(comparison, explain(comparison, Photo(name="flower.jpg", pixels=pixels, true=1)))
    path.parent.mkdir(exist_ok=True)
    picture.quantize(256, kmeans=2).save(path, optimize=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
