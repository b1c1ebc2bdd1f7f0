"""The model as one ONNX file, from pixels to probabilities, compared with onnxruntime."""

from __future__ import annotations

import copy
import json
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import nn

from depthsearch.classifier.model import Classifier
from depthsearch.devices import is_out_of_memory
from depthsearch.errors import ModelError
from depthsearch.models.backbones.backbone import Preprocessing
from depthsearch.models.pixels import Normalisation
from depthsearch.models.tracing.inputs import logits_of
from depthsearch.text import first_line

# Largest difference between two probabilities of one image and class.
TOLERANCE = 1e-4


@dataclass(frozen=True, slots=True, kw_only=True)
class OnnxFile:
    """An ONNX file that agrees with the model.

    Attributes:
        content: The file.
        difference: Largest between a probability of onnxruntime's and of torch's, both in float32.
        n_images: Compared on.
    """

    content: bytes = field(repr=False)
    difference: float
    n_images: int


def export_onnx(classifier: Classifier, pixels: torch.Tensor) -> OnnxFile:
    """Write a model as ONNX, from pixels to probabilities, and compare both on real images.

    Args:
        classifier: The model.
        pixels: ``(n, c, s, s)``, uint8: images to compare on, at least 2.

    Raises:
        ModelError: If the model cannot be written so, or computes something else there.
    """
    whole = _FromPixels(classifier.model, classifier.preprocessing).eval()
    images = pixels.float()
    try:
        content = written_onnx(whole, images[:2], classifier.classes)
        theirs = _run(content, images)
    except _failures() as error:
        if _lacks_memory(error):
            raise ModelError(
                "The memory does not suffice to write the model as ONNX. Close other programs, or leave "
                "--onnx out."
            ) from error
        raise ModelError(
            f"The model cannot be written as ONNX: {first_line(error)} Leave --onnx out."
        ) from error
    with torch.no_grad():
        difference = (theirs - whole(images)).abs().max().item()
    if not difference <= TOLERANCE:
        raise ModelError(
            f"The ONNX file gives probabilities that differ by up to {difference:.2g} from the model's, over "
            f"{TOLERANCE:g}. Leave --onnx out."
        )
    return OnnxFile(content=content, difference=difference, n_images=len(pixels))


def _failures() -> tuple[type[Exception], ...]:
    """Return what the exporter raises of a model, and onnxruntime, whose errors have no class in common."""
    from onnxruntime.capi import onnxruntime_pybind11_state

    kinds = vars(onnxruntime_pybind11_state).values()
    theirs = [kind for kind in kinds if isinstance(kind, type) and issubclass(kind, Exception)]
    return (MemoryError, RuntimeError, ValueError, *theirs)


def _lacks_memory(error: BaseException | None) -> bool:
    """Return whether an error is a lack of memory, or was raised for one."""
    while error is not None:
        if is_out_of_memory(error):
            return True
        error = error.__cause__ or error.__context__
    return False


def written_onnx(whole: nn.Module, example: torch.Tensor, classes: Sequence[str]) -> bytes:
    """Write a model from pixels to probabilities, for any number of images."""
    import onnx

    with warnings.catch_warnings(), torch.no_grad():
        # The exporter's own deprecations say nothing of this model.
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            whole,
            (example,),
            input_names=["pixels"],
            output_names=["probabilities"],
            dynamic_shapes={"pixels": {0: torch.export.Dim.DYNAMIC}},
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    proto = program.model_proto
    onnx.helper.set_model_props(proto, {"classes": json.dumps(classes)})
    content: bytes = proto.SerializeToString()
    return content


def _run(content: bytes, images: torch.Tensor) -> torch.Tensor:
    import onnxruntime

    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(["probabilities"], {"pixels": images.numpy()})[0])


class _FromPixels(nn.Module):
    """Pixels ``(n, c, s, s)`` in [0, 255], float32, to probabilities ``(n, k)``, float32 on the CPU."""

    def __init__(self, model: nn.Module, preprocessing: Preprocessing) -> None:
        super().__init__()
        self.normalise = Normalisation(preprocessing)
        self.model = copy.deepcopy(model).cpu().to(memory_format=torch.contiguous_format)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = logits_of(self.model(self.normalise(pixels)))
        return logits.softmax(1)
