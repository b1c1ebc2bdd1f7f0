"""Names of models that are refused before PyTorch is imported."""

import re
from collections.abc import Iterator, Sequence

import pytest
import timm
import torchvision
from timm.models import _registry

from depthsearch.errors import SettingsError
from depthsearch.models.backbones import requirements
from depthsearch.models.backbones.requirements import (
    FROM_SCRATCH,
    TIMM,
    TORCHVISION,
    Library,
    refuse_unheard_of,
)

CLASSIFIERS = torchvision.models.list_models(module=torchvision.models)


@pytest.mark.parametrize(
    ("library", "names"),
    [(TIMM, [*_registry._model_entrypoints, *FROM_SCRATCH]), (TORCHVISION, CLASSIFIERS)],
    ids=["timm", "torchvision"],
)
def test_no_name_that_a_library_knows_is_refused(library: Library, names: Sequence[str]) -> None:
    """Guards the names that are deprecated and those with a tag, too."""
    assert len(names) >= 80
    for name in names:
        refuse_unheard_of(library, name)
    refuse_unheard_of(library, "resnet50.a1_in1k")


def test_names_that_come_near_are_read_as_the_library_has_them() -> None:
    source = requirements._source_of(TIMM)
    assert source.names == {*timm.list_models()} - {*FROM_SCRATCH}
    assert requirements._source_of(TORCHVISION).names == {*CLASSIFIERS}
    pretrained = {name.partition(".")[0] for name in timm.list_pretrained()}
    assert len(pretrained & source.pretrained) > 0.95 * len(pretrained)


def test_a_name_that_no_file_holds_is_refused_with_names_that_come_near() -> None:
    with pytest.raises(SettingsError, match=r"^timm \S+ has no model 'resnet5O'\. Near: .*resnet50"):
        refuse_unheard_of(TIMM, "resnet5O")
    with pytest.raises(
        SettingsError, match=r"no image classifier 'nonesuch'\. torchvision\.models\.list_mod"
    ):
        refuse_unheard_of(TORCHVISION, "nonesuch")


@pytest.fixture
def unread() -> Iterator[None]:
    """Forget what was read of the libraries, before and afterwards."""
    requirements._source_of.cache_clear()
    yield
    requirements._source_of.cache_clear()


@pytest.mark.usefixtures("unread")
def test_of_a_library_that_cannot_be_read_no_name_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requirements, "find_spec", lambda _: None)
    refuse_unheard_of(TIMM, "nonesuch")


@pytest.mark.usefixtures("unread")
def test_of_a_library_that_registers_its_models_in_another_way_no_name_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(requirements, "REGISTERED", re.compile(r"register\((\w+)"))
    refuse_unheard_of(TIMM, "nonesuch")
