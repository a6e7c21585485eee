"""Runs in tracking services: TensorBoard, MLflow, Weights & Biases."""

from l2o.tracking.base import Outcome, Point, Tracker
from l2o.tracking.mlflow_runs import MLflow
from l2o.tracking.tensorboard_runs import TensorBoard
from l2o.tracking.wandb_runs import WandB

__all__ = ["MLflow", "Outcome", "Point", "TensorBoard", "Tracker", "WandB"]
