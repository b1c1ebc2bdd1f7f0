"""How a setting is trained."""

from __future__ import annotations

from dataclasses import dataclass

from depthsearch.errors import SettingsError
from depthsearch.options.augmentation import USUAL, read_augmentation
from depthsearch.options.words import BALANCES, METRICS, OPTIMIZERS, SCHEDULES


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How to train.

    Attributes:
        epochs: How often a training is judged; each is a pass over the training images, or several, see
            ``late_passes``.
        batch_size: Samples a step, most often of one image; the last batches of an epoch are evened out.
        learning_rate: Its peak.
        weight_decay: Decoupled, on matrices and kernels only.
        optimizer: ``adamw``, or ``sgd`` with Nesterov momentum.
        momentum: Of ``sgd``, in [0, 1); 0: plain steps.
        schedule: ``cosine`` to zero over all steps, or ``constant``.
        label_smoothing: Probability given to the other classes, in [0, 1).
        metric: What to score validation with: a key of `METRICS`.
        seed: Seeds batch order, dropout and views.
        views: Fixed augmentations of each training image, the plain image among them: epoch e shows view
            e mod views. 1: no augmentation. From one more than the epochs on, no epoch repeats another's.
        balance: What to do about classes of uneven size. ``weights`` weighs the training loss by the inverse
            of a class's share, so that images weigh 1 on average; ``sampling`` draws each epoch's images with
            replacement, every class as likely as the others; ``none`` does nothing.
        augment: What views may do and how far, see `augmentation`.
        late_passes: Passes over the training images in all, where what learns costs next to nothing, see
            `passes_each`; 1: as many as epochs, whatever learns.
    """

    epochs: int
    batch_size: int = 64
    learning_rate: float = 1e-3
    weight_decay: float = 0.01
    optimizer: str = "adamw"
    momentum: float = 0.9
    schedule: str = "cosine"
    label_smoothing: float = 0.0
    metric: str = "accuracy"
    seed: int = 0
    views: int = 1
    balance: str = "none"
    augment: str = USUAL
    late_passes: int = 1

    def __post_init__(self) -> None:
        """Refuse values that cannot be trained with."""
        for name, known in (
            ("metric", tuple(METRICS)),
            ("schedule", SCHEDULES),
            ("optimizer", OPTIMIZERS),
            ("balance", BALANCES),
        ):
            if getattr(self, name) not in known:
                raise SettingsError(f"No {name} {getattr(self, name)!r}: give one of {', '.join(known)}.")
        if self.epochs < 1 or self.batch_size < 2:
            raise SettingsError(
                f"{self.epochs} epochs of batches of {self.batch_size}: give at least 1 and at least 2."
            )
        if self.late_passes < 1:
            raise SettingsError(f"{self.late_passes} late passes: give at least 1.")
        if not 0 <= self.momentum < 1:
            raise SettingsError(f"momentum {self.momentum}: give a number in [0, 1).")
        if self.views < 1:
            raise SettingsError(f"{self.views} views: give at least 1, the plain image.")
        read_augmentation(self.augment)
