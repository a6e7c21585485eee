"""The experiments of "Optimizers cubed"."""

from l2o.experiments.optimizers_cubed import drop_in, generalisation, mnist, quadratics
from l2o.experiments.study import Experiment

EXPERIMENTS: dict[str, Experiment] = {
    "optimizers-cubed/quadratics": quadratics.run,
    "optimizers-cubed/mnist": mnist.run,
    "optimizers-cubed/generalisation": generalisation.run,
    "optimizers-cubed/drop-in": drop_in.run,
}
