"""What docs/guide/loops.md shows runs as it stands, and freezes what it says, in whatever loop."""

import copy
import importlib.util
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
import pytest
import torch
from optuna.trial import TrialState
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

import depthsearch
from depthsearch import Cut, SearchSpace
from depthsearch.errors import TraceError

PAGE = Path(__file__).parents[2] / "docs" / "guide" / "loops.md"
SHARED = ""


def sections() -> dict[str, list[str]]:
    """Code blocks of the page by the heading above them; those above all headings under an empty one."""
    parts = re.split(r"^## (.+)$", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {
        heading: re.findall(r"^```python\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)
        for heading, text in zip([SHARED, *parts[1::2]], parts[::2], strict=True)
    }


@dataclass
class Training:
    """A model as it was when it was frozen."""

    model: nn.Module
    cut: Cut
    tensors: dict[str, torch.Tensor]
    trainable: set[str]

    def of_backbone(self, names: set[str]) -> set[str]:
        """Leave out the head's."""
        head = ("fc.", "classifier.")
        return {name for name in names if not name.startswith(head)}

    def assert_only_what_is_behind_the_cut_was_trained(self) -> None:
        """Frozen weights and statistics are the same bits, the others have moved."""
        parameters = dict(self.model.named_parameters())
        frozen = parameters.keys() - self.trainable
        backbone = self.of_backbone(self.trainable)
        assert sum(parameters[name].numel() for name in backbone) == self.cut.trainable_parameters
        now = {**parameters, **dict(self.model.named_buffers())}
        assert now.keys() == self.tensors.keys()
        moved = {name for name, tensor in now.items() if not torch.equal(tensor, self.tensors[name])}
        statistics = set[str]()
        for path, module in self.model.named_modules():
            if isinstance(module, _BatchNorm):
                owned = {f"{path}.{name}" for name, _ in module.named_buffers()}
                statistics |= owned
                if f"{path}.weight" in self.trainable:
                    assert owned <= moved, path
                else:
                    assert not owned & moved, path
        assert not frozen & moved
        # The bias of an attention's keys changes no attention: its gradient is rounding.
        still = {name for name in self.trainable - moved if not name.endswith(("key.bias", "k_proj.bias"))}
        assert not still


@pytest.fixture
def trainings(monkeypatch) -> list[Training]:
    """Note every model that is frozen in an example."""
    found: list[Training] = []
    original = depthsearch.freeze_before

    def freeze_before(model: nn.Module, cut: Cut, **options: Any) -> depthsearch.Frozen:
        frozen = original(model, cut, **options)
        tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
        found.append(
            Training(
                model=model,
                cut=cut,
                tensors={name: tensor.detach().clone() for name, tensor in tensors.items()},
                trainable={name for name, p in model.named_parameters() if p.requires_grad},
            )
        )
        return frozen

    monkeypatch.setattr(depthsearch, "freeze_before", freeze_before, raising=False)
    return found


@pytest.fixture
def run(monkeypatch, tmp_path) -> Callable[..., dict[str, Any]]:
    """Run the examples under a heading behind those that all share; give the names that they made."""
    monkeypatch.chdir(tmp_path)

    def run(heading: str, blocks: slice = slice(None)) -> dict[str, Any]:
        names: dict[str, Any] = {"__name__": "loops"}
        torch.manual_seed(0)
        for block in sections()[SHARED] + sections()[heading][blocks]:
            exec(compile(block, str(PAGE), "exec"), names)
        return names

    return run


def need(package: str) -> None:
    """Skip a test whose library is not installed."""
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed")


def assert_is_pruned(objective: Callable[[optuna.Trial], float]) -> None:
    """A pruner that is never content ends a trial after its first epoch."""
    study = optuna.create_study(direction="maximize", pruner=optuna.pruners.ThresholdPruner(lower=2.0))
    study.optimize(objective, n_trials=1)
    assert study.trials[0].state == TrialState.PRUNED
    assert list(study.trials[0].intermediate_values) == [0]


def test_every_example_is_run_here() -> None:
    assert list(sections()) == [
        SHARED,
        "A plain loop",
        "Lightning",
        "skorch",
        "Hugging Face's Trainer",
        "The head",
        "A model that cannot be traced",
    ]
    assert all(sections().values())
    assert PAGE.read_text(encoding="utf-8").count("```python") == sum(map(len, sections().values()))


def test_a_plain_loop_trains_what_is_behind_each_trials_cut(run, trainings) -> None:
    names = run("A plain loop", slice(1))
    study, space = names["study"], names["space"]
    assert [trial.state for trial in study.trials[:2]] == [TrialState.COMPLETE] * 2
    assert {trial.state for trial in study.trials} <= {TrialState.COMPLETE, TrialState.PRUNED}
    assert [training.cut for training in trainings] == [space.point(t.params).cut for t in study.trials]
    assert [t.user_attrs["cut_name"] for t in study.trials] == [training.cut.name for training in trainings]
    assert [training.cut for training in trainings[:2]] == [space.cuts[0], space.cuts[-1]]
    for training in trainings:
        training.assert_only_what_is_behind_the_cut_was_trained()
    assert_is_pruned(names["objective"])


def test_one_model_serves_several_cuts_when_each_is_undone(run, trainings) -> None:
    names = run("A plain loop", slice(1, 2))
    model = names["model"]
    assert [training.model for training in trainings] == [model] * 4
    assert len({len(training.trainable) for training in trainings}) == 4
    assert all(p.requires_grad for p in model.parameters())
    assert all(module.training for module in model.train().modules())
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, names["weights"][name])


@pytest.mark.slow
@pytest.mark.filterwarnings(
    "ignore:Found .* module.s. in eval mode at the start of training",
    "ignore:.*does not have many workers",
    "ignore:The number of training batches",
    "ignore:.isinstance.treespec, LeafSpec.. is deprecated",
)
def test_lightning_trains_what_is_behind_the_cut_and_loads_its_checkpoint(run, trainings) -> None:
    """Guards the example of the documentation with Lightning, whose hooks change modes."""
    need("lightning")
    names = run("Lightning")
    assert [trial.state for trial in names["study"].trials] == [TrialState.COMPLETE] * 3
    assert all(list(trial.intermediate_values) == [0, 1] for trial in names["study"].trials)
    for training in trainings:
        training.assert_only_what_is_behind_the_cut_was_trained()
    trained, loaded = trainings[names["study"].best_trial.number].model, names["loaded"].model
    assert list(loaded.state_dict()) == list(trained.state_dict())
    for name, tensor in trained.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor)
    assert all(p.requires_grad for p in loaded.parameters())
    assert_is_pruned(names["objective"])


def test_skorch_trains_what_is_behind_the_cut(run, trainings) -> None:
    need("skorch")
    names = run("skorch")
    assert [trial.state for trial in names["study"].trials] == [TrialState.COMPLETE] * 3
    for training in trainings:
        training.assert_only_what_is_behind_the_cut_was_trained()
    assert_is_pruned(names["objective"])


@pytest.mark.slow
def test_hugging_faces_trainer_searches_the_cut_without_a_warning(run, trainings, capfd, caplog) -> None:
    """Guards the example with the Trainer, which warns of what it does not know."""
    need("transformers")
    need("accelerate")
    names = run("Hugging Face's Trainer")
    trials = names["study"].trials
    assert [trial.state for trial in trials] == [TrialState.COMPLETE] * 3
    assert [training.cut for training in trainings] == [names["space"].point(t.params).cut for t in trials]
    for training in trainings:
        training.assert_only_what_is_behind_the_cut_was_trained()
    assert names["best"] == names["space"].point(names["study"].best_params)
    assert names["trainer"].args.weight_decay == trials[-1].params["weight_decay"]
    assert "no corresponding field" not in "".join(capfd.readouterr()) + caplog.text


def test_a_head_goes_in_the_place_of_the_models_own(run) -> None:
    names = run("The head")
    images, space = names["images"][:2], names["space"]
    assert space.cuts[-1].name == names["path"] == "fc"
    for model in (names["linear"], names["wide"], names["resnet"]):
        assert model.eval()(images).shape == (2, 10)
    assert type(names["linear"].fc) is nn.Linear
    assert type(depthsearch.make_head(96, 10, width=0)) is nn.Linear
    assert list(names["linear"].state_dict()) == list(names["pretrained"].state_dict())
    assert names["mapped"](torch.ones(2, 512, 4, 4)).shape == (2, 10)
    for model in (names["linear"], names["wide"]):
        with depthsearch.freeze_before(model, space.cuts[-1]):
            assert {n.split(".")[0] for n, p in model.named_parameters() if p.requires_grad} == {"fc"}


def test_what_stops_torch_fx_goes_into_a_module_of_its_own(run) -> None:
    names = run("A model that cannot be traced")
    net, space = names["Net"], names["space"]
    assert [cut.name for cut in space.cuts] == ["conv1", "conv2", "hidden"]
    assert space.cuts[0].image_shape == (1, 28, 28)
    assert SearchSpace.for_model(net(), image_size=28).cuts[-1].name == "out"
    by_example = SearchSpace.for_model(
        net(), example_inputs={"images": torch.ones(2, 1, 28, 28)}, head="hidden"
    )
    assert by_example.cuts == space.cuts

    class Branching(net):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            if images.max() > 1:
                images = images / 255
            return super().forward(images)

    with pytest.raises(TraceError, match=r"it branches on a tensor.* into a module of its own"):
        SearchSpace.for_model(Branching(), image_size=28)


def test_a_frozen_model_is_converted_and_compiled_behind_it(run) -> None:
    names = run("A model that cannot be traced")
    model = names["model"]
    assert not model.norm1.training
    assert not model.norm2.training
    before = copy.deepcopy(model.state_dict())
    names["compiled"](torch.rand(4, 1, 28, 28)).sum().backward()
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert {n for n, p in model.named_parameters() if p.grad is not None} == {
        f"{path}.{name}" for path in ("hidden", "out") for name in ("weight", "bias")
    }
    names["frozen"].undo()
    assert all(p.requires_grad for p in model.parameters())
    torch._dynamo.reset()


@pytest.mark.parametrize("wrap", [nn.DataParallel, lambda m: torch.compile(m, backend="eager")])
def test_the_page_says_what_to_give_instead_of_a_wrapped_model(backbone, wrap) -> None:
    with pytest.raises(TraceError, match=r"give (model\.\w+, and \w+ it afterwards)") as error:
        SearchSpace.for_model(wrap(backbone.model))
    advice = re.search(r"give (model\.\w+), (and \w+ it afterwards)", str(error.value))
    assert f"`{advice[1]}`, {advice[2]}" in PAGE.read_text(encoding="utf-8")
