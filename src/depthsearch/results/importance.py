"""How much each parameter mattered for the scores of a study."""

from __future__ import annotations

import optuna
from optuna.trial import create_trial

from depthsearch.results.stored import StoredStudy

# With fewer complete trials the shares are those of chance.
LEAST_FOR_IMPORTANCE = 20


def importance_of(stored: StoredStudy) -> dict[str, float]:
    """Split the variance of the complete trials' scores among the parameters, by a seeded fANOVA.

    It takes longer than all else that is made of a study.

    Returns:
        A share for each parameter; none where trials are too few.

    Source: Hutter, Hoos, Leyton-Brown, An Efficient Approach for Assessing Hyperparameter Importance, 2014.
    """
    # Trials that only repeat a setting would count it more often.
    searched = [t for t in stored.trials if t.state == "complete" and t.confirms is None]
    if len(searched) < LEAST_FOR_IMPORTANCE:
        return {}
    # Imported here because it brings scikit-learn's forests, which only this needs.
    from optuna.importance import FanovaImportanceEvaluator, get_param_importances

    study = optuna.create_study(direction="maximize" if stored.maximize else "minimize")
    study.add_trials(
        create_trial(params=dict(t.parameters), distributions=dict(t.distributions), value=t.score)
        for t in searched
    )
    try:
        shares = get_param_importances(study, evaluator=FanovaImportanceEvaluator(seed=0))
    except (RuntimeError, ValueError):
        # All scores alike, or a space that changed on the way: nothing can be told apart.
        return {}
    return {name: float(share) for name, share in shares.items()}
