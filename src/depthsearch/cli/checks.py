"""What commands check before they import PyTorch, which takes many seconds on a busy machine."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import optuna

from depthsearch.classifier.checking import check_place as check_model_place, read_config, require_onnx
from depthsearch.cli.places import answer_of, artifacts_of, model_folder, named_study, study_file
from depthsearch.data.checking import check_source
from depthsearch.errors import ModelError
from depthsearch.files import is_folder
from depthsearch.models.backbones.requirements import check_requirements
from depthsearch.options.commands import CutsOptions, FitOptions, InitOptions, PredictOptions
from depthsearch.options.defaults import with_defaults
from depthsearch.options.study import StudyOptions
from depthsearch.results.stored import StoredStudy
from depthsearch.study.loggers.watching import check_watchers
from depthsearch.study.planning.place import check_place as check_file_place
from depthsearch.study.preparing.images import check_images, source_of
from depthsearch.study.preparing.places import is_stored
from depthsearch.study.settings import refuse_other_settings, settings_given
from depthsearch.study.storage.opening import check_storage, open_storage
from depthsearch.workers.ray.connecting import import_ray


def check_study(options: StudyOptions) -> None:
    """Check database, images, packages and networks, and the settings of a stored study of that name."""
    options = with_defaults(options)
    check_storage(options.storage)
    check_images(options)
    check_watchers(options)
    if options.executor == "ray":
        import_ray()
    for name in options.backbone:
        check_requirements(name)
    if options.name and is_stored(options.storage, options.name):
        study = optuna.load_study(study_name=options.name, storage=open_storage(options.storage))
        refuse_other_settings(options.name, StoredStudy.read(study).settings, settings_given(options))


def check_cuts(options: CutsOptions) -> None:
    """Check that there may be such a network."""
    check_requirements(options.backbone)


def check_init(options: InitOptions) -> None:
    """Check images and networks, and the place of the study file."""
    check_file_place(study_file(options))
    for name in options.backbone or ():
        check_requirements(name)
    check_source(source_of(options))


def check_fit(options: FitOptions) -> None:
    """Check that the study has an answer, that it can be written, and what writing it as ONNX needs."""
    stored = StoredStudy.read(named_study(options))
    answer_of(stored)
    check_model_place(options.out or model_folder(stored.name))
    artifacts_of(options.storage, options.artifacts)
    if options.onnx:
        require_onnx()


def check_predict(options: PredictOptions) -> None:
    """Check that there is such a model."""
    of_study = model_folder(str(options.folder))
    if is_folder(of_study) and not is_folder(options.folder):
        raise ModelError(f"No model folder {str(options.folder)!r}. Give {str(of_study)!r}, which exists.")
    read_config(options.folder)


# By the name of the command; the others need nothing checked, or no PyTorch.
CHECKS: Mapping[str, Callable[[Any], None]] = {
    "study": check_study,
    "cuts": check_cuts,
    "init": check_init,
    "fit": check_fit,
    "predict": check_predict,
}
