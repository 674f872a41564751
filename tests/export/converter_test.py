import sys
from pathlib import Path

import pytest

from jaxmini.export import Artifact, ConversionError, converter, tflite


def run(script: str, folder: Path) -> None:
    (folder / "script.py").write_text(script)
    converter.run(folder / "script.py", folder, {"answer": 42})


def test_folder_goes_in_and_out(tmp_path: Path):
    run(
        "import json, pathlib, sys\n"
        "folder = pathlib.Path(sys.argv[1])\n"
        "options = json.loads((folder / 'options.json').read_text())\n"
        "(folder / 'model.tflite').write_text(str(options['answer']))\n",
        tmp_path,
    )
    assert (tmp_path / "model.tflite").read_text() == "42"


def test_a_crash_is_told_with_its_last_words(tmp_path: Path):
    script = "import os, sys\nprint('before the end', file=sys.stderr, flush=True)\nos.kill(os.getpid(), 11)"
    with pytest.raises(
        ConversionError,
        match=r"(?s)script.py crashed with SIGSEGV \(exit code -11\).*before the end",
    ):
        run(script, tmp_path)


def test_an_error_is_told_by_its_tail(tmp_path: Path):
    script = (
        "import sys\nfor i in range(100): print('line', i, file=sys.stderr)\nraise SystemExit(3)"
    )
    with pytest.raises(ConversionError, match=r"(?s)exit code 3.*line 99") as error:
        run(script, tmp_path)
    assert "line 50" not in str(error.value)


def test_the_script_sees_nothing_beside_itself(tmp_path: Path):
    (tmp_path / "json.py").write_text("raise RuntimeError('shadowed')")
    run("import json", tmp_path)


@pytest.mark.parametrize(
    ("module", "backend", "extra"),
    [("tensorflow", "jax2tf", "jax2tf"), ("litert_converter", "litert", "litert")],
)
def test_a_missing_package_names_the_extra(
    module: str,
    backend: str,
    extra: str,
    float_artifact: Artifact,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=rf"pip install 'jaxmini\[{extra}\]'"):
        tflite(float_artifact, tmp_path / "x.tflite", backend=backend)
