"""``depthsearch enqueue``."""

from __future__ import annotations

import json

from depthsearch.cli.console import console_for, say
from depthsearch.cli.places import named_study
from depthsearch.options.commands import EnqueueOptions
from depthsearch.results.stored import StoredStudy
from depthsearch.results.summary import cut_json
from depthsearch.search.space import BACKBONE, cut_parameter
from depthsearch.study.control import enqueue as enqueue_guess
from depthsearch.study.progress import Status, status as status_of
from depthsearch.study.storage.optuna_private import fixed_params
from depthsearch.text import counted
from depthsearch.visualization.words import written_setting


def enqueue(options: EnqueueOptions) -> None:
    """Enqueue a setting that a study tries next.

    Raises:
        DepthsearchError: If there is no such study, or it cannot try this setting.
    """
    study = named_study(options)
    number = enqueue_guess(
        study,
        options.layer,
        learning_rate=options.learning_rate,
        head_width=options.head_width,
        backbone=options.backbone,
        to_the_end=options.to_the_end,
    )
    console = console_for(stderr=options.json)
    params = fixed_params(study.get_trials(deepcopy=False)[number])
    stored = StoredStudy.read(study)
    cut = stored.space.point(params).cut
    setting = {
        name: value for name, value in params.items() if name not in (BACKBONE, cut_parameter(cut.backbone))
    }
    when, sentence = _when(status_of(study, stored))
    written = written_setting(setting, is_solved=stored.space.is_solved(params))
    say(console, f"Enqueued as trial {number}: {cut}, {written}.")
    say(console, sentence)
    if options.json:
        trial = {"study": study.study_name, "trial": number, "cut": cut_json(cut), "setting": setting}
        print(json.dumps({**trial, "to_the_end": options.to_the_end, "when": when}))


def _when(status: Status) -> tuple[str, str]:
    """Return when waiting guesses are tried, in a word or two and in a sentence."""
    # Where settings are trained again at the end, nothing is searched any more.
    is_confirming = not status.trials_at_most and any(r.origin == "confirm" for r in status.running)
    n_begun = status.trials_done + sum(running.origin != "confirm" for running in status.running)
    needed = n_begun + status.guesses_waiting
    if status.trials_wanted is not None and needed > status.trials_wanted:
        return "more trials", (
            f"The study has {counted(status.trials_wanted, 'trial')}, and all are taken: to try this one, "
            f"start it again with --trials {needed}."
        )
    searches = status.holder is not None and status.holder.doing == "study" and status.state == "running"
    if searches and not is_confirming:
        return "next", f"It is tried next, by {status.holder}."
    return "next start", "It is tried first by the next start of the study."
