"""`l2o push`: put weights on the Hugging Face Hub, or into a folder as they would be there."""

import tempfile
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from l2o import hub
from l2o.cli.options import Positional
from l2o.errors import ArgumentError
from l2o.optimizers.architectures import ARCHITECTURES
from l2o.schedules.architectures import SCHEDULES
from l2o.sharing.folder import write_repository
from l2o.weights import load_card


@dataclass(frozen=True)
class Push:
    """Share weights of an optimizer or a schedule as a repository of the Hugging Face Hub.

    A repository has the weights as model.safetensors, their card, config.json, and a README made from the card.

    Example: l2o push runs/mnist/weights.safetensors me/rnnprop-mnist --dry-run shared
    """

    weights: Positional[str]
    """A weights file, or the name of shipped weights."""
    name: Positional[str]
    """The repository, user/name; a new one is made."""
    private: bool = False
    """Whether a new repository is private."""
    dry_run: Path | None = None
    """A folder to write the files to; nothing is pushed, and no network is needed."""
    license: str = "apache-2.0"
    """Of the weights, an identifier of the Hub."""
    threads: int | None = None
    """Torch threads; none leaves torch's choice."""

    def run(self) -> int:
        console = Console()
        if not hub.is_name(self.name):
            raise ArgumentError(f"name is {self.name!r}; write a repository as user/name")
        if self.dry_run is not None:
            self._write(self.dry_run)
            console.print(f"wrote {self.dry_run}; l2o.load({str(self.dry_run)!r}) reads it. Nothing was pushed.")
            return 0
        with tempfile.TemporaryDirectory() as folder:
            self._write(Path(folder))
            commit = hub.push(Path(folder), self.name, private=self.private)
        call = "load_schedule" if self._kind() == "schedule" else "load"
        console.print(f"pushed commit {commit}: l2o.{call}({self.name!r}, revision={commit!r})", soft_wrap=True)
        return 0

    def _write(self, folder: Path) -> None:
        write_repository(self.weights, folder, name=self.name, kind=self._kind(), license=self.license)

    def _kind(self) -> str:
        """What the weights are; those saved before cards said so are known by their class."""
        card = load_card(self.weights)
        known = {**dict.fromkeys(ARCHITECTURES, "optimizer"), **dict.fromkeys(SCHEDULES, "schedule")}
        return card.kind or known.get(card.optimizer, "")
