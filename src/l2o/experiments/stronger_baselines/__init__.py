"""The experiments of "Training stronger baselines for learning to optimize"."""

from l2o.experiments.stronger_baselines import fig2, fig3, fig4, fig5, fig6, fig7, logits
from l2o.experiments.study import Experiment

EXPERIMENTS: dict[str, Experiment] = {
    "stronger-baselines/fig2": fig2.run,
    "stronger-baselines/fig3": fig3.run,
    "stronger-baselines/fig4": fig4.run,
    "stronger-baselines/fig5": fig5.run,
    "stronger-baselines/fig6": fig6.run,
    "stronger-baselines/fig7": fig7.run,
    "stronger-baselines/logits": logits.run,
}
