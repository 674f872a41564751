"""Sealed JSON: what was written comes back, and any byte that was changed is noticed."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxmini.run import sealed

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3)
    ),
    max_leaves=8,
)
CONTENT = {"step": 3, "loss": 0.25, "names": ["ü", None], "nested": {"b": 1, "a": float("nan")}}


@given(st.dictionaries(st.text(max_size=4), JSON, max_size=3))
def test_what_was_written_comes_back(tmp_path_factory, content):
    file = tmp_path_factory.mktemp("sealed") / "file.json"
    sealed.write(file, content)
    assert repr(sealed.read(file)) == repr(content)
    assert json.loads(file.read_text()).keys() == {*content, "sha256"}


def test_any_changed_byte_is_noticed(tmp_path):
    file = tmp_path / "file.json"
    sealed.write(file, CONTENT)
    intact = file.read_bytes()
    for position in range(len(intact)):
        damaged = bytearray(intact)
        damaged[position] ^= 1 << position % 8
        file.write_bytes(damaged)
        with pytest.raises(sealed.SealError, match=r"file\.json was changed"):
            sealed.read(file)
        file.write_bytes(intact[:position])
        with pytest.raises(sealed.SealError, match=r"file\.json was changed"):
            sealed.read(file)


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path, monkeypatch):
    file = tmp_path / "file.json"
    sealed.write(file, CONTENT)

    def stop(source: Path, target: Path) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", stop)
        with pytest.raises(KeyboardInterrupt):
            sealed.write(file, {"new": 1})
    assert repr(sealed.read(file)) == repr(CONTENT)
    sealed.write(file, {"new": 1})
    assert sealed.read(file) == {"new": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["file.json"]


@pytest.mark.parametrize("content", [{"a": (1, 2)}, {1: "a"}, {"a": {1}}, {"a": b"x"}])
def test_what_json_would_change_is_refused(tmp_path, content):
    with pytest.raises(TypeError, match=r"file\.json: .*use plain dicts"):
        sealed.write(tmp_path / "file.json", content)
    assert not list(tmp_path.iterdir())


def test_a_missing_file_is_missing(tmp_path):
    with pytest.raises(FileNotFoundError):
        sealed.read(tmp_path / "file.json")
