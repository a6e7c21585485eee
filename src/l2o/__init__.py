"""Learning to optimize in PyTorch: meta-train optimizers, measure them honestly, use them as drop-ins."""

from l2o.curves import Curves, run_curves
from l2o.errors import L2OError
from l2o.horizons import ConstantHorizon, Curriculum, RandomHorizon
from l2o.meta_optimizer import MetaAdam, MetaRMSprop
from l2o.metatrain import MetaTrained, metatrain
from l2o.methods.imitation import Imitation
from l2o.methods.meta_loss import MetaLoss
from l2o.methods.self_improving import SelfImproving
from l2o.methods.unrolled import Unrolled
from l2o.optimizers.architectures import ARCHITECTURES, load
from l2o.optimizers.base import Config, Coordinatewise, LearnedOptimizer
from l2o.optimizers.dm import L2ODM
from l2o.optimizers.handcrafted import SGD, Adagrad, Adam, Momentum, Nesterov, RMSprop
from l2o.optimizers.hierarchical import L2OScale
from l2o.optimizers.rnnprop import RNNprop
from l2o.outer_loop import Plan
from l2o.rng import Stream
from l2o.tasks.base import TaskFamily
from l2o.tasks.conv import ConvClassifier, LeNet, NASCell
from l2o.tasks.data import load_dataset
from l2o.tasks.ensembles import scale_core
from l2o.tasks.mixture import Mixture
from l2o.tasks.mlp import MLPClassifier
from l2o.tasks.module import ModuleTask
from l2o.tasks.quadratic import Quadratics
from l2o.weights import Card, load_card, save, shipped

__all__ = [
    "ARCHITECTURES",
    "L2ODM",
    "SGD",
    "Adagrad",
    "Adam",
    "Card",
    "Config",
    "ConstantHorizon",
    "ConvClassifier",
    "Coordinatewise",
    "Curriculum",
    "Curves",
    "Imitation",
    "L2OError",
    "L2OScale",
    "LeNet",
    "LearnedOptimizer",
    "MLPClassifier",
    "MetaAdam",
    "MetaLoss",
    "MetaRMSprop",
    "MetaTrained",
    "Mixture",
    "ModuleTask",
    "Momentum",
    "NASCell",
    "Nesterov",
    "Plan",
    "Quadratics",
    "RMSprop",
    "RNNprop",
    "RandomHorizon",
    "SelfImproving",
    "Stream",
    "TaskFamily",
    "Unrolled",
    "load",
    "load_card",
    "load_dataset",
    "metatrain",
    "run_curves",
    "save",
    "scale_core",
    "shipped",
]
