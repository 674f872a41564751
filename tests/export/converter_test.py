import errno
import re
import resource
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmini.export import Artifact, ConversionError, converter, jax2tf, litert, tflite, whole


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
        match=rf"(?s)script.py crashed with SIGSEGV \(exit code -11\), in {tmp_path}; .*before the end",
    ):
        run(script, tmp_path)


def test_an_error_is_told_by_its_tail(tmp_path: Path):
    script = (
        "import sys\nfor i in range(100): print('line', i, file=sys.stderr)\nraise SystemExit(3)"
    )
    with pytest.raises(ConversionError, match=r"(?s)exit code 3.*line 99") as error:
        run(script, tmp_path)
    assert "line 50" not in str(error.value)


@pytest.fixture
def full(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """The folder of what is temporary; no file in it can be longer than a few bytes."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8, before[1]))
    yield tmp_path
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("convert", [litert.convert, jax2tf.convert, jax2tf.convert_annotated])
def test_a_full_disk_is_that_of_the_converters_folder(convert: Callable, full: Path):
    image = jax.ShapeDtypeStruct((1, 4), np.dtype(np.float32))
    with (
        pytest.raises(OSError, match=re.escape(f"'{full}/jaxmini-")) as error,
        whole.naming(Path("workdir")),
    ):
        convert(jnp.abs, image)
    assert error.value.errno == errno.EFBIG
    assert list(full.iterdir()) == []


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
