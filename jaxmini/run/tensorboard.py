"""TensorBoard events, written by clu.

clu's writers import TensorFlow, so they are imported only when a run asks for events.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple


class Events(NamedTuple):
    """A file of events, open."""

    writer: Any

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        """Add the scalars of a step; on the disk when this returns."""
        self.writer.write_scalars(step, scalars)
        self.writer.flush()

    def close(self) -> None:
        self.writer.close()


def open_events(folder: Path) -> Events:
    """A new file of events in the folder.

    Raises:
        ImportError: clu's writers need packages that are not installed; names the extra.
    """
    try:
        from clu import metric_writers
    except ImportError as error:
        raise ImportError(
            f"TensorBoard events need {error.name}: pip install 'jaxmini[tensorboard]', "
            "or run without tensorboard"
        ) from error
    return Events(metric_writers.SummaryWriter(str(folder)))
