"""Figures 1 to 5: the policy against eight optimizers on data that nobody was trained or tuned on.

Source: Li and Malik 2017, section 5, figures 1 to 5. The Toronto Face Database is not public; AT&T faces in seven
groups of persons stand in for it in the claims, and a surrogate that is drawn at random is shown beside it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from l2o.evaluation.dots import plot_bands
from l2o.evaluation.results import Shown, Tabled
from l2o.evaluation.statistics import crossed_bootstrap
from l2o.evaluation.tables import in_words
from l2o.evaluation.verdicts import Verdict
from l2o.experiments.guided_policy_search.baselines import BASELINES
from l2o.experiments.guided_policy_search.presets import CLAIMED, FACES, Settings, family, testing
from l2o.experiments.guided_policy_search.shared import POLICY, UNROLLED, Panel, Shared, Trials
from l2o.experiments.study import Study, slug

EVERYONE = (POLICY, *BASELINES, UNROLLED)

Panels = Mapping[str, Mapping[str, Trials]]
"""Data set to optimizer to its trials."""


@dataclass(frozen=True)
class Claim:
    """A claim that is judged on the panels: in how many of them something holds.

    Args:
        claim: in a sentence.
        criterion: what must hold in a panel.
        holds: whether it does, from the panel's trials.
        panels: those that it is about.
        least: in how many of them it must hold; None for all.
    """

    claim: str
    criterion: str
    holds: Callable[[Mapping[str, Trials]], bool]
    panels: Sequence[str] = CLAIMED
    least: int | None = None

    def judge(self, panels: Panels) -> Verdict:
        """The verdict; of a claim about panels that there are not, on all there are."""
        about = [name for name in self.panels if name in panels] or list(panels)
        held = [name for name in about if self.holds(panels[name])]
        least = min(self.least or len(about), len(about))
        return Verdict(
            claim=self.claim,
            criterion=f"{self.criterion}, on at least {least} of {len(about)}: {', '.join(about)}",
            measured=", ".join(held) or "none",
            runs=sum(
                trials.losses.shape[0] * trials.losses.shape[1] for name in about for trials in panels[name].values()
            ),
            passed=len(held) >= least,
        )


def rank(panel: Mapping[str, Trials], name: str, metric: str) -> int:
    """The place of an optimizer in a panel by a metric that is to be low, 1 for the best."""
    values = {other: float(getattr(trials, metric).mean()) for other, trials in panel.items()}
    return 1 + sum(value < values[name] for value in values.values())


def steady(panel: Mapping[str, Trials]) -> bool:
    """No run of the policy diverged."""
    return not bool(panel[POLICY].diverged.any())


def _final(panel: Mapping[str, Trials], name: str) -> float:
    return float(panel[name].final.mean())


def _first(metric: str) -> Callable[[Mapping[str, Trials]], bool]:
    return lambda panel: rank(panel, POLICY, metric) == 1


def _near_best(panel: Mapping[str, Trials]) -> bool:
    return _final(panel, POLICY) <= 1.02 * min(_final(panel, name) for name in panel)


def _stays(factor: float) -> Callable[[Mapping[str, Trials]], bool]:
    def holds(panel: Mapping[str, Trials]) -> bool:
        trials = panel[POLICY]
        end = trials.every * (trials.losses.shape[2] - 1)
        return steady(panel) and float(trials.at(end).mean()) <= factor * float(trials.at(end // 2).mean())

    return holds


def _top(metric: str, places: int) -> Callable[[Mapping[str, Trials]], bool]:
    return lambda panel: rank(panel, POLICY, metric) <= places and steady(panel)


def _trouble_on_faces(panel: Mapping[str, Trials]) -> bool:
    cg = panel["conjugate gradient"]
    return bool(cg.diverged.any()) or _final(panel, "conjugate gradient") > _final(panel, "SGD")


LOWEST_AREA = "the policy's mean objective over all steps is the lowest of nine"
LOWEST_END = "the policy's mean objective over the last twentieth of the steps is the lowest of nine"

FIGURES: Mapping[str, "Figure"]


@dataclass(frozen=True)
class Figure:
    """One of the five figures.

    Args:
        title: what is varied.
        large: whether the networks are the large ones.
        batch: images in a minibatch.
        longer: whether runs are twice as long as the policy's trials.
        brief: whether a preset may show fewer of the trained policies.
        claims: of the paper first, then what our reduced presets can be held to.
    """

    title: str
    large: bool = False
    batch: int = 64
    longer: bool = False
    brief: bool = False
    claims: Sequence[Claim] = field(default=())


FIGURES = {
    "fig1": Figure(
        "the training network on other data",
        claims=[
            Claim("paper: it descends fastest on all three", LOWEST_AREA, _first("area")),
            Claim(
                "paper: it ends lowest, or nearly, on all three",
                "the policy's mean objective over the last twentieth of the steps is at most 1.02 times the lowest",
                _near_best,
            ),
            Claim(
                "reduced: it is among the three fastest",
                "the policy's mean objective over all steps is among the three lowest, and no run diverges",
                _top("area", 3),
                least=2,
            ),
        ],
    ),
    "fig2": Figure(
        "a network eight times as large",
        large=True,
        brief=True,
        claims=[
            Claim("paper: it ends lowest on all three", LOWEST_END, _first("final")),
            Claim(
                "reduced: it ends below gradient descent and momentum",
                "the policy's mean objective over the last twentieth of the steps is below both, and no run diverges",
                lambda panel: (
                    steady(panel) and _final(panel, POLICY) < min(_final(panel, "SGD"), _final(panel, "momentum"))
                ),
                least=2,
            ),
        ],
    ),
    "fig3": Figure(
        "gradients with more noise",
        batch=10,
        claims=[
            Claim("paper: it descends fastest on all three", LOWEST_AREA, _first("area")),
            Claim(
                "paper: conjugate gradient is in trouble on the faces",
                "a run of conjugate gradient diverges, or it ends above gradient descent",
                _trouble_on_faces,
                panels=(FACES,),
            ),
            Claim(
                "reduced: it is among the three fastest",
                "the policy's mean objective over all steps is among the three lowest, and no run diverges",
                _top("area", 3),
                least=2,
            ),
        ],
    ),
    "fig4": Figure(
        "a larger network and more noise",
        large=True,
        batch=10,
        brief=True,
        claims=[
            Claim("paper: it ends lowest on all three", LOWEST_END, _first("final")),
            Claim(
                "paper: the LSTM trained by gradient descent diverges",
                "one of its runs diverges",
                lambda panel: bool(panel[UNROLLED].diverged.any()),
                least=2,
            ),
            Claim(
                "reduced: it ends in the better half",
                "the policy's mean objective over the last twentieth of the steps is among the four lowest, and no run "
                "diverges",
                _top("final", 4),
                least=2,
            ),
        ],
    ),
    "fig5": Figure(
        "twice as many steps",
        large=True,
        longer=True,
        claims=[
            Claim(
                "paper: it still behaves beyond its horizon",
                "the policy's objective at the last step is at most 1.02 times that at half of the steps",
                _stays(1.02),
            ),
            Claim("paper: it ends lowest on two of three", LOWEST_END, _first("final"), least=2),
            Claim(
                "reduced: it stays where it was",
                "the policy's objective at the last step is at most 1.05 times that at half of the steps",
                _stays(1.05),
            ),
        ],
    ),
}


def run(name: str, preset: str, results: Path, work: Path) -> None:
    """Runs a figure and writes its results."""
    figure, shared = FIGURES[name], Shared(preset, results, work)
    settings = shared.settings
    study = Study.of(f"guided-policy-search/{name}", preset, results, work, settings)
    steps = settings.tried * (2 if figure.longer else 1)
    seeds = settings.policies[: settings.fewer_policies] if figure.brief else settings.policies
    panels: dict[str, dict[str, Trials]] = {}
    for data in testing(preset):
        panel = Panel(data, large=figure.large, batch=figure.batch, steps=steps, policies=len(seeds))
        panels[data] = shared.panel(EVERYONE, panel)
        _draw(study, panels[data], f"{name.replace('fig', 'Figure ')}, {figure.title}: {data}")
        study.tables.append(_table(data, panels[data], settings, shared, policies=len(seeds)))
        notes = family(preset, data, large=figure.large, batch=figure.batch).data_notes()
        study.data += [note for note in notes if note not in study.data]
    study.seconds = sum(trials.seconds for panel in panels.values() for trials in panel.values())
    study.seconds += sum(shared.history(f"policy-{seed}")["seconds"] for seed in seeds)
    study.finish(
        [claim.judge(panels) for claim in figure.claims],
        summary=f"{figure.title.capitalize()}: {steps} steps on minibatches of {figure.batch}. The policy was "
        f"meta-trained for {settings.steps} steps on {settings.tasks} starts of one network on one data set; all other "
        "constants were tuned there too.",
        seeds=seeds,
    )


def _draw(study: Study, panel: Mapping[str, Trials], title: str) -> None:
    file = f"{slug(title.partition(': ')[2])}.png"
    highest = float(panel[POLICY].losses[..., 0].mean())
    shown = {
        name: trials.band()
        for name, trials in panel.items()
        if name == POLICY or max(float(trials.area.mean()), float(trials.final.mean())) < 1.5 * highest
    }
    missing = [name for name in panel if name not in shown]
    plot_bands(
        shown,
        path=study.folder / file,
        title=title,
        xlabel="step",
        ylabel="true objective",
        xscale="linear",
        yscale="log",
        note=f"off the scale: {', '.join(missing)}" if missing else "",
    )
    study.figures.append(Shown(file, title, f"{title}: mean training objective against steps, with 95 % intervals."))


def _table(data: str, panel: Mapping[str, Trials], settings: Settings, shared: Shared, *, policies: int) -> Tabled:
    rows: list[dict[str, str | float | None]] = []
    for name, trials in sorted(panel.items(), key=lambda entry: float(entry[1].area.mean())):
        margin = np.mean([_best_other(panel, name) - trials.losses.mean((0, 1))])
        rows.append(
            {
                "optimizer": name,
                "mean over steps": in_words(crossed_bootstrap(trials.area)),
                "at the end": in_words(crossed_bootstrap(trials.final)),
                "margin": round(float(margin), 4),
                "swing": round(float(trials.swing.mean()), 3),
                "diverged": f"{int(trials.diverged.sum())} of {trials.diverged.size}",
                "gradients per run": trials.evaluations,
                "losses per run": trials.loss_evaluations,
                "constants": _constants(name, shared),
            }
        )
    return Tabled(
        data,
        rows,
        f"{settings.runs} starts each; meta-trainings of the policy: {policies}. Mean over steps and at the end "
        "(last twentieth): of the true objective, with 95 % intervals. Margin: how far the best of the others is "
        "above, mean over steps. Swing: largest ratio of a point to the lowest before. A run that diverges counts "
        "as ten times its start.",
    )


def _best_other(panel: Mapping[str, Trials], name: str) -> np.ndarray:
    """The lowest mean objective of the others at each point."""
    return np.min([trials.losses.mean((0, 1)) for other, trials in panel.items() if other != name], axis=0)


def _constants(name: str, shared: Shared) -> str:
    if name not in BASELINES:
        return "meta-trained"
    found = shared.tuned(name)
    edge = ", on the grid's edge" if found.on_edge else ""
    return f"{found.variant + ', ' if found.variant else ''}learning rate {found.rate:.4g}{edge}"
