"""Storage: the three files of a report, written so that a reader never meets half of one."""

import json
import os
import tempfile
from pathlib import Path

from jaxmini.run.report import codec, document, page
from jaxmini.run.report.content import Report

FORMAT = 2


def write(report: Report, folder: Path) -> None:
    """Write ``report.html``, ``report.md`` and ``report.json``; the same report, the same bytes.

    All three are made before the first is written, and each takes its place whole.
    """
    record = {"format": FORMAT, **codec.encode(report)}
    contents = {
        "report.html": page.html(report),
        "report.md": document.markdown(report),
        "report.json": json.dumps(record, indent=1, ensure_ascii=False, allow_nan=False) + "\n",
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in contents.items():
        _replace(folder / name, text.encode("utf-8"))


def read(folder: Path) -> Report:
    """The report that ``write`` put into the folder.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is of another format.
    """
    path = folder / "report.json"
    record = json.loads(path.read_text(encoding="utf-8"))
    found = record.pop("format", None)
    if found == 1:  # whose files had room for gates, and never any
        found = FORMAT
        for file in record["files"]:
            del file["gates"]
    if found != FORMAT:
        raise ValueError(
            f"{path} is of format {found!r}, this jaxmini reads format {FORMAT}; read it with the "
            "version that wrote it"
        )
    return codec.decode(Report, record)


def _replace(path: Path, content: bytes) -> None:
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)  # mkstemp makes it private; a report is to be read
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
