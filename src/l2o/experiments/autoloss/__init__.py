"""The experiments of AutoLoss."""

from l2o.experiments.autoloss import rate
from l2o.experiments.study import Experiment

EXPERIMENTS: dict[str, Experiment] = {
    "autoloss/rate": rate.run,
}
