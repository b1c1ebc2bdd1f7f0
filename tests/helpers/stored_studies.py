"""Stored studies to show: small, made by hand, with every kind of trial."""

from collections.abc import Sequence
from typing import Any

import optuna
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState, create_trial

from depthsearch.options.attributes import FORMAT

N_CUTS = 12
EPOCHS = 4
SPENT = {
    "seconds": 0.5,
    "images_per_second": 600.0,
    "prefix_macs": 10,
    "forward_macs": 20,
    "backward_macs": 30,
    "plain_macs": 99,
    "kept_bytes": 0,
    "read_bytes": 0,
}
NO_CURVE = {"points": [], "macs": 0, "seconds": 0.0, "kept_bytes": 0}
BACKBONE = {
    "weights": "random (seed 0)",
    "digest": "0",
    "preprocessing": {},
    "data_fingerprint": "0",
    "full_fine_tune_macs": 10_000,
}
NASTY = "<img src=x onerror=alert(1)> a|b `c` *d* [e](http://f) \\"
OPTIONS = {
    "backbone": "tiny",
    "data": "/photos/my cats",
    "weights": "random",
    "image_size": 32,
    "epochs": EPOCHS,
    "kinds": ["conv", "pool"],
    "learning_rate": [1e-05, 0.01],
    "head_width": [1024, 256],
    "also": ["dropout"],
    "skip_unreadable": True,
    "seed": 3,
}


def cut(index: int) -> dict[str, Any]:
    names = ["stem", *(f"layer{stage}.{k}.conv" for stage in (1, 2) for k in range(5)), "fc"]
    return {
        "index": index,
        "layer": 2 + 3 * index,
        "name": names[index],
        "kind": "head" if index == N_CUTS - 1 else "conv",
        "keras_name": None if index in (0, N_CUTS - 1) else f"conv{index}_keras",
        "aliases": [],
        "first_layer": names[index],
        "frozen_mac_share": index / (N_CUTS - 1),
        "frozen_parameter_share": index / (N_CUTS - 1),
        "trainable_parameters": 100 * (N_CUTS - 1 - index),
        "boundary_bytes": 1024,
    }


def point(index: int, score: float) -> dict[str, Any]:
    return {"cut": index, "layer": 2 + 3 * index, "name": cut(index)["name"], "n_features": 8, "score": score,
            "n_val": 100}  # fmt: skip


def attributes(**changed: Any) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "settings": {
            "backbone": "tiny",
            "learning_rate": [1e-05, 0.01],
            "head_width": [1024, 256],
            "search": "adaptive",
        },
        "cuts": [cut(index) for index in range(N_CUTS)],
        "data": {
            "name": "cats",
            "source": "/photos/cats",
            "fingerprint": "0123456789abcdef" * 4,
            "classes": ["cat", "dog"],
            "images": {"train": 300, "val": 100, "test": 50},
            "skipped": [],
            "duplicates": [],
        },
        "backbones": {"": {**BACKBONE, "name": "tiny"}},
        "recipe": {"metric": "accuracy", "epochs": EPOCHS, "seed": 3},
        "provenance": {"versions": {"torch": "2.9"}, "machine": "m", "device": "cpu", "options": OPTIONS},
        "transfer_curve": {
            "points": [point(2, 0.6), point(6, 0.8), point(11, 0.7)],
            "macs": 500,
            "seconds": 2.0,
            "kept_bytes": 7,
        },
        **changed,
    }


def trial(
    index: int, score: float | None, state: str = "COMPLETE", *, rate: float = 1e-3, **more: Any
) -> optuna.trial.FrozenTrial:
    """Make a trial: scores rise to ``score`` over the epochs, of which a pruned one has two."""
    n_epochs = 0 if score is None else EPOCHS if state == "COMPLETE" else 2
    scores = {epoch: score * (0.5 + 0.5 * epoch / n_epochs) for epoch in range(1, n_epochs + 1)}
    results = [
        {"epoch": e, "score": s, "train_loss": 1 / e, "val_loss": 2 / e, **SPENT} for e, s in scores.items()
    ]
    ended = (
        {} if state == "RUNNING" else {"results": results, "macs": 60 * n_epochs, "plain_macs": 99 * n_epochs}
    )
    reason = {"reason": f"pruned after epoch {n_epochs}"} if state == "PRUNED" else {}
    return create_trial(
        state=TrialState[state],
        value=score if state == "COMPLETE" else None,
        params={"cut": index, "learning_rate": rate, "head_width": 0},
        distributions={
            "cut": IntDistribution(0, N_CUTS - 1),
            "learning_rate": FloatDistribution(1e-5, 1e-2, log=True),
            "head_width": IntDistribution(0, 1024, step=256),
        },
        intermediate_values=scores,
        user_attrs={"seconds": 1.5, **reason, **ended, **more},
    )


def stored(*trials: optuna.trial.FrozenTrial, name: str = "mine", lower: bool = False, **changed: Any) -> Any:
    study = optuna.create_study(study_name=name, direction="minimize" if lower else "maximize")
    for key, value in attributes(**changed).items():
        study.set_user_attr(key, value)
    study.add_trials(trials)
    return study


ENDS = (trial(11, 0.7), trial(0, 0.85))
FINISHED = (
    *ENDS,
    trial(6, 0.9, rate=3e-4),
    trial(4, 0.6, "PRUNED", rate=1e-2),
    trial(8, None, "FAIL", reason="boom"),
)
AIM = {"aim": {"aim": "accuracy+cost", "cost": "macs"}}
CONFIRMED = {"confirmation": {"trials": [2, 0, 1], "seeds": 2, "resample": False, "after": 5}}
AGAIN = tuple(
    trial(index, score + 0.01 * seed, rate=rate, origin="confirm", confirms=number, seed=seed, resample=False)
    for number, index, score, rate in ((2, 6, 0.86, 3e-4), (1, 0, 0.8, 1e-3), (0, 11, 0.7, 1e-3))
    for seed in (0, 1)
)


def fitted(names: Sequence[str] = ("cat", "dog"), folder: str = "/models/a") -> dict[str, Any]:
    """Make what a fit stores."""
    by_class = [{"name": name, "precision": 0.7, "recall": 0.6, "f1": 0.65, "n": 25} for name in names]
    interval = {"accuracy": 0.91, "interval": [0.82, 0.96], "n": 50, "calibration_error": 0.03}
    figures = {**interval, "classes": by_class, "confusion": [[20, 5], [3, 22]]}
    return {
        "backbone": "tiny",
        "folder": folder,
        "test": figures,
        "trial": 2,
        "cut": {"layer": 20},
        "n_images": 400,
    }


def several() -> optuna.Study:
    """Make a study of two backbones, one of which has a name that is no HTML identifier."""
    backbones = {"a": "timm/a b", "b": "b"}
    cuts = [{**cut(index), "backbone": key} for key in backbones for index in range(12)]
    every = {key: {**BACKBONE, "name": name} for key, name in backbones.items()}
    study = stored(cuts=cuts, backbones=every, transfer_curve_b=attributes()["transfer_curve"])
    for key, score in (("a", 0.7), ("b", 0.8)):
        study.add_trial(
            create_trial(
                state=TrialState.COMPLETE,
                value=score,
                params={"backbone": key, f"cut_{key}": 6, "learning_rate": 1e-3},
                distributions={
                    "backbone": CategoricalDistribution(("a", "b")),
                    f"cut_{key}": IntDistribution(0, 11),
                    "learning_rate": FloatDistribution(1e-5, 1e-2, log=True),
                },
                intermediate_values={1: score},
            )
        )
    return study
