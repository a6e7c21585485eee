"""The experiments of AutoLoss."""

from l2o.experiments.autoloss import audit, drop_in, fig1, gan, mtl, rate, table1, transfer
from l2o.experiments.study import Experiment

EXPERIMENTS: dict[str, Experiment] = {
    "autoloss/rate": rate.run,
    "autoloss/table1-reg": table1.run_regression,
    "autoloss/table1-cls": table1.run_classification,
    "autoloss/fig1-lambda": fig1.run,
    "autoloss/fig2-gan": gan.run_scores,
    "autoloss/fig3-samples": gan.run_samples,
    "autoloss/fig4a-transfer-data": transfer.run_data,
    "autoloss/fig4b-transfer-arch": transfer.run_architectures,
    "autoloss/fig4c-transfer-cifar": transfer.run_cifar,
    "autoloss/drop-in": drop_in.run,
    "autoloss/mtl": mtl.run,
    "autoloss/null-audit": audit.run,
}
