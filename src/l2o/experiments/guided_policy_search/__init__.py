"""The experiments of "Learning to optimize neural nets"."""

from functools import partial

from l2o.experiments.guided_policy_search import drop_in, fig0, figures
from l2o.experiments.study import Experiment

EXPERIMENTS: dict[str, Experiment] = {
    "guided-policy-search/fig0": fig0.run,
    **{f"guided-policy-search/{name}": partial(figures.run, name) for name in figures.FIGURES},
    "guided-policy-search/drop-in": drop_in.run,
}
