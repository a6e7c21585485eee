"""A repository's folder from a weights file: weights, config.json, cards, and the picture of the meta-training."""

import dataclasses
from pathlib import Path

import numpy as np

from l2o import checkpoint
from l2o.errors import ArgumentError
from l2o.evaluation import figure
from l2o.evaluation.figure import End
from l2o.repository import WEIGHTS, write_config
from l2o.sharing.model_card import KINDS, model_card
from l2o.weights import Card, find, read_weights, write_card

README, PICTURE = "README.md", "curve.png"


def write_repository(
    source: str | Path, folder: Path, *, name: str, kind: str | None = None, license: str = "apache-2.0"
) -> Card:
    """Writes what is shared of weights: `model.safetensors`, its `.toml` card, `config.json`, `README.md`, the curve.

    Args:
        source: a weights file, or a name of shipped weights.
        folder: is made; what is in it under these names is replaced.
        name: of the repository, user/name.
        kind: "optimizer" or "schedule", for weights that were saved before their card said so.
        license: of the weights.

    Returns:
        The card.

    Raises:
        WeightsError: the weights are missing, damaged or foreign.
        ArgumentError: the card does not say of what kind the weights are, or the license is none.
    """
    path = find(source)
    tensors, card = read_weights(path)
    card = dataclasses.replace(card, kind=card.kind or kind or "")
    if card.kind not in KINDS:
        raise ArgumentError(f"{path} holds weights of kind {card.kind!r}; pass kind: one of {', '.join(KINDS)}")
    picture = PICTURE if len(card.curve) > 1 else None
    parameters = sum(leaf.numel() for leaf in tensors.values())
    text = model_card(card, name=name, license=license, parameters=parameters, picture=picture)
    checkpoint.write_bytes(folder / WEIGHTS, path.read_bytes())
    write_card(folder / WEIGHTS)
    write_config(folder, kind=card.kind, name=card.optimizer, config=card.config)
    checkpoint.write_bytes(folder / README, text.encode())
    (folder / PICTURE).unlink(missing_ok=True)
    if picture:
        draw_validations(card, folder / picture)
    return card


def draw_validations(card: Card, path: Path) -> None:
    """Draws the validations of a card's meta-training, the best of them marked."""
    done, values = np.asarray(card.curve, dtype=np.float64).T
    (colour, _), best = figure.look(1), int(values.argmin())
    with figure.drawing(f"Meta-training {card.optimizer}", "trajectories", "validation", path) as (axes, notes):
        notes += figure.choose_scale(axes, values, "log")
        notes += figure.frame(axes, values)
        axes.plot(done, values, color=colour, linewidth=1.6, marker="o", markersize=4.5)
        axes.plot(done[best], values[best], color=colour, marker="*", markersize=16, markeredgecolor="white", zorder=9)
        notes.append(f"star: best validation, {values[best]:.3g} after {done[best]:.0f} trajectories")
        figure.name_ends(axes, [End(done[-1], values[-1], "validation", colour)])
