"""Published collections of task families to meta-train on."""

from l2o.tasks.bowl import Bowl
from l2o.tasks.functions import BenchmarkFunction
from l2o.tasks.mixture import Mixture
from l2o.tasks.quadratic import Quadratics
from l2o.tasks.softmax_regression import SoftmaxRegression
from l2o.tasks.wrappers import NoisyGradients


def scale_core(*, trajectories_each: int = 1) -> Mixture:
    """The core of the ensemble that L2O-Scale was published with: 35 small families in four kinds, all losses >= 0.

    - quadratics |W x - y|^2 / 2 in 20, 25, 50 and 100 dimensions, and three of them with noisy gradients;
    - bowls in two dimensions, of condition 0.1, 1, 5, and 5 rotated by 45 degrees, with exact and noisy gradients;
    - softmax regression in 10, 100, 200 and 256 dimensions;
    - eight test functions in two dimensions, with exact and noisy gradients.

    All are drawn alike. The large quadratics and the other kinds of the ensemble (perceptrons, matrix multiplication,
    norms, sparse gradients, ...) are left out, and so is Michalewicz's function, which has its minimum in a box alone.
    Each trajectory has tasks of its own; the public code keeps a task for five starts.

    Args:
        trajectories_each: see `Mixture`.

    Example:
        >>> family = scale_core()
        >>> family.name, len(family.members())
        ('scale-core', 35)

    Source: Wichrowska et al. 2017 and its public code.
    """
    quadratics = {dimensions: Quadratics(dimensions, divisor=2.0) for dimensions in (20, 25, 50, 100)}
    bowls = [Bowl(0.1), Bowl(1.0), Bowl(5.0), Bowl(5.0, angle=45.0)]
    functions = [
        BenchmarkFunction.ackley(),
        BenchmarkFunction.beale(),
        BenchmarkFunction.booth(),
        BenchmarkFunction.branin(),
        BenchmarkFunction.log_sum_exp(),
        BenchmarkFunction.matyas(),
        BenchmarkFunction.rosenbrock(),
        BenchmarkFunction.styblinski_tang().raised(80.0),
    ]
    batches = {10: 100, 100: 50, 200: 20, 256: 100}
    families = [
        *quadratics.values(),
        *(NoisyGradients(quadratics[dimensions], noise) for dimensions, noise in ((20, 0.5), (50, 1.0), (100, 2.0))),
        *bowls,
        *(NoisyGradients(bowl, 0.1) for bowl in bowls),
        *(SoftmaxRegression(dimensions, batch=batch) for dimensions, batch in batches.items()),
        *functions,
        *(NoisyGradients(function, 1.0) for function in functions),
    ]
    return Mixture("scale-core", families, trajectories_each=trajectories_each)
