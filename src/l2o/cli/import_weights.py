"""`l2o import`: weights that other libraries published become weights of this one."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from rich.console import Console

from l2o import hub
from l2o.cli.options import Positional, refuse_unused
from l2o.errors import ArgumentError, WeightsError
from l2o.foreign import lv, pylo, sonnet
from l2o.optimizers.base import LearnedOptimizer
from l2o.repository import WEIGHTS
from l2o.weights import Card, save


@dataclass(frozen=True)
class Import:
    """Import weights of other libraries from .npz or safetensors files; pickles are refused.

    Example: l2o import pylo-small-fc btherien/mulo --out mulo.safetensors
    """

    format: Positional[Literal["sonnet-dm", "sonnet-rnnprop", "lv-rnnprop", "pylo-small-fc"]]
    """What the file has: L2O-DM or RNNprop with the names of Sonnet 1, RNNprop of its authors, SmallFC of PyLO."""
    file: Positional[str]
    """An .npz or safetensors file, or a repository of the Hugging Face Hub as user/name@revision."""
    out: Path
    """The weights file that is written, with its card beside it."""
    scale: float | None = None
    """Factor on the update, or largest update, which is not in the file; none takes that of the public code."""
    k: float = 5.0
    """Of sonnet-dm: constant of the preprocessing, not in the file either."""
    decays: tuple[float, ...] = pylo.MULO_DECAYS
    """Of pylo-small-fc: PyLO's momentum, rms and adafactor decays, not in the file; the default is of btherien/mulo."""
    horizon: int = 0
    """Steps that the weights were meta-trained for, if known: beyond twice as many the optimizer warns."""
    notes: str = ""
    """For the card: where the weights come from, and their license."""
    threads: int | None = None
    """Torch threads; none leaves torch's choice."""

    def run(self) -> int:
        if self.horizon < 0:
            raise ArgumentError(f"--horizon is {self.horizon}; pass the steps, or 0 if they are not known")
        path = self._path()
        rule = self._read(path)
        origin = f"Imported from {self.file} (sha256 {hashlib.sha256(path.read_bytes()).hexdigest()})."
        card = Card(method=f"imported, {self.format}", horizon=self.horizon, notes=f"{origin} {self.notes}".strip())
        card = save(rule, self.out, card)
        console, out = Console(), self.out.with_suffix(".safetensors")
        parameters = sum(leaf.numel() for leaf in rule.parameters())
        console.print(
            f"wrote {out}: {card.optimizer} with {parameters:,} meta-parameters, and its card", soft_wrap=True
        )
        return 0

    def _read(self, path: Path) -> LearnedOptimizer:
        if self.format != "sonnet-dm":
            refuse_unused(self, "k", reason="without sonnet-dm")
        if self.format != "pylo-small-fc":
            refuse_unused(self, "decays", reason="without pylo-small-fc")
        readers: dict[str, Callable[[], LearnedOptimizer]] = {
            "sonnet-dm": lambda: sonnet.read_dm(path, k=self.k, scale=self.scale),
            "sonnet-rnnprop": lambda: sonnet.read_rnnprop(path, alpha=self._scale(0.01)),
            "lv-rnnprop": lambda: lv.read_rnnprop(path, alpha=self._scale(0.1)),
            "pylo-small-fc": lambda: pylo.read_small_fc(path, decays=self.decays, scale=self._scale(0.01)),
        }
        return readers[self.format]()

    def _scale(self, published: float) -> float:
        return published if self.scale is None else self.scale

    def _path(self) -> Path:
        """The file, from the Hub if it is a repository's name and nothing here."""
        name, _, revision = self.file.partition("@")
        if Path(self.file).exists() or not hub.is_name(name):
            if Path(self.file).is_dir():
                raise WeightsError(f"{self.file} is a folder; pass the file in it")
            return Path(self.file)
        return hub.fetch_file(name, WEIGHTS, revision or None)
