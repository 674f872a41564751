"""Standing: what the report of the run that a file lies in says of the very file."""

from pathlib import Path
from typing import NamedTuple

from jaxmini.run.report import storage


class Standing(NamedTuple):
    """A report's figure of a file.

    Attributes:
        accuracy: on the test split, in 0..1; None where the report does not know the file.
        source: the report it is of, or why there is none.
    """

    accuracy: float | None
    source: str


def standing(name: str, sha256: str, run: Path) -> Standing:
    """What a run's report says of the file of this name and content.

    Args:
        name: of the file.
        sha256: of its content, hexadecimal.
        run: the run's folder.
    """
    try:
        report = storage.read(run)
    except FileNotFoundError:
        return Standing(None, "the file does not lie in a run")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        return Standing(None, f"the report of {run.name} cannot be read ({type(error).__name__})")
    digests = {link.name: link.digest for link in report.provenance}
    file = next((file for file in report.files if file.name == name), None)
    if file is None or not sha256.startswith(digests.get(name, "none")):
        return Standing(None, f"the report of {run.name} is not of this file")
    return Standing(file.accuracy, f"the report of {run.name}")
