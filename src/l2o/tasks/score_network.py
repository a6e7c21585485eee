"""The classifiers that generated images are scored with: small networks, trained by the project itself and shipped."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import tomli_w
import torch
from torch import Tensor
from torch.nn.functional import conv2d, linear, max_pool2d

from l2o import checkpoint
from l2o.errors import ArgumentError, CheckpointError, WeightsError
from l2o.provenance import source_commit
from l2o.trees import Tree
from l2o.weights import check_card

_KIND = "score network"
_AT_ONCE = 2_000
"""Images in one pass: bounds the memory."""


@dataclass(frozen=True, eq=False)
class ScoreNetwork:
    """A classifier of images with its weights: log-probabilities for an inception score, features for a distance.

    Args:
        data: name of the image set that it was trained on.
        image: channels, height and width of the images that it takes.
        params: `conv.<i>.weight` and `.bias` of its stages, `linear.0` of the features, `linear.1` of the classes.
        test_accuracy: on the set's test split; NaN where it was not measured.
        data_notes: which data was read.

    Example:
        >>> network = load_score_network("digits")
        >>> logs, features = network.outputs(torch.zeros(3, 1, 8, 8))
        >>> logs.shape, features.shape
        (torch.Size([3, 10]), torch.Size([3, 64]))
    """

    data: str
    image: tuple[int, int, int]
    params: Tree
    test_accuracy: float = math.nan
    data_notes: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """What every result with a score of this network names."""
        measured = f"{self.test_accuracy:.4f}" if math.isfinite(self.test_accuracy) else "not measured"
        return f"score network {self.data}, test accuracy {measured}"

    @property
    def classes(self) -> int:
        return len(self.params["linear.1.bias"])

    @torch.no_grad()
    def outputs(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """What it makes of images.

        Args:
            images: `[samples, channels, height, width]` in [0, 1], of any number type; computed in float32.

        Returns:
            Log-probabilities `[samples, classes]` and features `[samples, features]`.
        """
        if images.ndim != 4 or tuple(images.shape[1:]) != self.image:
            raise ArgumentError(
                f"images have shape {tuple(images.shape)}; the {self.name} takes [samples, "
                f"{', '.join(map(str, self.image))}]; use the network of this image set"
            )
        params = {name: leaf.to(images.device) for name, leaf in self.params.items()}
        parts = [logits_and_features(params, part) for part in images.float().split(_AT_ONCE)]
        logits, features = (torch.cat(leaves) for leaves in zip(*parts, strict=True))
        return logits.log_softmax(1), features


def save_score_network(network: ScoreNetwork, path: Path, *, training: Mapping[str, Any]) -> None:
    """Writes a network to `path` (`.safetensors`), and its card beside it (`.toml`).

    The card is inside the file too: the `.toml` is for people, and `load_score_network` checks it against the file.

    Args:
        network: the network.
        path: the file.
        training: how it was trained; anything that JSON and TOML can hold.
    """
    card = {
        "data": network.data,
        "image": list(network.image),
        "data_notes": list(network.data_notes),
        "commit": source_commit(),
        "training": dict(training),
    }
    if math.isfinite(network.test_accuracy):
        card["test_accuracy"] = network.test_accuracy
    checkpoint.write(path, network.params, card, kind=_KIND)
    checkpoint.write_bytes(path.with_suffix(".toml"), tomli_w.dumps(card).encode())


def load_score_network(source: str | Path) -> ScoreNetwork:
    """Loads a shipped network by the name of its image set, or any by the path of its `.safetensors` file.

    Raises:
        WeightsError: the file or its card is missing, truncated, altered or something else.
    """
    path = Path(source)
    if path.suffix != ".safetensors":
        folder = resources.files("l2o") / "pretrained" / "scores"
        names = sorted(entry.name for entry in folder.iterdir() if entry.name.endswith(".safetensors"))
        if f"{source}.safetensors" not in names:
            shipped = ", ".join(name.removesuffix(".safetensors") for name in names)
            raise WeightsError(
                f"no score network {str(source)!r} is shipped, but {shipped}; train one with train_score_network, or "
                "pass the path of a .safetensors file"
            )
        path = Path(str(folder / f"{source}.safetensors"))
    try:
        params, card = checkpoint.read(path, kind=_KIND)
    except CheckpointError as error:
        raise WeightsError(str(error)) from error
    check_card(path.with_suffix(".toml"), card)
    try:
        channels, height, width = card["image"]
        notes = tuple(card["data_notes"])
        return ScoreNetwork(card["data"], (channels, height, width), params, card.get("test_accuracy", math.nan), notes)
    except (KeyError, TypeError, ValueError) as error:
        raise WeightsError(f"{path} has a card of another version ({error!r}); train the network again") from error


def logits_and_features(params: Tree, images: Tensor, kept: Tensor | float = 1.0) -> tuple[Tensor, Tensor]:
    """What the network of these weights makes of images `[samples, channels, height, width]` in [0, 1].

    Args:
        params: see `ScoreNetwork`.
        images: in the weights' number type.
        kept: what the features are multiplied with before the last layer, for dropout.

    Returns:
        Logits `[samples, classes]` and features `[samples, features]`.
    """
    values, stage = 2 * images - 1, 0
    while (weight := params.get(f"conv.{stage}.weight")) is not None:
        # The maximum before the ReLU: the same numbers for a quarter of the work.
        values = torch.relu(max_pool2d(conv2d(values, weight, params[f"conv.{stage}.bias"], padding=1), 2))
        stage += 1
    features = torch.relu(linear(values.flatten(1), params["linear.0.weight"], params["linear.0.bias"]))
    return linear(features * kept, params["linear.1.weight"], params["linear.1.bias"]), features
