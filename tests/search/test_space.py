"""The search space, and a study of one's own over it."""

from dataclasses import replace

import optuna
import pytest
import timm
import torch
import torch.nn.functional as F
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FixedTrial

from depthsearch import SearchSpace, freeze_before
from depthsearch.errors import CutError, SettingsError
from depthsearch.models.heads import with_head
from depthsearch.search.firsts import first_settings
from depthsearch.search.space import Point
from depthsearch.training.objective import Objective


def test_the_cut_is_an_ordered_integer_over_every_candidate(space) -> None:
    assert space.distributions()["cut"] == IntDistribution(0, len(space.cuts) - 1)
    assert [cut.index for cut in space.cuts] == list(range(len(space.cuts)))
    shares = [cut.frozen_parameter_share for cut in space.cuts]
    assert shares == sorted(shares)
    assert (shares[0], shares[-1]) == (0.0, 1.0)


def test_every_candidate_can_be_suggested(space) -> None:
    points = [
        space.suggest(FixedTrial({"cut": index, "learning_rate": 1e-3, "head_width": 0}))
        for index in range(len(space.cuts))
    ]
    assert [point.cut for point in points] == list(space.cuts)


def test_what_says_nothing_of_a_setting_has_no_part_in_its_place(space) -> None:
    """A solved head is the same whatever the optimizer; a linear one has no hidden layers."""
    also = {"head_depth": (1, 3), "dropout": (0.0, 0.5), "optimizer": ("adamw", "sgd")}
    wide = SearchSpace(cuts=space.cuts, head_width=(512, 256), **also)
    one = {"learning_rate": 1e-3, "head_width": 0, "head_depth": 1, "dropout": 0.1, "optimizer": "adamw"}
    other = {"learning_rate": 1e-4, "head_width": 0, "head_depth": 3, "dropout": 0.4, "optimizer": "sgd"}

    def places(cut: int, **changes: int) -> int:
        return len({wide.place({**each, **changes, "cut": cut}) for each in (one, other)})

    last = len(space.cuts) - 1
    assert places(last) == 1
    assert places(last, head_width=256) == places(3) == 2
    linear = [{**one, "cut": 3, "head_depth": depth} for depth in (1, 3)]
    assert wide.place(linear[0]) == wide.place(linear[1])


def test_random_sampling_reaches_every_candidate(space) -> None:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    reached = {space.suggest(study.ask()).cut.index for _ in range(200)}
    assert reached == set(range(len(space.cuts)))


def test_picked_layers_are_the_whole_space(backbone, space) -> None:
    picked = SearchSpace.for_model(backbone.model, image_size=16, layers=["layer[34].0.conv1"])
    names = [space.cuts[0].name, "layer3.0.conv1", "layer4.0.conv1", space.cuts[-1].name]
    assert [cut.name for cut in picked.cuts] == names
    assert picked.distributions()["cut"] == IntDistribution(0, 3)
    assert [picked.point({"cut": i, "learning_rate": 1e-3}).cut.name for i in range(4)] == names


def test_only_cut_rate_and_width_are_searched_unless_more_is_asked_for(backbone) -> None:
    space = SearchSpace.for_model(backbone.model, image_size=16)
    assert space.distributions() == {
        "cut": IntDistribution(0, len(space.cuts) - 1),
        "learning_rate": FloatDistribution(1e-4, 1e-2, log=True),
        "head_width": IntDistribution(0, 1024, step=256),
    }


def test_every_further_dimension_reaches_the_point(backbone) -> None:
    space = SearchSpace.for_model(
        backbone.model,
        image_size=16,
        head_depth=(1, 3),
        dropout=(0.0, 0.5),
        weight_decay=(1e-5, 1e-1),
        optimizer=("adamw", "sgd"),
    )
    distributions = space.distributions()
    assert distributions["weight_decay"] == FloatDistribution(1e-5, 1e-1, log=True)
    assert distributions["optimizer"] == CategoricalDistribution(("adamw", "sgd"))
    params = {
        "cut": 3,
        "learning_rate": 2e-4,
        "head_width": 256,
        "head_depth": 2,
        "dropout": 0.25,
        "weight_decay": 1e-3,
        "optimizer": "sgd",
    }
    assert params.keys() == distributions.keys()
    expected = Point(**{**params, "cut": space.cuts[3]})
    assert space.suggest(FixedTrial(params)) == space.point(params) == expected


def test_what_is_not_searched_keeps_the_default_of_a_point(backbone) -> None:
    space = SearchSpace.for_model(backbone.model, image_size=16, head_width=0)
    point = space.suggest(FixedTrial({"cut": 1, "learning_rate": 1e-3}))
    assert point == Point(cut=space.cuts[1], learning_rate=1e-3)


def test_what_is_fixed_is_that_of_every_point_and_is_not_searched(backbone) -> None:
    fixed = {"head_depth": 3, "dropout": 0.25, "weight_decay": 0.0, "optimizer": "sgd"}
    space = SearchSpace.for_model(backbone.model, image_size=16, head_width=0, fixed=fixed)
    assert space.distributions().keys() == {"cut", "learning_rate"}
    point = space.suggest(FixedTrial({"cut": 1, "learning_rate": 1e-3}))
    assert point == Point(cut=space.cuts[1], learning_rate=1e-3, **fixed)


def test_a_trial_tells_its_cut_by_number_and_names(space) -> None:
    trial = FixedTrial({"cut": 5, "learning_rate": 1e-3, "head_width": 16})
    cut = space.suggest(trial).cut
    assert trial.user_attrs == {
        "cut_layer": cut.layer,
        "cut_name": cut.name,
        "cut_kind": cut.kind,
        "cut_keras_name": cut.keras_name,
        "frozen_mac_share": round(cut.frozen_mac_share, 4),
    }


@pytest.mark.parametrize(
    ("ranges", "message"),
    [
        ({"learning_rate": (0.0, 1e-2)}, r"learning_rate \(0\.0, 0\.01\): give the lowest, above 0"),
        ({"learning_rate": (1e-2, 1e-3)}, r"learning_rate \(0\.01, 0\.001\): give the lowest"),
        ({"weight_decay": (-1.0, 1.0)}, r"weight_decay \(-1\.0, 1\.0\): give the lowest, above 0"),
        ({"dropout": (0.0, 1.0)}, r"dropout \(0\.0, 1\.0\): give the lowest and the highest in \[0, 1\)"),
        ({"dropout": (0.5, 0.1)}, r"dropout \(0\.5, 0\.1\)"),
        ({"head_depth": (0, 2)}, r"head_depth \(0, 2\): give the fewest, at least 1"),
        ({"head_depth": (3, 2)}, r"head_depth \(3, 2\)"),
        ({"head_width": (100, 30)}, r"head_width \(100, 30\): give the widest and a step that divides it"),
        ({"head_width": (0, 0)}, r"head_width \(0, 0\)"),
        ({"optimizer": ("adam",)}, r"optimizer \('adam',\): choose from adamw, sgd"),
        ({"optimizer": ()}, r"optimizer \(\): choose from adamw, sgd"),
        ({"fixed": {"dropout": 1.0}}, r"dropout 1\.0 cannot be trained with"),
        ({"fixed": {"head_depth": 0}}, r"head_depth 0 cannot be trained with"),
        ({"fixed": {"weight_decay": -1.0}}, r"weight_decay -1\.0 cannot be trained with"),
        ({"fixed": {"optimizer": "adam"}}, r"optimizer 'adam' cannot be trained with"),
        (
            {"fixed": {"learning_rate": 1.0}},
            r"learning_rate cannot be fixed: give some of head_depth, dropout, ",
        ),
        (
            {"fixed": {"dropout": 0.1}, "dropout": (0.0, 0.5)},
            r"dropout is fixed at 0\.1 and searched: give one of the two",
        ),
        ({"cuts": ()}, r"A search space needs cuts: give list_cuts\(model\)"),
    ],
)
def test_a_range_that_cannot_be_searched_is_refused(space, ranges, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        SearchSpace(**{"cuts": space.cuts, **ranges})


def test_an_unknown_kind_of_cut_is_refused(backbone) -> None:
    with pytest.raises(CutError, match=r"No candidate kind 'pooling': give some of conv, pool"):
        SearchSpace.for_model(backbone.model, kinds=("pooling",), image_size=16)


def test_a_study_of_ones_own_takes_cuts_from_the_space(digits) -> None:
    """The five lines that a foreign objective needs."""
    model = timm.create_model("test_resnet", pretrained=False, num_classes=10)
    images, labels = (
        digits.train.gather(torch.arange(0, 1000, 25)).float() / 255,
        digits.train.labels[:1000:25],
    )
    space = SearchSpace.for_model(model)

    def objective(trial: optuna.Trial) -> float:
        point = space.suggest(trial)
        with freeze_before(model, point.cut):
            trainable = [p for p in model.parameters() if p.requires_grad]
            optimizer = torch.optim.AdamW(trainable, lr=point.learning_rate)
            loss = F.cross_entropy(model.train()(images), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        trial.set_user_attr("trainable", sum(p.numel() for p in trainable))
        return loss.item()

    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=1))
    study.optimize(objective, n_trials=4)
    head = sum(p.numel() for p in model.get_classifier().parameters())
    for trial in study.trials:
        cut = space.cuts[trial.params["cut"]]
        assert trial.user_attrs["trainable"] == cut.trainable_parameters + head
    assert all(p.requires_grad for p in model.parameters())


def test_the_ready_made_objective_runs_in_a_study_of_ones_own(task, space) -> None:
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.RandomSampler(seed=1))
    study.optimize(Objective(task=task, space=space), n_trials=2)
    for trial in study.trials:
        assert trial.value == trial.intermediate_values[task.recipe.epochs]


def test_the_ready_made_objective_prunes_by_the_pruner_of_the_study(task, space) -> None:
    pruner = optuna.pruners.ThresholdPruner(lower=2.0)
    study = optuna.create_study(direction="maximize", pruner=pruner)
    # A linear head alone is solved, in one step.
    study.enqueue_trial({"cut": len(space.cuts) - 2, "learning_rate": 1e-3, "head_width": 0})
    study.optimize(Objective(task=task, space=space), n_trials=1)
    assert study.trials[0].state == optuna.trial.TrialState.PRUNED
    assert list(study.trials[0].intermediate_values) == [1]


def test_a_training_of_the_ready_made_objective_that_diverges_is_pruned(task, space) -> None:
    wild = SearchSpace(cuts=space.cuts, learning_rate=(1e39, 1e39), head_width=0)
    study = optuna.create_study(direction="maximize")
    study.enqueue_trial({"cut": len(space.cuts) - 2})
    study.optimize(Objective(task=task, space=wild), n_trials=1)
    assert study.trials[0].state == optuna.trial.TrialState.PRUNED


def test_with_head_and_freeze_before_share_the_cuts_of_the_backbone(backbone, space) -> None:
    """Cuts are listed once, on the backbone, and hold for it under any new head."""
    model = with_head(backbone.model, "fc", 10, width=16)
    for cut in space.cuts:
        with freeze_before(model, cut):
            trainable = sum(
                p.numel() for n, p in model.named_parameters() if p.requires_grad and "fc." not in n
            )
        assert trainable == cut.trainable_parameters, cut


def test_one_width_is_every_trials(backbone) -> None:
    space = SearchSpace.for_model(backbone.model, image_size=16, head_width=48)
    assert space.distributions()["head_width"] == IntDistribution(48, 48)
    (_, baseline), *_ = [(why, params) for params, why in first_settings(space)]
    assert baseline["head_width"] == 48
    assert space.point(baseline).head_width == 48
    with pytest.raises(SettingsError, match=r"^head_width -1: give a width, or 0 for a linear head\.$"):
        SearchSpace.for_model(backbone.model, image_size=16, head_width=-1)


def test_a_setting_has_its_place_whatever_else_a_trial_has(space) -> None:
    """Somebody's own objective may ask for more."""
    params = {"cut": 1, "learning_rate": 1e-3, "head_width": 256}
    assert space.place({**params, "mixup": 0.2}) == space.place(params)


def test_the_last_cut_is_solved_only_if_it_is_the_head(space) -> None:
    params = {"learning_rate": 1e-3, "head_width": 0}
    last = len(space.cuts) - 1
    assert space.is_solved({**params, "cut": last})
    without = replace(space, cuts=space.cuts[:-1])
    assert not without.is_solved({**params, "cut": last - 1})
    assert without.point({**params, "cut": last - 1}).is_solved is False
