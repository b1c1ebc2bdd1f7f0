# %% [markdown]
# # A first study, in Python
#
# Which layers of a pretrained network should stay frozen, and which should learn? This notebook lists the places
# where DenseNet121 can be cut, searches for the best one on scikit-learn's handwritten digits, looks at what was
# found, and takes the trained model away. It needs no network and no GPU: the weights come with depthsearch, for
# demonstrations only (they were trained on CIFAR-100). It takes a few minutes on two cores.
#
# For a study of your own, change two lines: the backbone and the folder of your images.

# %%
import logging
import os
import tempfile
from pathlib import Path

os.chdir(tempfile.mkdtemp())  # what is written below is gone with it

import optuna
import timm
from PIL import Image
from sklearn.datasets import load_digits

import depthsearch
from depthsearch import visualization

logging.getLogger("depthsearch").setLevel(logging.ERROR)
optuna.logging.set_verbosity(optuna.logging.WARNING)

# %% [markdown]
# ## Where a network can be cut
#
# A cut is the border between the frozen layers and those that learn, named by the first layer that learns. Layers are
# numbered as Keras prints a model.

# %%
cuts = depthsearch.list_cuts(timm.create_model("densenet121"))
print(f"{len(cuts)} candidates")
for cut in cuts[::20]:
    print(
        f"{cut.frozen_mac_share:6.1%} of the work frozen, {cut.trainable_parameters:9,} parameters learn: {cut}"
    )

# %% [markdown]
# One of them by its number, its name in Keras or its path in the module:

# %%
print(depthsearch.find_cut(cuts, 144))
print(depthsearch.find_cut(cuts, "conv5_block1_1_conv"))

# %% [markdown]
# ## A short study
#
# `StudyOptions` has the options of `depthsearch study` under the same names; what is left out has a default. This
# study is small: a seventh of the digits, at most six settings of two epochs, of which two are trained again at most
# twice. A question worth an answer deserves the defaults.

# %%
options = depthsearch.StudyOptions(
    backbone="densenet121",
    data="digits",  # or a folder: DIR/<class>/<image>
    subset=0.15,
    trials=6,
    epochs=2,
    confirm=1,
    seeds=2,
    storage="sqlite:///studies.db",
)
result = depthsearch.study.run(options)

# %% [markdown]
# The study is an Optuna study, kept in the database. The same call goes on where it stopped; this one is complete.
# `result.summary` has what is known of it:

# %%
summary = result.summary
print(f"answer: {summary.chosen.cut}")
print(f"score of its first training: {summary.chosen.score:.4f} ({summary.metric} on validation)")
print(f"cost: {summary.cost.full_fine_tunes:.1f} full fine-tunes, {summary.cost.seconds:.0f} s")

# %% [markdown]
# Optuna's own tools work on it, too:

# %%
best = result.study.best_trial
print(f"trial {best.number} scored {best.value:.4f} with {best.params}")

# %% [markdown]
# ## Figures
#
# Every figure of the report and the dashboard is a function that takes a study and returns a plotly figure. First the
# score against the depth of the cut: from everything learns, on the left, to only the head learns.

# %%
visualization.plot_score_by_depth(result.study)

# %% [markdown]
# What a linear classifier makes of the frozen features, depth by depth, without any training:

# %%
visualization.plot_transfer_curve(result.study)

# %% [markdown]
# ## The model
#
# `depthsearch fit` trains the answer on the training and validation images together and reads the test images, once.

# %%
# !depthsearch fit --storage sqlite:///studies.db --out model

# %% [markdown]
# The folder holds the weights, a model card and what is needed to use them. With depthsearch:

# %%
digits = load_digits()
for place in (3, 14):
    Image.fromarray((digits.images[place] * 15).astype("uint8")).save(f"{place}.png")

model = depthsearch.load("model")
for place, prediction in zip((3, 14), model.predict([Path("3.png"), Path("14.png")]), strict=True):
    print(
        f"a {digits.target[place]} is taken for {prediction.label}, probability {prediction.probability:.3f}"
    )

# %% [markdown]
# Or with timm alone:

# %%
network = timm.create_model("local-dir:model", pretrained=True)
print(type(network).__name__, "with", network.num_classes, "classes")
