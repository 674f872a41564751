"""Log: what a person reads, to the letter, and a file of figures that survives being killed."""

import io
import json
import math
import sys
import types

import pytest

from jaxmini.run.log import FILE, Log


class Clock:
    """Time that passes when it is told to."""

    def __init__(self) -> None:
        self.now = 1_700_000_000.0

    def __call__(self) -> float:
        return self.now


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def run(log: Log, steps, total=10, seconds=1.0, stage="student") -> None:
    for step in steps:
        log.clock.now += seconds
        log.progress(stage, step, total, {"loss": 1 / step, "accuracy": step / total}, 3120.4)


def test_lines_of_a_file(tmp_path):
    log = Log(tmp_path, io.StringIO(), Clock())
    log.event("student: 10 steps")
    run(log, range(1, 11), total=10, seconds=80)
    log.figures("student", 10, {"accuracy": 0.9})
    assert log.stream.getvalue().splitlines()[:4] == [
        "student: 10 steps",
        "student  1/10   10 %  3,120 examples/s  loss 1.000  accuracy 0.1000",
        "student  2/10   20 %  10:40 left  3,120 examples/s  loss 0.5000  accuracy 0.2000",
        "student  3/10   30 %  9:20 left  3,120 examples/s  loss 0.3333  accuracy 0.3000",
    ]
    assert log.stream.getvalue().splitlines()[-2:] == [
        "student  10/10  100 %  3,120 examples/s  loss 0.1000  accuracy 1.000",
        "student  10  test  accuracy 0.9000",
    ]


def test_a_terminal_has_one_line_that_is_written_over(tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    log = Log(tmp_path, Terminal(), Clock())
    run(log, [1, 2])
    log.event("saved")
    run(log, [10])
    log.event("done")
    assert log.stream.getvalue() == (
        "\r\x1b[Kstudent  1/10   10 %  3,120 examples/s  loss 1.000  accurac"
        "\r\x1b[Kstudent  2/10   20 %  0:08 left  3,120 examples/s  loss 0.5"
        "\r\x1b[Ksaved\n"
        "\r\x1b[Kstudent  10/10  100 %  3,120 examples/s  loss 0.1000  accur\n"
        "done\n"
    )


def test_a_line_left_open_is_ended(tmp_path):
    log = Log(tmp_path, Terminal(), Clock())
    run(log, [1])
    log.close()
    log.close()
    assert log.stream.getvalue().endswith("accuracy 0.1000\n")


def shown_steps(log: Log) -> list[int]:
    lines = log.stream.getvalue().splitlines()
    return [int(line.split()[1].split("/")[0].replace(",", "")) for line in lines]


def test_a_fast_stage_has_a_line_every_tenth_and_the_last(tmp_path):
    log = Log(tmp_path, io.StringIO(), Clock())
    run(log, range(1, 96), total=95, seconds=0.001)
    assert shown_steps(log) == [1, 11, 21, 31, 41, 51, 61, 71, 81, 91, 95]


def test_a_slow_stage_has_a_line_every_ten_seconds(tmp_path):
    log = Log(tmp_path, io.StringIO(), Clock())
    run(log, range(1, 51), total=1_000_000, seconds=1.0)
    assert shown_steps(log) == [1, 11, 21, 31, 41]


def test_every_stage_begins_with_a_line_and_its_own_pace(tmp_path):
    log = Log(tmp_path, io.StringIO(), Clock())
    run(log, [1, 10], seconds=1, stage="teacher")
    run(log, [4, 6], seconds=20, stage="student")  # resumed at step 3
    lines = log.stream.getvalue().splitlines()
    assert lines[2].startswith("student  4/10")
    assert "left" not in lines[2]
    assert "  0:40 left  " in lines[3]


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0:00"), (59.6, "1:00"), (3599, "59:59"), (7209, "2:00:09")]
)
def test_times_left(tmp_path, seconds, text):
    log = Log(tmp_path, Terminal(), Clock())
    run(log, [1, 2], total=3, seconds=seconds)
    assert f" %  {text} left  " in log.stream.getvalue()


def test_figures_are_kept_as_json_lines(tmp_path):
    log = Log(tmp_path, io.StringIO(), Clock())
    run(log, [5])
    log.figures("student", 5, {"accuracy": 0.5})
    log.figures("student", 5, {})
    log.figures("student", 5, {"accuracy": 0.75}, split="validation")
    base = {"time": 1_700_000_001.0, "stage": "student", "step": 5}
    assert [json.loads(line) for line in (tmp_path / FILE).read_text().splitlines()] == [
        {
            **base,
            "split": "train",
            "metrics": {"loss": 0.2, "accuracy": 0.5},
            "examples_per_second": 3120.4,
        },
        {**base, "split": "test", "metrics": {"accuracy": 0.5}},
        {**base, "split": "validation", "metrics": {"accuracy": 0.75}},
    ]


def test_figures_that_are_not_numbers_are_still_json(tmp_path):
    log = Log(tmp_path, io.StringIO(), Clock())
    values = {"loss": math.nan, "up": math.inf, "down": -math.inf}
    log.progress("student", 1, 2, values, math.inf)

    def refuse(name):
        raise AssertionError(f"{name} is not JSON")

    record = json.loads((tmp_path / FILE).read_text(), parse_constant=refuse)
    assert record["metrics"] == {"loss": "nan", "up": "inf", "down": "-inf"}
    curves = log.curves("student")
    assert math.isnan(curves["train loss"][1][0])
    assert curves["train down"] == ((1,), (-math.inf,))
    assert "loss nan  up inf  down -inf" in log.stream.getvalue()


def test_curves_are_by_stage_split_and_metric(tmp_path):
    log = Log(tmp_path, io.StringIO(), Clock())
    assert log.curves("student") == {}
    run(log, [1, 2], stage="student")
    run(log, [1], stage="teacher")
    log.figures("student", 2, {"accuracy": 0.5})
    assert log.curves("student") == {
        "train loss": ((1, 2), (1.0, 0.5)),
        "train accuracy": ((1, 2), (0.1, 0.2)),
        "test accuracy": ((2,), (0.5,)),
    }


def test_a_resumed_run_forgets_what_it_will_do_again(tmp_path):
    log = Log(tmp_path, io.StringIO(), Clock())
    log.truncate("student", 3)
    assert not (tmp_path / FILE).exists()
    run(log, [1, 2, 3], stage="teacher")
    run(log, [1, 2, 3, 4])
    log.figures("student", 4, {"accuracy": 0.5})
    again = Log(tmp_path, io.StringIO(), Clock())
    again.truncate("student", 2)
    assert again.curves("teacher")["train loss"][0] == (1, 2, 3)
    run(again, [3])
    assert {name: curve[0] for name, curve in again.curves("student").items()} == {
        "train loss": (1, 2, 3),
        "train accuracy": (1, 2, 3),
    }
    assert [path.name for path in tmp_path.iterdir()] == [FILE]


@pytest.mark.parametrize("torn", [1, 20, 60])
def test_a_line_torn_by_a_kill_is_dropped(tmp_path, torn):
    log = Log(tmp_path, io.StringIO(), Clock())
    run(log, [1, 2])
    content = (tmp_path / FILE).read_bytes()
    (tmp_path / FILE).write_bytes(content[:-torn])
    again = Log(tmp_path, io.StringIO(), Clock())
    run(again, [2])
    assert again.curves("student")["train loss"] == ((1, 2), (1.0, 0.5))


def test_a_spoilt_line_is_named(tmp_path):
    log = Log(tmp_path, io.StringIO(), Clock())
    run(log, [1, 2])
    lines = (tmp_path / FILE).read_text().splitlines()
    (tmp_path / FILE).write_text("\n".join([lines[0], "spoilt", lines[1]]) + "\n")
    with pytest.raises(
        ValueError, match=r"metrics.jsonl:2 is not JSON; remove that line.*'spoilt'"
    ):
        log.curves("student")


def test_the_standard_output_is_where_lines_go(tmp_path, capsys):
    Log(tmp_path).event("hello")
    assert capsys.readouterr().out == "hello\n"


def test_only_the_leading_process_speaks_and_writes(tmp_path, monkeypatch):
    monkeypatch.setattr("jaxmini.run.together.leads", lambda: False)
    log = Log(tmp_path / "new", io.StringIO(), Clock())
    run(log, [1, 10])
    log.figures("student", 10, {"accuracy": 0.5})
    log.truncate("student", 0)
    log.close()
    assert log.stream.getvalue() == ""
    assert not (tmp_path / "new").exists()


def test_tensorboard_names_its_extra_where_it_is_missing(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "clu", types.ModuleType("clu"))
    with pytest.raises(ImportError, match=r"pip install 'jaxmini\[tensorboard\]'"):
        Log(tmp_path, tensorboard=True)


def test_tensorboard_is_told_every_figure(tmp_path, monkeypatch):
    told = []

    class SummaryWriter:
        def __init__(self, folder: str) -> None:
            told.append(folder)

        def write_scalars(self, step: int, scalars: dict[str, float]) -> None:
            told.append((step, scalars))

        def flush(self) -> None:
            told.append("flush")

        def close(self) -> None:
            told.append("close")

    writers = types.SimpleNamespace(SummaryWriter=SummaryWriter)
    clu = types.SimpleNamespace(metric_writers=writers)
    monkeypatch.setitem(sys.modules, "clu", clu)
    log = Log(tmp_path, io.StringIO(), Clock(), tensorboard=True)
    log.progress("student", 1, 2, {"loss": 0.5}, 10.0)
    log.figures("student", 1, {"accuracy": 0.25})
    log.close()
    train, test = (1, {"student/train/loss": 0.5}), (1, {"student/test/accuracy": 0.25})
    assert told == [str(tmp_path / "tensorboard"), train, "flush", test, "flush", "close"]


def test_tensorboard_stays_out_of_the_way_unless_asked(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "clu", None)
    Log(tmp_path, io.StringIO(), Clock()).event("hello")
