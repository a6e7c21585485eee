"""`l2o`: one subcommand a file; every option is a field of its dataclass."""

import sys
from collections.abc import Callable, Sequence
from typing import Any

import torch
import tyro
from rich.console import Console
from rich.text import Text

from l2o.cli.compare import Compare
from l2o.cli.demo import Demo
from l2o.cli.doctor import Doctor
from l2o.cli.evaluate import Evaluate
from l2o.cli.import_weights import Import
from l2o.cli.list import List
from l2o.cli.options import INTERRUPTED
from l2o.cli.push import Push
from l2o.cli.report import MakeReport
from l2o.cli.reproduce import Reproduce
from l2o.cli.train import Train
from l2o.cli.tune import Tune
from l2o.errors import ArgumentError, L2OError
from l2o.ranks import started

COMMANDS: dict[str, Callable[..., Any]] = {
    "demo": Demo,
    "train": Train,
    "evaluate": Evaluate,
    "compare": Compare,
    "tune": Tune,
    "reproduce": Reproduce,
    "report": MakeReport,
    "push": Push,
    "import": Import,
    "list": List,
    "doctor": Doctor,
}

SHARED = (Train,)
"""Those that several processes can share."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line and returns the exit status: 0, 1 after an error of the package, 130 after a signal."""
    command = tyro.extras.subcommand_cli_from_dict(
        COMMANDS,
        args=arguments,
        prog="l2o",
        description="Learning to optimize in PyTorch: meta-train optimizers, compare them honestly, use them.",
    )
    if command.threads is not None:
        torch.set_num_threads(command.threads)
    try:
        if started() > 1 and type(command) not in SHARED:
            raise ArgumentError(
                f"torchrun has started {started()} processes, and only l2o train shares its work among several; start "
                "this command without it"
            )
        return command.run()
    except L2OError as error:
        told = "; ".join([str(error), *getattr(error, "__notes__", [])])
        message = Text.assemble((type(error).__name__, "bold red"), f": {told}")  # not markup: it may quote any text
        Console(stderr=True).print(message, soft_wrap=True)
        return 1
    except KeyboardInterrupt:
        Console(stderr=True).print("interrupted")
        return INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
