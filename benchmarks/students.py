"""Students: what a teacher is worth to its student, over several seeds.

    python -m benchmarks.students --workdir runs/fashion_mnist

The config's stage ``student`` (taught) against ``alone`` (the same net on labels, with the budget that the
config gives it), each with seeds 0, 1 and 2 and one teacher. Accuracy on the test pictures after the last
step. Stopped, it goes on where it was.
"""

import dataclasses
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks import page, trials
from jaxmini import recipe as recipes
from jaxmini.run import process
from jaxmini.run.report.quantity import percent, points
from jaxmini.run.report.table import Column, Row, Table
from jaxmini.run.stage import Recipe, Stage

# The quickstart's digits, a step or two a stage.
QUICK = (
    "configs/quickstart.py",
    tuple(f"{name}.epochs=0.1" for name in ("pretrain", "teacher", "alone", "student")),
)
SHARED, COMPARED = ("pretrain", "teacher"), ("alone", "student")


@dataclasses.dataclass(frozen=True)
class Pair:
    """Accuracies of one seed, 0..1: the student on labels alone, the taught one, the teacher of both."""

    seed: int
    alone: float
    student: float
    teacher: float


def main(arguments: Sequence[str] | None = None) -> int:
    """Train what is missing, seed by seed, and show the table after each."""
    options = _parser().parse_args(arguments)
    process.start()
    config, overrides = QUICK if options.quick else (options.config, options.overrides)
    recipe = recipes.load(config, overrides).recipe
    finished, pairs = options.workdir, []
    for seed in options.seeds[:1] if options.quick else options.seeds:
        folder = options.folder / Path(config).stem / f"seed{seed}"
        chain = trials.outcomes(
            seeded(recipe, seed),
            folder,
            normalization=recipe.normalization,
            finished=finished,
            taken=SHARED,
        )
        done = {outcome.stage.name: outcome.result.accuracy for outcome in chain}
        finished = finished or folder
        pairs.append(Pair(seed, done["alone"], done["student"], done["teacher"]))
        page.show(shown(pairs, config), page.given(arguments), write=options.write)
    return 0


def seeded(recipe: Recipe, seed: int) -> list[Stage]:
    """The four stages, the two that are compared with that seed.

    Raises:
        ValueError: the config lacks one of them.
    """
    stages = {stage.name: stage for stage in recipe.stages}
    if missing := {*SHARED, *COMPARED} - set(stages):
        raise ValueError(
            f"the config lacks the stages {', '.join(sorted(missing))}; it has {', '.join(stages)}"
        )
    shared, compared = ([stages[name] for name in names] for names in (SHARED, COMPARED))
    return [*shared, *(dataclasses.replace(stage, seed=seed) for stage in compared)]


def shown(pairs: Sequence[Pair], config: str) -> page.Page:
    """The page of the pairs that are done."""
    gains = [pair.student - pair.alone for pair in pairs]
    rows = [
        _row(str(pair.seed), pair.alone, pair.student, pair.student - pair.alone) for pair in pairs
    ]
    sides = [pair.alone for pair in pairs], [pair.student for pair in pairs]
    summary: list[Row] = []
    if len(pairs) > 1:
        summary = [
            _row("mean", *map(statistics.mean, (*sides, gains))),
            ("deviation", *(f"{100 * statistics.stdev(side):.2f}" for side in (*sides, gains))),
        ]
    return page.Page(
        name="students",
        title="What a teacher is worth to its student",
        method=f"{page.method(__doc__)} Config: `{config}`.",
        table=Table(COLUMNS, (tuple(rows), tuple(summary))),
        findings=(
            f"The teacher of all: {percent(pairs[0].teacher)}.",
            f"The taught student is better with {sum(gain > 0 for gain in gains)} of {len(gains)} seeds.",
        ),
    )


COLUMNS = (
    Column("seed"),
    Column("alone", is_quantity=True),
    Column("taught", is_quantity=True),
    Column("gain, pt", is_quantity=True),
)


def _row(name: str, alone: float, taught: float, gain: float) -> Row:
    return name, percent(alone), percent(taught), points(gain)


def _parser() -> page.argparse.ArgumentParser:
    parser = page.parser("students", __doc__.splitlines()[0])
    page.add_trials(parser, "students", seeds=[0, 1, 2])
    return parser


if __name__ == "__main__":
    sys.exit(main())
