"""Benchmarks: they time fairly, compare equals, tell the truth on their pages, and run in their tiny form."""

import dataclasses
import functools
import itertools
import mmap
import os
import platform
import re
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import jax
import numpy as np
import pytest
from flax import traverse_util

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))  # benchmarks is not part of the installed package

from benchmarks import (  # noqa: E402
    accuracy,
    breakdown,
    cold_start,
    convolutions,
    cpu,
    export,
    instructions,
    latency,
    page,
    pairs,
    pareto,
    placement,
    pretraining,
    quantization,
    settings,
    step_overhead,
    students,
    trainings,
    trials,
)
from jaxmini import data, models, recipe  # noqa: E402
from jaxmini.evaluate.cost import Cost  # noqa: E402
from jaxmini.evaluate.interpreter import Kernels  # noqa: E402
from jaxmini.export import distance  # noqa: E402
from jaxmini.export.parity import Parity  # noqa: E402
from jaxmini.export.tflite import Exported  # noqa: E402
from jaxmini.models import mobilenet  # noqa: E402
from jaxmini.recipe import Supervised  # noqa: E402
from jaxmini.run.report.table import Column, Table  # noqa: E402
from jaxmini.steps import sgd  # noqa: E402
from jaxmini.steps.placement import PLACEMENTS  # noqa: E402
from tests.cpu.page_faults import LARGE, faults  # noqa: E402

MAINS = (
    accuracy,
    breakdown,
    cold_start,
    convolutions,
    cpu,
    export,
    latency,
    placement,
    pretraining,
    quantization,
    settings,
    step_overhead,
    students,
)


def tiny(name: str, *, seed: int = 0) -> Supervised:
    net = models.small_resnet(10, stem_width=4, widths=(4,), strides=(1,))
    source = data.few_labels(data.digits(test=40), 16)
    return Supervised(
        name=name, data=source, model=net, optimizer=sgd(0.05), batch_size=16, seed=seed
    )


class TestPairs:
    def test_ways_take_turns_and_warm_up_is_not_counted(self):
        called = []
        ways = {"a": lambda: called.append("a"), "b": lambda: called.append("b")}
        timings = pairs.alternate(ways, rounds=3, calls=2, warmup=1)
        assert "".join(called) == "aabbbbaa" * 2
        assert [len(t.cpu) for t in timings.values()] == [3, 3]

    def test_a_way_that_works_twice_as_long_has_twice_the_cpu_time(self):
        def work(amount):
            end = time.process_time() + amount
            while time.process_time() < end:
                pass

        timings = pairs.alternate({"one": lambda: work(0.01), "two": lambda: work(0.02)}, rounds=5)
        assert 1.8 < pairs.ratio(timings["two"].cpu, timings["one"].cpu).median < 2.2

    def test_waiting_is_wall_and_not_cpu(self):
        timing = pairs.alternate({"wait": lambda: time.sleep(0.03)}, rounds=2)["wait"]
        assert min(timing.wall) >= 0.03
        assert max(timing.cpu) < 0.02

    def test_a_ratio_is_of_rounds_and_not_of_medians(self):
        found = pairs.ratio((2.0, 4.0, 100.0), (1.0, 4.0, 4.0))
        assert found == pairs.Ratio(median=2.0, low=1.5, high=13.5)

    def test_a_machine_that_slows_down_moves_no_ratio(self):
        slower = [1.0, 2.0, 4.0, 8.0, 16.0]
        found = pairs.ratio([1.1 * seconds for seconds in slower], slower)
        assert found.low == pytest.approx(found.high) == pytest.approx(1.1)

    @pytest.mark.parametrize("wrong", [{"rounds": 1}, {"calls": 0}])
    def test_too_few_turns_are_refused(self, wrong):
        with pytest.raises(ValueError, match="alternate"):
            pairs.alternate({"a": int}, **wrong)


class TestPage:
    shown = page.Page("pairs", "Title", "Method.", Table((Column("a"),), ((("b",),),)), ("Found.",))

    def test_says_how_it_came_about_without_naming_a_host_or_a_folder(self):
        text = page.render(self.shown, ["--workdir", "/home/me/runs/x", "--folder=/tmp/y", "a.b=1"])
        assert "`python -m benchmarks.pairs --workdir x --folder=y a.b=1`" in text
        assert "/home" not in text
        assert "/tmp" not in text
        assert os.uname().nodename not in text
        assert "| b |" in text
        assert "- Found." in text
        assert "jax 0." in text

    def test_is_written_only_where_asked(self, tmp_path, monkeypatch, capsys):
        monkeypatch.setattr(page, "RESULTS", tmp_path / "results")
        page.show(self.shown, [], write=False)
        assert not (tmp_path / "results").exists()
        page.show(self.shown, [], write=True)
        assert (tmp_path / "results" / "pairs.md").read_text().startswith("# Title\n\nMethod.\n")
        assert str(tmp_path) not in capsys.readouterr().out

    def test_a_page_of_another_name_names_the_module_that_wrote_it(self):
        text = page.render(dataclasses.replace(self.shown, module="cold_start"), ["--quick"])
        assert "`python -m benchmarks.cold_start --quick`" in text

    def test_every_page_names_a_command_that_there_is(self):
        pages = [path.read_text() for path in page.RESULTS.glob("*.md")]
        modules = re.findall(r"^- command: `python -m benchmarks\.(\w+)", "\n".join(pages), re.M)
        assert len(modules) > 10
        assert {
            name for name in modules if not (ROOT / "benchmarks" / f"{name}.py").exists()
        } == set()


# The quick tests have every kind, and every placement.
STEPS = [
    pytest.param(
        kind,
        placement,
        marks=() if (number + other) % 2 else pytest.mark.slow,
        id=f"{kind.__name__}-{placement}",
    )
    for number, kind in enumerate(step_overhead.KINDS)
    for other, placement in enumerate(PLACEMENTS)
]


@pytest.mark.parametrize(("kind", "placement"), STEPS)
def test_the_step_by_hand_trains_as_jaxmini_does(kind, placement):
    """Both draw the same views of the same pictures: the losses must agree."""
    shape = dataclasses.replace(step_overhead.TINY, steps=6)
    scene = kind(shape)
    by_hand = step_overhead.by_hand(scene, shape, placement)
    placed = step_overhead.placed(scene, shape, placement)
    first, second = [(float(by_hand()), float(placed())) for _ in range(2)]
    near = 1e-3 if kind is step_overhead.int8 else 1e-4  # one tie rounded the other way
    assert first[0] == pytest.approx(first[1], rel=near)
    assert second[0] == pytest.approx(second[1], rel=near)
    assert abs(second[0] - first[0]) > 1e-3 * abs(first[0]), "nothing was trained"


NETS = (
    mobilenet.MobileNet(
        (
            mobilenet.Conv(8, stride=2),
            mobilenet.Inverted(16, 1, stride=2, kernel=0, start=3),
            mobilenet.Inverted(16, 2, kernel=5, start=3, repeats=2),
        ),
        10,
        head_features=24,
        relu6=True,
        padding="torch",
    ),
    models.small_resnet(
        10, stem_width=8, widths=(8, 16), blocks=2, zero_gamma=False, padding="torch"
    ),
    models.vit(10, patch=4, width=16, layers=2, heads=2),
)


@pytest.mark.parametrize("net", NETS, ids=lambda net: type(net).__name__)
def test_the_nets_of_pytorch_compute_what_jaxminis_do(net):
    torch = pytest.importorskip("torch")
    from benchmarks import torch_nets

    x = np.random.default_rng(0).normal(size=(4, 16, 16, 3)).astype(np.float32)
    variables = jax.jit(net.init)(jax.random.key(0), x)
    train = functools.partial(net.apply, train=True, mutable=["batch_stats"])
    expected, _ = jax.jit(train)(variables, x)
    other = torch_nets.like(net, 16)
    other.load_state_dict(torch_weights(variables["params"]), strict=False)
    found = other(torch.from_numpy(x).permute(0, 3, 1, 2)).detach().numpy()
    assert np.std(np.asarray(expected)) > 0.01
    np.testing.assert_allclose(found, np.asarray(expected), atol=1e-4)


def torch_weights(params) -> dict:
    """Linen's weights by PyTorch's names, in PyTorch's layouts."""
    import torch

    flat = {k: np.asarray(v) for k, v in traverse_util.flatten_dict(params, sep=".").items()}
    for name in [name for name in flat if ".attention.query." in name]:
        parts = [flat.pop(name.replace("query", part)) for part in ("query", "key", "value")]
        joined = np.concatenate([part.reshape(*part.shape[:-2], -1) for part in parts], -1)
        flat[name.replace("query", "qkv")] = joined
    weights = {}
    for name, value in flat.items():
        if name.endswith("out.kernel"):
            value = value.reshape(-1, value.shape[-1])
        if name.endswith("kernel"):
            value = value.transpose((3, 2, 0, 1) if value.ndim == 4 else (1, 0))
        name = re.sub(r"^block(\d)", r"blocks.\1", name)
        name = name.replace("kernel", "weight").replace("scale", "weight")
        weights[name] = torch.from_numpy(value.copy())
    return weights


class TestCpu:
    net = mobilenet.MobileNet((mobilenet.Conv(4),), 10)
    case = trainings.Case("tiny, width 4", net, trainings.supervised, xla=0.5, torch=1.0)

    def result(self, batch: int, *, own: float = 1.0, memory: int = 100) -> cpu.Result:
        def program(memory):
            return trainings.Program(dict, 1.0, memory)

        def timing(seconds):
            return pairs.Timing((seconds,) * 2, (seconds,) * 2)

        programs = {"XLA": program(100), "jaxmini": program(memory)}
        seconds = {"XLA": 5.0, "plain XLA": 4.0, "jaxmini": own, "slow": 3.0, "fast": 2.0}
        timings = {name: timing(each) for name, each in seconds.items()}
        return cpu.Result(self.case, batch, programs, timings, ("slow", "fast"))

    def test_a_case_is_judged_against_xla_and_the_best_of_pytorch(self):
        shown = cpu.shown([self.result(64)], 2)
        assert shown.findings[0] == (
            "tiny, width 4, batch 64: 0.500 of PyTorch (fast), middle half 0.500 to 0.500: "
            "bar 1.00 met; 0.250 of plain XLA, middle half 0.250 to 0.250: bar 0.50 met; "
            "the rule alone 0.200, 0.200 to 0.200."
        )

    def test_the_highest_ratio_of_memory_is_a_finding(self):
        results = [self.result(64, memory=90), self.result(128, memory=130)]
        said = "Temporary memory is at most {} times XLA's (tiny, width 4, batch {}): bar 1.20 {}."
        assert said.format("1.30", 128, "missed") in cpu.shown(results, 2).findings
        assert said.format("0.90", 64, "met") in cpu.shown(results[:1], 2).findings

    def test_time_and_memory_both_have_to_keep_their_bars(self):
        assert cpu.kept([self.result(64), self.result(128, memory=120)])
        assert not cpu.kept([self.result(64), self.result(128, memory=121)])
        assert not cpu.kept([self.result(64), self.result(128, own=2.1)])

    @pytest.mark.parametrize(("wall", "kept"), [(2.2, True), (2.4, False)])
    def test_wall_time_may_stand_a_little_above_the_bar(self, wall, kept):
        result = self.result(64, own=2.0)
        result.timings["jaxmini"] = pairs.Timing((2.0,) * 2, (wall,) * 2)
        assert cpu.kept([result]) is kept
        missed = "tiny, width 4, batch 64: wall time is 1.200 of PyTorch's: bar and 0.15 missed."
        assert (missed in cpu.shown([result], 2).findings) is not kept


# What XLA writes: a fusion's parts stand above what runs it.
PROGRAM = re.sub(
    r"@(\S+)",
    r'metadata={op_name="jit(step)/\1" stack_frame_id=3}',
    """HloModule jit_step, is_scheduled=true

%fused_computation.1 (param_0: f32[8,4]) -> f32[4] {
  %param_0 = f32[8,4]{1,0} parameter(0)
  %dot.9 = f32[8,4]{1,0} dot(%param_0, %param_0), @jvp(N)/conv_general_dilated.dense.pointwise/dot_general
  ROOT %sum.9 = f32[4]{0} reduce(%dot.9, %c), @jvp(Net)/bn/reduce_sum
}

%fused_computation.2 (param_0.1: f32[8]) -> f32[8] {
  %param_0.1 = f32[8]{0} parameter(0)
  %square.9 = f32[8]{0} multiply(%param_0.1, %param_0.1), @square
  ROOT %window.9 = f32[2]{0} reduce-window(%square.9, %c), to_apply=%region_1
}

%fused_computation.3 (param_0.2: f32[8,4]) -> f32[4,8] {
  %param_0.2 = f32[8,4]{1,0} parameter(0)
  ROOT %turned.9 = f32[4,8]{1,0} transpose(%param_0.2), dimensions={1,0}
}

ENTRY %main.7 (state_step.1: s32[], /*index=1*/state_key.2: u32[2]) -> (s32[], f32[8]) {
  %ynn_fusion = f32[4]{0} fusion(%a), kind=kCustom, calls=%fused_computation.1, @jvp(Net)/bn/reduce_sum
  %ynn_fusion.1 = f32[2]{0} fusion(%a), kind=kCustom, calls=%fused_computation.2
  %turned_fusion = f32[4,8]{1,0} fusion(%a), kind=kLoop, calls=%fused_computation.3
  %while.3 = (s32[], /*index=1*/(f32[8], f32[4])) while(%tuple.2), body=%b, @jvp(Net)/while
  %dot.5 = f32[1,8]{1,0} dot(%a, %a), lhs_contracting_dims={0}
  %bitcast.6 = f32[8]{0} bitcast(%dot.5), @transpose(jvp(N))/conv_general_dilated.dense.pointwise/dot
  %add.7 = f32[8]{0} add(%dot.5, %dot.5), @add
  ROOT %tanh.4 = f32[8]{0} tanh(%a), @jvp(Net)/tanh
}
""",
)


def instruction(name: str, *inside: str) -> instructions.Instruction:
    return instructions.Instruction("fusion", name, frozenset(inside or ("add",)))


class TestBreakdown:
    @pytest.mark.parametrize(
        ("name", "inside", "kind"),
        [
            (
                "jvp(Net)/a/conv_general_dilated.winograd.forward/add",
                "add",
                "convolutions, forward",
            ),
            ("jvp(Net)/a/conv_general_dilated.dense.pointwise/t", "copy", "convolutions, forward"),
            ("transpose(jvp(Net))/a/conv_general_dilated", "copy", "convolutions, backward"),
            ("transpose(jvp(Net))/a/transpose", "convolution", "convolutions, backward"),
            ("add", "convolution", "convolutions, backward"),
            ("jvp(Net)/head/dot_general", "custom-call", "matrix products"),
            ("transpose(jvp(Net))/head/transpose", "dot", "matrix products"),
            ("jvp(Net)/norm1/dot", "dot", "matrix products"),
            ("jvp(Net)/block0/norm1/mul", "multiply", "norms"),
            ("transpose(jvp(Net))/stem/bn/reduce_sum", "reduce", "norms"),
            ("jvp(Net)/BatchNorm_0/mul", "broadcast", "norms"),
            ("jvp(Net)/normal/tanh", "tanh", "elementwise"),
            ("transpose(jvp(Net))/relu/select_n", "select", "elementwise"),
            ("mul", "multiply", "optimizer"),
            ("jit(clip)/max", "maximum", "optimizer"),
            ("jvp(Net)/attention/transpose", "transpose", "copies"),
        ],
    )
    def test_an_instruction_is_of_what_its_name_and_what_is_in_it_say(self, name, inside, kind):
        assert instruction(f"jit(step)/{name}", inside, "parameter").kind == kind

    def test_without_a_name_it_is_a_copy_or_unknown(self):
        assert instruction("", "copy").kind == "copies"
        assert instruction("state.params['a']", "bitcast", "transpose").kind == "copies"
        assert instruction("", "add").kind == "unknown"

    def test_a_convolution_has_the_name_of_its_formulation(self):
        ours = instruction("jit(step)/jvp(Net)/conv_general_dilated.winograd.forward/while/add")
        assert ours.formulation == "winograd.forward"
        assert instruction("jit(step)/conv_general_dilated").formulation == "XLA's own"

    def test_what_has_no_name_is_called_as_what_is_in_it_and_a_product_as_what_reads_it(self):
        known = instructions.instructions(PROGRAM)
        found = {name: each.kind for name, each in known.items() if name[-2:] != ".9"}
        assert found == {
            **dict.fromkeys(("param_0", "param_0.1", "param_0.2", "turned_fusion"), "copies"),
            "ynn_fusion": "convolutions, forward",
            "ynn_fusion.1": "optimizer",
            "while.3": "elementwise",
            **dict.fromkeys(("dot.5", "bitcast.6"), "convolutions, backward"),
            "add.7": "optimizer",
            "tanh.4": "elementwise",
        }

    def test_shares_are_of_the_instructions_that_ran_and_not_of_what_runs_them(self):
        known = instructions.instructions(PROGRAM)
        timed = {"ynn_fusion": 6.0, "while.3": 50.0, "tanh.4": 2.0, "block_until_ready": 70.0}
        result = breakdown.Result("tiny", 8.0, breakdown.told(known, timed, 2))
        assert result.seconds == 4.0
        assert result.shares(lambda each: each.kind) == {
            "convolutions, forward": 0.75,
            "elementwise": 0.25,
        }
        shown = breakdown.shown([result], 2)
        assert shown.table.rows[0][1:6] == ("8000 ms", "4000 ms", "0.50", "75.0%", "0.0%")
        assert shown.findings == ("tiny, convolutions by formulation: dense.pointwise 75.0%.",)

    def test_a_profiler_that_tells_of_no_instruction_is_an_error(self):
        with pytest.raises(RuntimeError, match="1 events and of none of the program's"):
            breakdown.told(instructions.instructions(PROGRAM), {"block_until_ready": 1.0}, 2)


class TestAccuracy:
    net = accuracy.Net("tiny", None, None, {accuracy.PTQ: 0.6, accuracy.QAT: 0.3})
    images = accuracy.Pictures("digits", None, None, 1, 1)

    def result(self, ptq: float, qat: float) -> accuracy.Result:
        reached = {accuracy.FLOAT: 0.9, accuracy.PTQ: ptq, accuracy.QAT: qat}
        return accuracy.Result(self.net, "digits", 100, reached, dict.fromkeys(reached, 400))

    def test_every_bar_has_to_be_kept(self):
        met, missed = self.result(0.895, 0.9), self.result(0.895, 0.89)
        assert accuracy.kept([met])
        assert not accuracy.kept([met, missed])
        said = [finding.rpartition(" ")[2] for finding in accuracy.shown([missed]).findings]
        assert said == ["met.", "met."]
        assert "NOT met" in accuracy.shown([missed]).findings[1]

    def test_the_collapse_has_to_be_reproduced(self):
        net = accuracy.Net("tiny", None, None, {accuracy.EQUALIZED: 1.0})
        ways = (accuracy.FLOAT, accuracy.PER_TENSOR, accuracy.SPREAD, accuracy.EQUALIZED)
        for reached, is_kept in ((0.3, True), (0.8, False)):
            every = {**dict.fromkeys(ways, 0.9), accuracy.SPREAD_PER_TENSOR: reached}
            result = accuracy.Result(net, "digits", 100, every, dict.fromkeys(every, 400))
            assert accuracy.kept([result]) == is_kept
            said = accuracy.shown([result]).findings[-1]
            assert ("collapse reproduced" in said, "NOT reproduced" in said) == (
                is_kept,
                not is_kept,
            )

    @pytest.mark.parametrize(
        ("qat", "options", "code"), [(0.9, [], 0), (0.8, [], 1), (0.8, ["--quick"], 0)]
    )
    def test_a_bar_that_is_not_met_ends_with_1(self, qat, options, code, monkeypatch, capsys):
        for name, value in (
            ("tiny", ((self.net, self.images),)),
            ("nets", (self.net,)),
            ("pictures", (self.images,)),
            ("recipe", None),
            ("result", self.result(0.9, qat)),
        ):
            monkeypatch.setattr(accuracy, name, lambda *_, value=value: value)
        monkeypatch.setattr(accuracy.chain, "run", lambda *_, **__: None)
        monkeypatch.setattr(accuracy.process, "start", lambda: None)
        assert accuracy.main(options) == code


class TestPareto:
    small = (
        pareto.File("A", "float32", 1.0, 400),
        pareto.File("A", "int8", 0.5, 100),
        pareto.File("B", "float32", 0.4, 800),
        pareto.File("B", "int8", 0.5, 200),
    )
    large = (pareto.File("C", "float32", 9.0, 1200), pareto.File("C", "int8", 12.0, 300))

    def test_the_front_is_what_no_file_beats_in_both(self):
        assert [str(file) for file in pareto.front(self.small)] == ["B float32", "A int8"]
        assert pareto.front(self.large) == self.large
        assert pareto.front([]) == ()

    def test_names_of_dots_that_lie_together_do_not(self):
        dots = [(100.0 + i, 100.0 + i % 3) for i in range(8)]
        named = [(f"a net of number {i}", dot) for i, dot in enumerate(dots)]
        boxes = pareto.boxes(dots, named, (0, 0, 310, 290))
        pairs = itertools.combinations(boxes, 2)
        assert not any(first.overlaps(second) for first, second in pairs)
        assert all(box.is_within(pareto.Box(0, 0, 310, 290)) for box in boxes)

    def test_it_is_told_in_a_sentence(self):
        assert pareto.says("8 px", self.small) == (
            "8 px: 2 of 4 files are on the front, where none is both smaller and faster: "
            "B float32 (0.400 ms, 800 B), A int8 (0.500 ms, 100 B)."
        )

    def test_the_picture_names_every_net_in_the_panel_of_its_pictures(self):
        picture = ElementTree.fromstring(pareto.draw({"8 px": self.small, "16 px": self.large}))
        written = [text.text for text in picture.iter("{http://www.w3.org/2000/svg}text")]
        assert {"8 px", "16 px", "A", "B", "C", "float32", "int8"} <= set(written)
        assert "B float32 (0.400 ms, 800 B)" in picture[1].text
        paths = picture.iter("{http://www.w3.org/2000/svg}path")
        assert sum("stroke-dasharray" in path.get("style", "") for path in paths) == 3

    def test_names_cover_no_dot_and_no_other_name(self):
        dots = [(40.0, 40.0), (75.0, 36.0), (110.0, 60.0), (290.0, 62.0)]
        named = list(
            zip(("MobileNetV4-Conv-S", "MobileNetV2", "A", "ResNet-18"), dots, strict=True)
        )
        found = pareto.boxes(dots, named, (0, 0, 300, 200))
        whole = pareto.Box(0, 0, 300, 200)
        around = [pareto.Box(x - 3, y - 3, x + 3, y + 3) for x, y in dots]
        for index, box in enumerate(found):
            assert box.is_within(whole)
            assert not any(map(box.overlaps, (*around, *found[:index])))

    def test_a_name_without_room_is_written_all_the_same(self):
        (box,) = pareto.boxes([(5.0, 5.0)], [("a long name", (5.0, 5.0))], (0, 0, 10, 10))
        assert box.right - box.left > 50

    @pytest.mark.parametrize("alone", [small[:2], large])
    def test_one_panel_with_one_net_is_drawn(self, alone):
        assert pareto.draw({"8 px": alone}).startswith("<svg")


class TestExport:
    def found(self, name: str, side: int) -> export.Found:
        apart = distance.compare(np.zeros((1, 2), int), np.zeros((1, 2), int))

        def exported(variant, backend, size, parity=None) -> Exported:
            return Exported(Path("a"), variant, backend, size, "0" * 64, {"ADD": 1}, parity)

        def integers(backend) -> export.Integers:
            file = exported("int8", backend, 100, Parity(groups=1))
            kernels = dict.fromkeys((Kernels.XNNPACK, Kernels.REFERENCE), apart)
            return export.Integers(file, 3.0, 0, 30, kernels)

        return export.Found(
            export.Case(name, NETS[0], side),
            price=Cost(10, 0, 20),
            floats=exported("float32", "litert", 400),
            peak=120,
            integers={backend: integers(backend) for backend in ("litert", "jax2tf")},
            milliseconds={"float32": 2.0, "int8": 1.0},
        )

    def test_the_page_has_a_panel_for_each_size_of_pictures(self, tmp_path, monkeypatch):
        options = export._parser().parse_args([])
        shown = export.shown([self.found("A", 224), self.found("B", 96)], options)
        assert list(export.by_side([self.found("A", 224), self.found("B", 96)])) == [
            "96 px",
            "224 px",
        ]
        assert "224 px: 1 of 2 files are on the front" in shown.findings[-1]
        monkeypatch.setattr(page, "RESULTS", tmp_path)
        page.show(shown, [], write=True)
        (embedded,) = re.findall(r"!\[.+\]\((.+)\)", (tmp_path / "export.md").read_text())
        ElementTree.fromstring((tmp_path / embedded).read_text())


class TestTrials:
    def test_a_finished_stage_is_read_back_and_another_run_takes_it_over(self, tmp_path, capsys):
        first, second = (tiny("a"),), (tiny("a"), tiny("b", seed=1))
        (made,) = trials.outcomes(first, tmp_path / "first")
        (again,) = trials.outcomes(first, tmp_path / "first")
        assert "a: finished by an earlier run" in capsys.readouterr().out
        taken, trained = trials.outcomes(
            second, tmp_path / "second", finished=tmp_path / "first", taken=("a",)
        )
        prints = {outcome.artifact.fingerprint() for outcome in (made, again, taken)}
        assert len(prints) == 1
        assert trained.artifact.fingerprint() not in prints
        assert "a: taken over from first" in capsys.readouterr().out

    def test_a_stage_of_other_settings_or_one_not_finished_is_refused(self, tmp_path):
        list(trials.outcomes((tiny("a"),), tmp_path / "run"))
        for stage, message in ((tiny("a", seed=1), "other settings"), (tiny("b"), "not finished")):
            chain = trials.outcomes(
                (stage,), tmp_path / stage.name, finished=tmp_path / "run", taken=("a", "b")
            )
            with pytest.raises(ValueError, match=message):
                list(chain)


class TestPretraining:
    def test_the_grid_has_two_sides_of_equal_budgets(self):
        config = recipe.load(ROOT / "configs/fashion_mnist.py").recipe
        grid = pretraining.trials_of(3, pretraining.BUDGETS, pretraining.RATES)
        pretrain, *stages = pretraining.stages_of(config, grid)
        assert len(stages) == len({stage.name for stage in stages}) == 16
        for trial, stage in zip(grid, stages, strict=True):
            assert stage.start == (pretrain if trial.pretrained else None)
            assert (stage.seed, stage.data.seed, stage.data.n) == (3, 3, trial.budget.labels)
            assert stage.optimizer.learning_rate == trial.rate

    def test_each_side_is_judged_by_its_best_mean(self):
        budget = pretraining.Budget(600, 60, 40, goal=0.8)
        cells = {
            (0, True, 0.1): 0.9,
            (1, True, 0.1): 0.7,
            (0, True, 0.2): 0.85,
            (1, True, 0.2): 0.79,
            (0, False, 0.1): 0.5,
            (1, False, 0.1): 0.7,
            (0, False, 0.2): 0.4,
            (1, False, 0.2): 0.4,
        }
        found = {pretraining.Trial(s, budget, p, r): a for (s, p, r), a in cells.items()}
        shown = pretraining.shown(found, "x.py")
        assert shown.table.groups[0] == (
            ("600", "pretrained", "80.00%", "82.00%", "82.00%", "+22.00"),
            ("600", "scratch", "60.00%", "40.00%", "60.00%", "–"),
        )
        assert "goal of 80.00% pretrained is reached" in shown.findings[0]


class TestStudents:
    def test_only_the_compared_stages_get_the_seed(self):
        config = recipe.load(ROOT / "configs/fashion_mnist.py").recipe
        seeds = {stage.name: stage.seed for stage in students.seeded(config, 2)}
        assert seeds == {"pretrain": 0, "teacher": 0, "alone": 2, "student": 2}

    def test_the_page_has_mean_and_deviation(self):
        shown = students.shown(
            [students.Pair(0, 0.90, 0.92, 0.93), students.Pair(1, 0.92, 0.92, 0.93)], "x.py"
        )
        assert shown.table.groups[1] == (
            ("mean", "91.00%", "92.00%", "+1.00"),
            ("deviation", "1.41", "0.00", "1.41"),
        )
        assert "better with 1 of 2 seeds" in shown.findings[1]


class TestColdStart:
    def test_what_was_spent_is_cut_at_the_moments_of_the_workdir(self, tmp_path):
        (tmp_path / "metrics.jsonl").write_text('{"time": 103.0, "step": 1}\n')
        for name, end in (("a", 104.0), ("b", 108.0)):
            file = tmp_path / "stages" / name / "finished.json"
            file.parent.mkdir(parents=True)
            file.touch()
            os.utime(file, (end, end))
        used = [cold_start.Spent(float(s), 2.0 * s) for s in range(11)]
        found = cold_start.spent(tmp_path, ("a", "b"), 100.0, used)
        assert {name: (each.wall, each.cpu) for name, each in found.items()} == {
            "first finished step": (3.0, 6.0),
            "a": (4.0, 8.0),
            "b": (4.0, 8.0),
            "files and report": (2.0, 4.0),
            "whole": (10.0, 20.0),
        }

    def test_a_run_that_fails_says_why(self, tmp_path):
        with pytest.raises(RuntimeError, match="no stage 'pretrian'"):
            cold_start.timed(
                str(ROOT / "configs/quickstart.py"), ["pretrian.epochs=1"], ("pretrain",), tmp_path
            )

    def runs(self, own: float, plain: float) -> cold_start.Runs:
        walls = {cold_start.COLD: own, cold_start.WARM: 1.0, cold_start.PLAIN: plain}
        return {kind: [{"whole": cold_start.Spent(w, w)}] for kind, w in walls.items()}

    @pytest.mark.parametrize(
        ("own", "form", "code", "said"),
        [
            (1.004, ["--full"], 1, "as it is, takes 1.004 of the wall time"),
            (1.0, ["--full"], 0, "convolutions: bar 1.00 met."),
            (1.01, ["--full"], 1, "convolutions: bar 1.00 missed."),
            (1.01, ["--full", "--quick"], 0, "bar 1.00 missed."),
            (1.01, [], 0, "cut short, takes 1.010 of the wall time"),
        ],
    )
    def test_the_recipe_as_it_is_has_a_bar(self, own, form, code, said, monkeypatch, capsys):
        def timed(config, overrides, stages, cache, variables):
            kind = next(kind for kind, value in cold_start.KINDS.items() if value == variables)
            return self.runs(own, 1.0)[kind][0]

        monkeypatch.setattr(cold_start, "timed", timed)
        config = ["--config", str(ROOT / "configs/quickstart.py")]
        assert cold_start.main([*config, *form]) == code
        assert said in capsys.readouterr().out

    @pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the variables are glibc's")
    def test_the_side_without_the_rule_keeps_freed_memory_of_any_size(self):
        """Blocks of more than 2 GiB too, as ``jaxmini.cpu.keep_freed_memory`` does."""
        kept = faults(LARGE, variables=cold_start.KEEP_FREED_MEMORY)
        returned = faults(LARGE)
        assert kept < 160 < returned


def held(size: int) -> np.ndarray:
    """So many bytes of memory of its own, each page of it touched; given back as soon as it is not needed."""
    area = np.frombuffer(mmap.mmap(-1, size), np.uint8)
    area[:: mmap.PAGESIZE] = 1
    return area


class TestSpent:
    SIZE = 2**26

    def work(self) -> None:
        kept = held(self.SIZE)
        time.sleep(4 * quantization.EVERY)
        assert kept[0] == 1

    def test_memory_is_what_the_work_itself_held(self):
        held(4 * self.SIZE)  # before: a mark that no measure may take for the work's own
        memory = quantization.spent(self.work)["memory"]
        assert 0.9 * self.SIZE < memory < 1.5 * self.SIZE

    def test_memory_held_before_is_not_counted(self):
        before = held(self.SIZE)
        memory = quantization.spent(lambda: time.sleep(2 * quantization.EVERY))["memory"]
        assert memory < 0.5 * self.SIZE
        assert before[0] == 1

    def test_a_process_that_the_work_starts_is_counted_with_it(self):
        script = f"import time; kept = bytearray(b'x') * {self.SIZE}; time.sleep(0.5)"

        def work() -> None:
            kept = held(self.SIZE)
            subprocess.run([sys.executable, "-c", script], check=True)
            assert kept[0] == 1

        memory = quantization.spent(work)["memory"]
        assert 1.9 * self.SIZE < memory < 2.6 * self.SIZE

    def test_looking_is_no_cpu_of_the_work(self, monkeypatch):
        def slow(process: object) -> int:
            end = time.thread_time() + 0.1
            while time.thread_time() < end:
                pass
            return 0

        monkeypatch.setattr(quantization, "_resident", slow)
        assert quantization.spent(lambda: time.sleep(0.4))["cpu"] < 0.1


@pytest.mark.parametrize("module", MAINS, ids=lambda module: module.__name__)
def test_every_benchmark_explains_itself(module, capsys):
    with pytest.raises(SystemExit) as ended:
        module.main(["--help"])
    assert ended.value.code == 0
    shown = capsys.readouterr().out
    assert f"python -m {module.__name__}" in shown
    assert "--write" in shown


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("step_overhead", "supervised, 8 px, tiny  jaxmini, pmap"),
        ("cpu", "int8, tiny, batch 8:"),
        ("convolutions", "1x1 stride 1, 32 px, 16 to 96  forward"),
        ("settings", "freed memory kept"),
        ("breakdown", "supervised, tiny, batch 8"),
        ("placement", "contrastive  pmap"),
        ("export", "1 of 1 nets hold no float operator"),
        ("quantization", "conversion, small ResNet, 16 px  litert"),
        ("latency", "int8 .tflite, LiteRT"),
        ("students", "The taught student is better"),
        ("pretraining", "pretrained"),
        ("accuracy", "QAT is "),
    ],
)
def test_every_benchmark_runs_in_its_tiny_form(name, expected, tmp_path):
    folder = ["--folder", str(tmp_path)] if name in ("accuracy", "students", "pretraining") else []
    one_device = os.environ | {
        "XLA_FLAGS": "",
        "JAX_COMPILATION_CACHE_DIR": str(ROOT / ".cache" / "jax"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    run = subprocess.run(
        [sys.executable, "-m", f"benchmarks.{name}", "--quick", *folder],
        cwd=ROOT,
        env=one_device,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    assert expected in run.stdout
