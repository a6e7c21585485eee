"""Hand-designed rules: baselines, teachers and test references. Each follows `torch.optim` step for step."""

from torch import Tensor

from l2o.errors import ArgumentError
from l2o.nn import bias_correction
from l2o.optimizers.base import Config, Coordinatewise, zeros
from l2o.trees import Tree


class SGD(Coordinatewise):
    """delta = -lr g.

    Example:
        >>> import torch
        >>> SGD(0.1).update(torch.tensor([[2.0]]), {})
        (tensor([[-0.2000]]), {})
    """

    name = "SGD"

    def __init__(self, lr: float) -> None:
        super().__init__()
        self.lr = _positive("lr", lr)

    def config(self) -> Config:
        return {"lr": self.lr}

    def init_coordinates(self, tasks: int, coordinates: int, like: Tensor) -> Tree:
        return {}

    def update(self, grad: Tensor, state: Tree) -> tuple[Tensor, Tree]:
        return -self.lr * grad, state


class Momentum(Coordinatewise):
    """b = momentum b + g;  delta = -lr b.

    Example:
        >>> import torch
        >>> rule, grad = Momentum(0.1), torch.tensor([[1.0]])
        >>> first, state = rule.update(grad, rule.init_coordinates(1, 1, grad))
        >>> first, rule.update(grad, state)[0]
        (tensor([[-0.1000]]), tensor([[-0.1900]]))
    """

    name = "momentum"

    def __init__(self, lr: float, *, momentum: float = 0.9) -> None:
        super().__init__()
        self.lr, self.momentum = _positive("lr", lr), _fraction("momentum", momentum)

    def config(self) -> Config:
        return {"lr": self.lr, "momentum": self.momentum}

    def init_coordinates(self, tasks: int, coordinates: int, like: Tensor) -> Tree:
        return {"buffer": zeros(like, tasks, coordinates)}

    def update(self, grad: Tensor, state: Tree) -> tuple[Tensor, Tree]:
        buffer = self.momentum * state["buffer"] + grad
        return -self.lr * buffer, {"buffer": buffer}


class Nesterov(Coordinatewise):
    """b = momentum b + g;  delta = -lr (g + momentum b): Nesterov's momentum in torch's form.

    Example:
        >>> import torch
        >>> rule, grad = Nesterov(0.1), torch.tensor([[1.0]])
        >>> rule.update(grad, rule.init_coordinates(1, 1, grad))[0]
        tensor([[-0.1900]])
    """

    name = "Nesterov"

    def __init__(self, lr: float, *, momentum: float = 0.9) -> None:
        super().__init__()
        self.lr, self.momentum = _positive("lr", lr), _fraction("momentum", momentum)

    def config(self) -> Config:
        return {"lr": self.lr, "momentum": self.momentum}

    def init_coordinates(self, tasks: int, coordinates: int, like: Tensor) -> Tree:
        return {"buffer": zeros(like, tasks, coordinates)}

    def update(self, grad: Tensor, state: Tree) -> tuple[Tensor, Tree]:
        buffer = self.momentum * state["buffer"] + grad
        return -self.lr * (grad + self.momentum * buffer), {"buffer": buffer}


class RMSprop(Coordinatewise):
    """v = alpha v + (1 - alpha) g^2;  delta = -lr g / (sqrt(v) + eps).

    Example:
        >>> import torch
        >>> rule, grad = RMSprop(0.01, alpha=0.75), torch.tensor([[5.0]])
        >>> rule.update(grad, rule.init_coordinates(1, 1, grad))[0]
        tensor([[-0.0200]])
    """

    name = "RMSprop"

    def __init__(self, lr: float, *, alpha: float = 0.99, epsilon: float = 1e-8) -> None:
        super().__init__()
        self.lr, self.alpha, self.epsilon = _positive("lr", lr), _fraction("alpha", alpha), epsilon

    def config(self) -> Config:
        return {"lr": self.lr, "alpha": self.alpha, "epsilon": self.epsilon}

    def init_coordinates(self, tasks: int, coordinates: int, like: Tensor) -> Tree:
        return {"v": zeros(like, tasks, coordinates)}

    def update(self, grad: Tensor, state: Tree) -> tuple[Tensor, Tree]:
        v = self.alpha * state["v"] + (1 - self.alpha) * grad.square()
        return -self.lr * grad / (v.sqrt() + self.epsilon), {"v": v}


class Adam(Coordinatewise):
    """delta = -lr (m / (1 - beta1^t)) / (sqrt(v / (1 - beta2^t)) + eps)  (Kingma and Ba 2015).

    Example:
        >>> import torch
        >>> rule, grad = Adam(0.01), torch.tensor([[5.0, -0.001]])
        >>> rule.update(grad, rule.init_coordinates(1, 2, grad))[0]
        tensor([[-0.0100,  0.0100]])
    """

    name = "Adam"

    def __init__(self, lr: float, *, beta1: float = 0.9, beta2: float = 0.999, epsilon: float = 1e-8) -> None:
        super().__init__()
        self.lr, self.epsilon = _positive("lr", lr), epsilon
        self.beta1, self.beta2 = _fraction("beta1", beta1), _fraction("beta2", beta2)

    def config(self) -> Config:
        return {"lr": self.lr, "beta1": self.beta1, "beta2": self.beta2, "epsilon": self.epsilon}

    def init_coordinates(self, tasks: int, coordinates: int, like: Tensor) -> Tree:
        moments = {leaf: zeros(like, tasks, coordinates) for leaf in ("m", "v")}
        return {**moments, "step": zeros(like, tasks)}

    def update(self, grad: Tensor, state: Tree) -> tuple[Tensor, Tree]:
        step = state["step"] + 1  # [tasks]
        m = self.beta1 * state["m"] + (1 - self.beta1) * grad
        v = self.beta2 * state["v"] + (1 - self.beta2) * grad.square()
        root = (v / bias_correction(self.beta2, step)[:, None]).sqrt() + self.epsilon
        return -self.lr * (m / bias_correction(self.beta1, step)[:, None]) / root, {"m": m, "v": v, "step": step}


class Adagrad(Coordinatewise):
    """s = s + g^2;  delta = -lr g / (sqrt(s) + eps)  (Duchi et al. 2011).

    Example:
        >>> import torch
        >>> rule, grad = Adagrad(0.1), torch.tensor([[3.0]])
        >>> first, state = rule.update(grad, rule.init_coordinates(1, 1, grad))
        >>> first, rule.update(torch.tensor([[4.0]]), state)[0]
        (tensor([[-0.1000]]), tensor([[-0.0800]]))
    """

    name = "Adagrad"

    def __init__(self, lr: float, *, epsilon: float = 1e-10) -> None:
        super().__init__()
        self.lr, self.epsilon = _positive("lr", lr), epsilon

    def config(self) -> Config:
        return {"lr": self.lr, "epsilon": self.epsilon}

    def init_coordinates(self, tasks: int, coordinates: int, like: Tensor) -> Tree:
        return {"sum": zeros(like, tasks, coordinates)}

    def update(self, grad: Tensor, state: Tree) -> tuple[Tensor, Tree]:
        total = state["sum"] + grad.square()
        return -self.lr * grad / (total.sqrt() + self.epsilon), {"sum": total}


def _positive(name: str, value: float) -> float:
    if not 0 < value < float("inf"):
        raise ArgumentError(f"{name} is {value}; it must be positive and finite")
    return value


def _fraction(name: str, value: float) -> float:
    if not 0 <= value < 1:
        raise ArgumentError(f"{name} is {value}; it must lie in [0, 1)")
    return value
