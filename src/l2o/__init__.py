"""Learning to optimize in PyTorch: meta-train optimizers, measure them honestly, use them as drop-ins."""

from l2o.closure_curves import run_closure_curves
from l2o.curves import Curves, TrueObjective, run_curves
from l2o.errors import L2OError
from l2o.horizons import ConstantHorizon, Curriculum, RandomHorizon
from l2o.meta_optimizer import MetaAdam, MetaRMSprop
from l2o.metatrain import MetaTrained, metatrain
from l2o.methods.evolution import ES, PES
from l2o.methods.guided_policy.search import GuidedPolicySearch
from l2o.methods.imitation import Imitation
from l2o.methods.meta_loss import MetaLoss
from l2o.methods.policy_gradient import PolicyGradient
from l2o.methods.ppo import PPO
from l2o.methods.self_improving import SelfImproving
from l2o.methods.unrolled import Unrolled
from l2o.optimizers.architectures import ARCHITECTURES, load
from l2o.optimizers.base import Config, Coordinatewise, LearnedOptimizer
from l2o.optimizers.conjugate_gradient import ConjugateGradient
from l2o.optimizers.dm import L2ODM
from l2o.optimizers.handcrafted import SGD, Adagrad, Adam, Momentum, Nesterov, RMSprop
from l2o.optimizers.hierarchical import L2OScale
from l2o.optimizers.mlp import MLPLOpt
from l2o.optimizers.predicted_step import PredictedStep
from l2o.optimizers.rnnprop import RNNprop
from l2o.optimizers.small_fc import SmallFC
from l2o.outer_loop import Plan
from l2o.processes.replicated_losses import ReplicatedLosses, Settings
from l2o.ranks import Ranks, joined
from l2o.rng import Stream
from l2o.schedules.architectures import load_schedule
from l2o.schedules.base import Schedule
from l2o.schedules.controllers import Controller
from l2o.schedules.distill import distill
from l2o.schedules.features import MeasureFeatures, PaperFeatures, PaperGANFeatures, RobustFeatures
from l2o.schedules.fixed import ConstantRates, InTurn, RatesInTime, Recorded, Threshold
from l2o.schedules.follow import Follower, follow
from l2o.schedules.lightning import lightning_callback
from l2o.schedules.runs import run_schedule
from l2o.tasks.alternate import AlternateFamily, Choice, Goal
from l2o.tasks.base import TaskFamily
from l2o.tasks.classification import SparseClassification
from l2o.tasks.conv import ConvClassifier, LeNet, NASCell
from l2o.tasks.data import load_dataset
from l2o.tasks.ensembles import scale_core
from l2o.tasks.gan import GAN
from l2o.tasks.gaussian_mixture import GaussianMixtureEM
from l2o.tasks.mixture import Mixture
from l2o.tasks.mlp import MLPClassifier
from l2o.tasks.module import ModuleTask
from l2o.tasks.multitask import MultitaskDigits
from l2o.tasks.projected import ProjectedClassification
from l2o.tasks.quadratic import Quadratics
from l2o.tasks.regression import QuadraticRegression
from l2o.train_schedule import TrainedSchedule, train_schedule
from l2o.weights import Card, load_card, save, shipped

__all__ = [
    "ARCHITECTURES",
    "ES",
    "GAN",
    "L2ODM",
    "PES",
    "PPO",
    "SGD",
    "Adagrad",
    "Adam",
    "AlternateFamily",
    "Card",
    "Choice",
    "Config",
    "ConjugateGradient",
    "ConstantHorizon",
    "ConstantRates",
    "Controller",
    "ConvClassifier",
    "Coordinatewise",
    "Curriculum",
    "Curves",
    "Follower",
    "GaussianMixtureEM",
    "Goal",
    "GuidedPolicySearch",
    "Imitation",
    "InTurn",
    "L2OError",
    "L2OScale",
    "LeNet",
    "LearnedOptimizer",
    "MLPClassifier",
    "MLPLOpt",
    "MeasureFeatures",
    "MetaAdam",
    "MetaLoss",
    "MetaRMSprop",
    "MetaTrained",
    "Mixture",
    "ModuleTask",
    "Momentum",
    "MultitaskDigits",
    "NASCell",
    "Nesterov",
    "PaperFeatures",
    "PaperGANFeatures",
    "Plan",
    "PolicyGradient",
    "PredictedStep",
    "ProjectedClassification",
    "QuadraticRegression",
    "Quadratics",
    "RMSprop",
    "RNNprop",
    "RandomHorizon",
    "Ranks",
    "RatesInTime",
    "Recorded",
    "ReplicatedLosses",
    "RobustFeatures",
    "Schedule",
    "SelfImproving",
    "Settings",
    "SmallFC",
    "SparseClassification",
    "Stream",
    "TaskFamily",
    "Threshold",
    "TrainedSchedule",
    "TrueObjective",
    "Unrolled",
    "distill",
    "follow",
    "joined",
    "lightning_callback",
    "load",
    "load_card",
    "load_dataset",
    "load_schedule",
    "metatrain",
    "run_closure_curves",
    "run_curves",
    "run_schedule",
    "save",
    "scale_core",
    "shipped",
    "train_schedule",
]
