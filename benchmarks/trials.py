"""Trials: stages, one outcome after the other, in a folder of their own; no files and no report.

A stage that a finished run has done already is taken over from it; a trial that was stopped goes on.
"""

import shutil
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

from jaxmini.data import Normalization, measure
from jaxmini.export.artifact import load
from jaxmini.record import digest
from jaxmini.run import sealed
from jaxmini.run.log import Log
from jaxmini.run.outcome import Outcome, Surroundings, complete
from jaxmini.run.recording import stage_record
from jaxmini.run.stage import Stage
from jaxmini.run.workdir import Workdir
from jaxmini.steps import placement


def outcomes(
    stages: Sequence[Stage],
    folder: Path,
    *,
    normalization: Normalization | None = None,
    finished: Path | None = None,
    taken: Collection[str] = (),
) -> Iterator[Outcome]:
    """Every stage's outcome, in order, as it is done; what an earlier call has done is read back.

    Args:
        stages: each after those it needs.
        folder: where they train; made if it does not exist.
        normalization: of all their networks; measured on the first stage's pictures if None.
        finished: the workdir of a run to take stages over from.
        taken: names of those stages.

    Raises:
        ValueError: the run has not finished such a stage, or with another recipe; ``folder`` is of
            other trials, or in use.
    """
    record = {"trials": {stage.name: stage_record(stage) for stage in stages}}
    with Workdir.open(folder, record) as workdir:
        normalization = normalization or measure(stages[0].data.load().train)
        around = Surroundings(workdir, Log(workdir.path), placement.jit, normalization)
        done: dict[str, Outcome] = {}
        for stage in stages:
            if finished is not None and stage.name in taken and not workdir.finished(stage.name):
                _take_over(stage, finished, around)
            done[stage.name] = complete(stage, done, around)
            yield done[stage.name]


def _take_over(stage: Stage, run: Path, around: Surroundings) -> None:
    """Copy a stage that another run has finished; it must be the same stage."""
    source = run / "stages" / stage.name
    if not (source / "finished.json").is_file():
        raise ValueError(f"{run} has not finished its stage {stage.name!r}; give a run that has")
    artifact = load(source / "artifact")
    if artifact.provenance["recipe"] != digest(stage_record(stage)):
        raise ValueError(
            f"the stage {stage.name!r} of {run} was trained with other settings than the config's; "
            "give the overrides of that run, or no --workdir"
        )
    if artifact.normalization != around.normalization:
        raise ValueError(
            f"the stage {stage.name!r} of {run} reads pixels by {artifact.normalization}, this "
            f"recipe by {around.normalization}; give a run on the same data"
        )
    folder = around.workdir.stage_folder(stage.name)
    shutil.copytree(source / "artifact", folder / "artifact", dirs_exist_ok=True)
    result = sealed.read(source / "finished.json")["result"]
    around.workdir.mark_finished(stage.name, result)
    around.log.event(f"{stage.name}: taken over from {run.name}")
