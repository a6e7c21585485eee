"""Trains the score networks that the package ships, and writes them with their cards to src/l2o/pretrained/scores/.

python scripts/train_score_networks.py                 all that are shipped, about a quarter of an hour
python scripts/train_score_networks.py digits mnist    these only
"""

import argparse
import time
from dataclasses import asdict
from pathlib import Path

import torch

from l2o.tasks.score_network import save_score_network
from l2o.tasks.score_training import RECIPES, train_score_network

FOLDER = Path(__file__).resolve().parents[1] / "src" / "l2o" / "pretrained" / "scores"
SHIPPED = [name for name in RECIPES if name != "cifar-10"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=SHIPPED, help=f"of {', '.join(RECIPES)}")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, default=FOLDER)
    options = parser.parse_args()
    torch.set_num_threads(1)
    for name in options.names:
        start = time.perf_counter()
        network = train_score_network(name, options.seed)
        path = options.folder / f"{name}.safetensors"
        save_score_network(network, path, training={"seed": options.seed, **asdict(RECIPES[name])})
        print(f"{network.name}: {path.stat().st_size:,} bytes, {time.perf_counter() - start:.0f} s", flush=True)


if __name__ == "__main__":
    main()
