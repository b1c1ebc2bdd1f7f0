"""What may be done next in a search, and what it costs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from depthsearch.models.cuts import Cut
from depthsearch.options.attributes import TrialKey

# What a training costs whatever its cut, in full fine-tunes: to start it, to read what is kept.
OVERHEAD = 0.02


@dataclass(frozen=True, slots=True, kw_only=True)
class Race:
    """How settings may be trained again, to be surer of the answer.

    Attributes:
        n_seeds: Most trainings of a setting on top of its first one.
        n_cuts: Most cuts that are trained again; None: any number.
        resample: Whether each seed divides training and validation images anew.
    """

    n_seeds: int
    n_cuts: int | None = None
    resample: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Repeat:
    """A setting to be trained again.

    Attributes:
        number: Of the trial that had the setting first.
        seed: Which of the seeds, counted from 0.
    """

    number: int
    seed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Move:
    """What to do next.

    Attributes:
        params: The setting, by Optuna's names.
        place: Where it lies, see `SearchSpace.place`.
        number: The paused trial to go on with; None: a new one, or repeats.
        repeats: Trainings of settings that are known, one or two on the same division of the images.
        gain: By how much the best expected score is expected to rise, 0 or more.
        cost: Of what is to be trained, in full fine-tunes.
    """

    params: Mapping[str, Any]
    place: tuple[float, ...]
    number: int | None = None
    repeats: tuple[Repeat, ...] = ()
    gain: float = 0.0
    cost: float

    @property
    def rate(self) -> float:
        """Gain for a full fine-tune."""
        return self.gain / (self.cost + OVERHEAD)

    @property
    def is_new(self) -> bool:
        """Whether a setting is tried that was not tried before."""
        return self.number is None and not self.repeats


def is_paused(trial: FrozenTrial) -> bool:
    """Return whether a trial is left for something better, and may be taken up again."""
    return trial.state == TrialState.RUNNING and bool(trial.user_attrs.get(TrialKey.PAUSED))


def passes_each(cut: Cut, epochs: int, late_passes: int, *, head_macs: float = 0.0) -> int:
    """Count the passes over the training images in each epoch of a training.

    One, but where all that learns is cheap: there a training passes up to ``late_passes`` times in all, as
    long as it costs no more than `OVERHEAD`. The epochs of a study are chosen for its dear end; they are too
    few for the hidden layers of a new head, and for the last layers of a network.

    Args:
        cut: First trainable layer.
        epochs: Of the training.
        late_passes: Most passes of the whole training, where they are more than its epochs.
        head_macs: Forward MACs of the new head for one image.
    """
    share = _learning_share(cut, head_macs)
    # Rounding is not to decide.
    affordable = math.floor(OVERHEAD / share + 1e-9) if share > 0 else late_passes
    return max(1, min(late_passes // epochs, affordable))


def cost_of_training(
    cut: Cut,
    epochs: int,
    *,
    late_passes: int = 1,
    head_macs: float = 0.0,
    done: int = 0,
    whole_macs: int = 0,
) -> float:
    """Estimate what a training on kept features costs, in full fine-tunes.

    Args:
        cut: First trainable layer.
        epochs: Of the training.
        late_passes: See `passes_each`.
        head_macs: Likewise.
        done: Epochs that are there already.
        whole_macs: Training MACs of one image of the network that the full fine-tune is of; 0: the cut's.
    """
    # Frozen layers go forward, all others backward too: three times the MACs of going forward.
    scale = 3 * _network_macs(cut) / whole_macs if whole_macs else 1.0
    passes = passes_each(cut, epochs, late_passes, head_macs=head_macs)
    return scale * _learning_share(cut, head_macs) * passes * (epochs - done) / epochs


def _network_macs(cut: Cut) -> float:
    """Return the forward MACs of one image in the whole network of a cut, its head left out."""
    return cut.training_macs / (3 - 2 * cut.frozen_mac_share)


def _learning_share(cut: Cut, head_macs: float) -> float:
    """Return the MACs of what learns, over those of the network."""
    network = _network_macs(cut)
    return 1 - cut.frozen_mac_share + (head_macs / network if network else 0.0)
