"""A stored study, read once into values: all that figures, tables, pages and commands say comes from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import groupby
from typing import Any

import optuna
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial

from depthsearch.errors import DepthsearchError, StudyError
from depthsearch.models.cuts import Cut
from depthsearch.options.attributes import FORMAT, StudyKey, curve_key
from depthsearch.options.defaults import is_planned
from depthsearch.options.study import StudyOptions
from depthsearch.options.words import COSTS, TOLERANCE
from depthsearch.results.trials import StoredTrial, UnsetTrial, has_setting, read_trial, read_unset
from depthsearch.search.space import FIXABLE, SearchSpace
from depthsearch.training.outcomes import ProbePoint, TransferCurve
from depthsearch.training.recipe import Recipe

# What a study's settings have of its space: ranges of what is searched, values of what is not.
RANGES = ("learning_rate", "head_width", *FIXABLE)


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredBackbone:
    """A backbone that a study searches.

    Attributes:
        name: As ``--backbone`` takes it.
        weights: Where its weights come from.
        digest: Of the weights.
        preprocessing: Of its images, by name.
        data_fingerprint: Of the images, decoded as it wants them.
        full_fine_tune_macs: MACs of training everything once, the unit of its costs.
        build_digest: See `backbones.Backbone.build_digest`.
    """

    name: str
    weights: str
    digest: str
    preprocessing: Mapping[str, Any]
    data_fingerprint: str
    full_fine_tune_macs: int
    build_digest: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredData:
    """The images of a study.

    Attributes:
        name: What they are called.
        source: Where they were read from.
        fingerprint: Of their pixels and labels.
        classes: Names, in order.
        images: How many images, or samples, each split has: ``train``, ``val``, ``test``.
        skipped: Files that could not be read.
        duplicates: Groups of equal files that stand in several splits.
        samples: Of which columns a sample is made, where it is more than an image.
    """

    name: str
    source: str
    fingerprint: str
    classes: Sequence[str]
    images: Mapping[str, int]
    skipped: Sequence[str] = ()
    duplicates: Sequence[Sequence[str]] = ()
    samples: Mapping[str, Any] | None = None

    @property
    def noun(self) -> str:
        """What a sample is called: ``image``, or ``sample`` where it is more than that."""
        return "sample" if self.samples else "image"


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What the latest start of a study was to reach.

    Attributes:
        trials: Finished trials of the search; None where nothing says it.
        confirm: Whether a confirmation is to follow.
        workers: Trials trained at once.
        at_most: Whether that many trials are only a bound, as the search ends by itself.
    """

    trials: int | None
    confirm: bool
    workers: int = 1
    at_most: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfirmationPlan:
    """Which trainings confirm the most promising cuts.

    Attributes:
        trials: Numbers of the trials whose settings are trained again.
        seeds: Trainings of each.
        resample: Whether each seed divides training and validation anew.
        after: Finished trials of the search when it was planned.
        cuts: How many promising cuts were asked for.
        cost: The second aim then.
    """

    trials: tuple[int, ...]
    seeds: int
    resample: bool
    after: int | None = None
    cuts: int | None = None
    cost: str | None = None

    @classmethod
    def read(cls, stored: Mapping[str, Any]) -> ConfirmationPlan:
        """Make a plan of what a study stores of it."""
        return cls(**{**stored, "trials": tuple(stored["trials"])})


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredStudy:
    """A study as it was stored at one moment.

    Attributes:
        name: Its name.
        maximize: Whether a high score is good.
        format: Of what is stored, see `options.attributes`.
        settings: All that makes two trials comparable; what differs between backbones is a list.
        cuts: Candidates by depth; of several backbones one after the other.
        space: What is searched.
        backbones: By the names that its cuts have for them: empty if there is only one.
        data: Its images.
        recipe: How all trials are trained.
        provenance: Versions, machine and options.
        options: It was made with these; None where they are not kept.
        curves: Transfer curves by backbone, as far as they are drawn.
        cost_aim: What it aims at beside the score, one of `words.COSTS`; None: nothing.
        tolerance: What its answer may lose against the best, in the unit of the score.
        wanted: What its latest start was to reach.
        plan: Of the confirmation; None before.
        marked: Candidates that somebody wants to see pointed out.
        lease: Who runs it and what is asked of them, as `study.lease` reads it.
        fit: The final training and its test; empty before.
        test_readings: Each reading of the test images.
        explained: Images whose depths were drawn.
        trials: All trials that have a setting, by number.
        unset: All others.
        latest: When a trial last began or ended, in the zone of this machine.
    """

    name: str
    maximize: bool
    format: int
    settings: Mapping[str, Any]
    cuts: tuple[Cut, ...]
    space: SearchSpace
    backbones: Mapping[str, StoredBackbone]
    data: StoredData
    recipe: Recipe
    provenance: Mapping[str, Any]
    options: StudyOptions | None
    curves: Mapping[str, TransferCurve] = field(default_factory=dict)
    cost_aim: str | None = None
    tolerance: float = TOLERANCE / 100
    wanted: Wanted
    plan: ConfirmationPlan | None = None
    marked: tuple[Cut, ...] = ()
    lease: Mapping[str, Any] = field(default_factory=dict)
    fit: Mapping[str, Any] = field(default_factory=dict)
    test_readings: Sequence[Mapping[str, Any]] = ()
    explained: Sequence[Mapping[str, Any]] = ()
    trials: tuple[StoredTrial, ...] = ()
    unset: tuple[UnsetTrial, ...] = ()
    latest: datetime | None = None

    @classmethod
    def read(cls, study: optuna.Study | StoredStudy) -> StoredStudy:
        """Read a study, its attributes once and its trials once; one that was read is returned as it is.

        Raises:
            StudyError: If depthsearch did not make it, it has another format, or it is damaged.
        """
        if isinstance(study, StoredStudy):
            return study
        attributes = study.user_attrs
        _refuse_foreign(study.study_name, attributes)
        trials = study.get_trials(deepcopy=False)
        try:
            return _read(study, attributes, trials)
        except (LookupError, TypeError, AttributeError, ValueError, DepthsearchError) as error:
            # Whatever another program may have put in the place of ours.
            raise StudyError(
                f"Study {study.study_name!r} is damaged, or was made by another program: "
                f"{type(error).__name__}, {error}. Restore a copy of its database, or give another --name."
            ) from error

    @property
    def backbone_names(self) -> tuple[str, ...]:
        """The names that its cuts have for its backbones, in their order."""
        return tuple(key for key, _ in groupby(cut.backbone for cut in self.cuts))

    @property
    def is_exhaustive(self) -> bool:
        """Whether every candidate is tried."""
        return str(self.settings["search"]).startswith("exhaustive")

    @property
    def every_trial(self) -> tuple[StoredTrial | UnsetTrial, ...]:
        """All trials, by number."""
        return tuple(sorted((*self.trials, *self.unset), key=lambda trial: trial.number))


def _refuse_foreign(name: str, attributes: Mapping[str, Any]) -> None:
    stored = attributes.get(StudyKey.FORMAT)
    if stored is None:
        raise StudyError(f"Study {name!r} was not made by depthsearch. Give another --name.")
    if stored != FORMAT:
        provenance = attributes.get(StudyKey.PROVENANCE)
        versions = provenance.get("versions") if isinstance(provenance, Mapping) else None
        maker = versions.get("depthsearch") if isinstance(versions, Mapping) else None
        raise StudyError(
            f"Study {name!r} is stored in format {stored}, and this depthsearch reads format {FORMAT}. "
            f"Use the depthsearch that made it{f' ({maker})' if maker else ''}, or give another --name."
        )


def _read(study: optuna.Study, attributes: Mapping[str, Any], trials: Sequence[FrozenTrial]) -> StoredStudy:
    settings, provenance = attributes[StudyKey.SETTINGS], attributes[StudyKey.PROVENANCE]
    options = provenance.get("options")
    options = StudyOptions.from_json(options) if options else None
    cuts = _read_cuts(attributes[StudyKey.CUTS])
    backbones = {key: StoredBackbone(**each) for key, each in attributes[StudyKey.BACKBONES].items()}
    curves = {key: attributes[curve_key(key)] for key in backbones if curve_key(key) in attributes}
    plan = attributes.get(StudyKey.CONFIRMATION)
    aim = attributes.get(StudyKey.AIM) or {}
    cost = aim.get("cost")
    space = _read_space(settings, cuts)
    moments = [when for t in trials for when in (t.datetime_start, t.datetime_complete) if when is not None]
    return StoredStudy(
        name=study.study_name,
        maximize=study.direction == StudyDirection.MAXIMIZE,
        format=FORMAT,
        settings=dict(settings),
        cuts=cuts,
        space=space,
        backbones={key: backbones[key] for key in space.backbones},
        data=StoredData(**attributes[StudyKey.DATA]),
        recipe=Recipe(**attributes[StudyKey.RECIPE]),
        provenance=provenance,
        options=options,
        curves={key: _read_curve(curve) for key, curve in curves.items()},
        cost_aim=cost if cost in COSTS else None,
        tolerance=float(aim.get("tolerance", TOLERANCE)) / 100,
        wanted=_read_wanted(attributes.get(StudyKey.WANTED), options),
        plan=plan and ConfirmationPlan.read(plan),
        marked=tuple(cuts[place] for place in attributes.get(StudyKey.MARKED, ())),
        lease={
            key: attributes[key] for key in (StudyKey.COORDINATOR, StudyKey.STOP_REQUEST) if key in attributes
        },
        fit=attributes.get(StudyKey.FIT) or {},
        test_readings=tuple(attributes.get(StudyKey.TEST_READINGS) or ()),
        explained=tuple(attributes.get(StudyKey.EXPLAINED) or ()),
        trials=tuple(read_trial(t, space) for t in trials if has_setting(t, space)),
        unset=tuple(read_unset(t) for t in trials if not has_setting(t, space)),
        latest=max(moments, default=None),
    )


def _read_cuts(stored: Sequence[Mapping[str, Any]]) -> tuple[Cut, ...]:
    """Read the candidates; the database turned tuples into lists."""
    lists = ("aliases", "image_shape")
    return tuple(Cut(**{**cut, **{key: tuple(cut[key]) for key in lists if key in cut}}) for cut in stored)


def _read_space(settings: Mapping[str, Any], cuts: tuple[Cut, ...]) -> SearchSpace:
    """Read what is searched; what has a fixed value for all trials has no part in it."""
    # The database turned tuples into lists. A single width is searched as well.
    ranges: dict[str, Any] = {
        name: tuple(settings[name]) if isinstance(settings[name], list) else settings[name]
        for name in RANGES
        if name in settings and (name == "head_width" or isinstance(settings[name], list))
    }
    return SearchSpace(cuts=cuts, **ranges)


def _read_curve(stored: Mapping[str, Any]) -> TransferCurve:
    points = tuple(ProbePoint(**point) for point in stored["points"])
    return TransferCurve(**{**stored, "points": points})


def _read_wanted(stored: Mapping[str, Any] | None, options: StudyOptions | None) -> Wanted:
    """Read what a study is to reach; one that was made and not begun says it in its options alone."""
    if stored is not None:
        return Wanted(**stored)
    if options is None:
        return Wanted(trials=None, confirm=False)
    planned = is_planned(options)
    return Wanted(trials=options.trials, confirm=bool(options.confirm) and not planned, at_most=planned)
