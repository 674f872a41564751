"""Pretraining: what it is worth where labels are few.

    python -m benchmarks.pretraining --workdir runs/fashion_mnist

The config's pretrained body, fine-tuned on few labels, against the same net from scratch on the same ones.
Every cell is the accuracy on the test pictures after the last step; each side is judged by its best learning
rate, ranked on those same pictures. Stopped, it goes on where it was.
"""

import dataclasses
import statistics
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from benchmarks import page, trials
from jaxmini import recipe as recipes
from jaxmini.data import few_labels, unlabelled
from jaxmini.run import process
from jaxmini.run.report.quantity import MISSING, percent, points
from jaxmini.run.report.table import Column, Table
from jaxmini.run.stage import Contrastive, Recipe, Stage, Supervised
from jaxmini.steps import adamw

# Of AdamW: under SGD the new head learns too slowly at the rates that leave the pretrained body intact.
RATES = (1e-3, 3e-3, 1e-2, 3e-2)


@dataclasses.dataclass(frozen=True)
class Budget:
    """How many labels there are, and how long they are trained on.

    Attributes:
        labels: pictures with a label, drawn class by class.
        batch_size, epochs: of both sides.
        goal: accuracy that the pretrained side should reach.
    """

    labels: int
    batch_size: int
    epochs: float
    goal: float | None = None


# The goals are what a prototype of this net reached after longer pretraining (from scratch 81.1% and 84.1%).
BUDGETS = (Budget(600, 60, 40, goal=0.829), Budget(6000, 120, 10, goal=0.870))
# The quickstart's digits, a step or two a stage.
QUICK = ("configs/quickstart.py", ("pretrain.epochs=0.1",), (Budget(20, 16, 2),), RATES[:2])


@dataclasses.dataclass(frozen=True)
class Trial:
    """One training: a seed, a budget, a start, a learning rate."""

    seed: int
    budget: Budget
    pretrained: bool
    rate: float

    @property
    def name(self) -> str:
        """Of the stage."""
        side = "pretrained" if self.pretrained else "scratch"
        return f"{side}_{self.budget.labels}_{self.rate:g}".replace(".", "p")

    def stage(self, pretrain: Contrastive, teacher: Stage) -> Supervised:
        """The stage that does it: the teacher's net and view on few of the pretraining's pictures."""
        return Supervised(
            name=self.name,
            data=few_labels(pretrain.data.source, self.budget.labels, self.seed),
            model=teacher.model,
            start=pretrain if self.pretrained else None,
            view=teacher.view,
            optimizer=adamw(self.rate, weight_decay=0.05),
            epochs=self.budget.epochs,
            batch_size=self.budget.batch_size,
            seed=self.seed,
        )


def main(arguments: Sequence[str] | None = None) -> int:
    """Train what is missing, seed by seed, and show the table after each."""
    options = _parser().parse_args(arguments)
    process.start()
    config, overrides, budgets, rates = options.config, options.overrides, BUDGETS, RATES
    if options.quick:
        config, overrides, budgets, rates = QUICK
    recipe = recipes.load(config, overrides).recipe
    finished, accuracies = options.workdir, {}
    for seed in options.seeds:
        folder = options.folder / Path(config).stem / f"seed{seed}"
        todo = {trial.name: trial for trial in trials_of(seed, budgets, rates)}
        chain = trials.outcomes(
            stages_of(recipe, todo.values()),
            folder,
            normalization=recipe.normalization,
            finished=finished,
            taken=("pretrain",),
        )
        for outcome in chain:
            if outcome.stage.name in todo:
                accuracies[todo[outcome.stage.name]] = outcome.result.accuracy
        finished = finished or folder
        page.show(shown(accuracies, config), page.given(arguments), write=options.write)
    return 0


def trials_of(seed: int, budgets: Iterable[Budget], rates: Sequence[float]) -> list[Trial]:
    """The grid of a seed."""
    return [
        Trial(seed, budget, pretrained, rate)
        for budget in budgets
        for pretrained in (True, False)
        for rate in rates
    ]


def stages_of(recipe: Recipe, grid: Iterable[Trial]) -> list[Stage]:
    """The config's pretraining, and a stage a trial.

    Raises:
        ValueError: the config has no stage ``pretrain`` on unlabelled pictures, or no ``teacher``.
    """
    stages = {stage.name: stage for stage in recipe.stages}
    pretrain, teacher = stages.get("pretrain"), stages.get("teacher")
    if pretrain is None or teacher is None or not isinstance(pretrain.data, unlabelled):
        raise ValueError(
            "the config needs a stage 'pretrain' with data=unlabelled(...) and a stage 'teacher'; "
            f"it has {', '.join(stages)}"
        )
    return [pretrain, *(trial.stage(pretrain, teacher) for trial in grid)]


def shown(accuracies: Mapping[Trial, float], config: str) -> page.Page:
    """The page of the trials that are done."""
    seeds = sorted({trial.seed for trial in accuracies})
    rates = sorted({trial.rate for trial in accuracies})
    groups, findings = [], []
    for budget in dict.fromkeys(trial.budget for trial in accuracies):
        sides = {
            pretrained: {rate: _mean(accuracies, budget, pretrained, rate) for rate in rates}
            for pretrained in (True, False)
        }
        best = {pretrained: max(side.values()) for pretrained, side in sides.items()}
        groups.append(
            tuple(
                (
                    f"{budget.labels:,}",
                    "pretrained" if pretrained else "scratch",
                    *map(percent, side.values()),
                    percent(best[pretrained]),
                    points(best[True] - best[False]) if pretrained else MISSING,
                )
                for pretrained, side in sides.items()
            )
        )
        findings += [] if budget.goal is None else [_verdict(budget, best[True], best[False])]
    seen = f"seed {seeds[0]}" if len(seeds) == 1 else f"means of seeds {seeds}"
    return page.Page(
        name="pretraining",
        title="What pretraining is worth where labels are few",
        method=f"{page.method(__doc__)} Config: `{config}`, {seen}.",
        table=Table((*COLUMNS[:2], *_rate_columns(rates), *COLUMNS[2:]), tuple(groups)),
        findings=tuple(findings),
    )


COLUMNS = (
    Column("labels", is_quantity=True),
    Column("start"),
    Column("best", is_quantity=True),
    Column("gain, pt", is_quantity=True),
)


def _rate_columns(rates: Iterable[float]) -> tuple[Column, ...]:
    return tuple(Column(f"rate {rate:g}", is_quantity=True) for rate in rates)


def _mean(
    accuracies: Mapping[Trial, float], budget: Budget, pretrained: bool, rate: float
) -> float:
    wanted = (budget, pretrained, rate)
    return statistics.mean(
        accuracy
        for trial, accuracy in accuracies.items()
        if (trial.budget, trial.pretrained, trial.rate) == wanted
    )


def _verdict(budget: Budget, pretrained: float, scratch: float) -> str:
    reached = "reached" if pretrained >= budget.goal else "not reached"
    return (
        f"{budget.labels:,} labels: {percent(pretrained)} pretrained, {percent(scratch)} from scratch; "
        f"the goal of {percent(budget.goal)} pretrained is {reached}."
    )


def _parser() -> page.argparse.ArgumentParser:
    parser = page.parser("pretraining", __doc__.splitlines()[0])
    page.add_trials(parser, "pretraining", seeds=[0])
    return parser


if __name__ == "__main__":
    sys.exit(main())
