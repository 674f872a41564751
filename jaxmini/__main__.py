"""The command line: ``python -m jaxmini run configs/quickstart.py student.epochs=2``."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; the exit code is 0 if it did what it says, 1 if it could not, 2 for bad usage.

    A run that went to its end and failed a gate of its recipe ends with 3, its report written.
    A parity that finds other numbers in the file than the trained ones ends with 3 too.
    A run that was stopped ends with 130 (Ctrl-C) or 75 (SIGTERM); the same command continues it.
    """
    options = _parse(arguments)
    from jaxmini.run import process  # jax is imported here: `--help` should not wait for it

    try:
        process.start()
        return options.command(options)
    except process.expected_errors() as error:
        return process.fail(error)


def run(options: argparse.Namespace) -> int:
    """Run a recipe's chain to its report, continuing whatever an earlier run has finished."""
    from jaxmini import recipe
    from jaxmini.run import chain, process, together

    config = recipe.load(options.config, options.overrides)
    workdir = options.workdir or Path("runs") / config.name
    report = chain.run(
        config.recipe,
        workdir,
        title=config.text.splitlines()[0],
        command="jaxmini " + " ".join(["run", options.config, *options.overrides]),
        placement=options.placement,
        tensorboard=options.tensorboard,
        fresh=options.fresh,
    )
    passed = report is None or all(verdict.passed for verdict in report.gates)
    return together.told(0 if passed else process.GATE_FAILED)


def preview(options: argparse.Namespace) -> int:
    """Write a contact sheet of what each stage's network sees."""
    from jaxmini import recipe
    from jaxmini.data import contact_sheet, write_contact_sheet
    from jaxmini.mistake import unknown

    config = recipe.load(options.config, options.overrides)
    stages = {stage.name: stage for stage in config.recipe.stages}
    if options.stage is not None and options.stage not in stages:
        raise recipe.RecipeError(unknown("stage", options.stage, list(stages)))
    for name in stages if options.stage is None else [options.stage]:
        stage = stages[name]
        dataset = stage.data.load()
        sheet = contact_sheet(dataset.train, stage.view, labels=dataset.labels, seed=stage.seed)
        print(write_contact_sheet(options.output / f"{config.name}-{name}.png", sheet))
    return 0


def describe(options: argparse.Namespace) -> int:
    """Print what an exported file says of itself."""
    import json

    from jaxmini.export.description import describe as describe_export

    print(json.dumps(describe_export(options.file), indent=2, ensure_ascii=False))
    return 0


def benchmark(options: argparse.Namespace) -> int:
    """Print what any .tflite file costs, and how long it takes."""
    from jaxmini.evaluate.benchmark import benchmark as measure
    from jaxmini.inspection.tables import benchmark_text

    threads = (1, options.threads)
    measured = measure(options.file, threads=threads, kernels=options.kernels, runs=options.runs)
    print(benchmark_text(options.file.name, measured))
    return 0


def parity(options: argparse.Namespace) -> int:
    """Compare a .tflite file with the artifact it was made from: its numbers, answers and operators."""
    from jaxmini import export, recipe, record
    from jaxmini.evaluate.interpreter import LITERT, Kernels
    from jaxmini.evaluate.parity import file_parity
    from jaxmini.inspection.pictures import pictures_of
    from jaxmini.inspection.tables import parity_text
    from jaxmini.run import process

    if options.config_file is not None:
        recipe.imported(options.config_file)
    try:
        artifact = export.load(options.artifact)
    except record.UndefinedError as error:
        raise record.UndefinedError(f"{error}, or name that file: --config FILE") from error
    image, label, origin = pictures_of(artifact, options.artifact, options.images)
    kernels = (*LITERT, *[Kernels.MICRO] * options.micro)
    found = file_parity(artifact, options.file, image, label, kernels=kernels)
    print(parity_text(options.file.name, origin, found))
    return 0 if found.is_faithful else process.GATE_FAILED


def demo(options: argparse.Namespace) -> int:
    """Write a folder whose page runs a .tflite file in a browser, beside the interpreter's answers."""
    from jaxmini.demo import examples, folder, network, runtime, server, standing
    from jaxmini.run import process

    output = options.output or Path(f"{options.file.stem}-demo")
    folder.require_ours(output)
    shown = network.read(options.file)
    run = options.file.resolve().parent.parent  # of which a file is exports/<name>.tflite
    pictures = examples.examples(shown, run, options.pictures, options.count)
    builds = ("simd", "compat", "threads")[: 3 if options.threads else 2]
    litert = runtime.files(options.litertjs, process.cache_folder() / "litertjs", builds)
    known = standing.standing(shown.name, shown.sha256, run)
    folder.write(shown, pictures, known, litert, output)
    print(folder.told(output, pictures))
    return 0 if options.serve is None else server.serve(output, options.serve)


def micro(options: argparse.Namespace) -> int:
    """Write an int8 .tflite file as C++ for TFLite-Micro, once it has been seen to run there."""
    from jaxmini import export
    from jaxmini.inspection.tables import micro_text

    print(micro_text(export.micro(options.file, options.folder, name=options.name)))
    return 0


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command's options; overrides may stand before and after them, which argparse alone refuses."""
    parser = _parser()
    options, rest = parser.parse_known_args(arguments)
    if rest and ("overrides" not in options or any(word.startswith("-") for word in rest)):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if rest:
        options.overrides += rest
    for word in getattr(options, "overrides", ()):
        _require_no_option(word, options, parser)
    return options


def _require_no_option(
    word: str, options: argparse.Namespace, parser: argparse.ArgumentParser
) -> None:
    """Refuse an override that is an option of the command without its dashes."""
    name, equals, value = word.partition("=")
    if not equals or name not in vars(options).keys() - {"config", "overrides", "command"}:
        return
    flag = f"--{name}" if isinstance(getattr(options, name), bool) else f"--{name} {value}"
    parser.error(f"{word!r} changes no stage's field; the option is written {flag}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="jaxmini", description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    running = commands.add_parser("run", help=run.__doc__)
    _add_config(running)
    running.add_argument("--workdir", type=Path, help="the run's folder (default: runs/<config>)")
    running.add_argument(
        "--fresh", action="store_true", help="delete the folder's run and start anew"
    )
    running.add_argument("--placement", choices=("jit", "pmap"), default="jit")
    running.add_argument("--tensorboard", action="store_true", help="write TensorBoard events too")
    running.set_defaults(command=run)

    previewing = commands.add_parser("preview", help=preview.__doc__)
    _add_config(previewing)
    previewing.add_argument("--stage", help="one stage only")
    previewing.add_argument(
        "--output", type=Path, default=Path(), help="folder of the pictures (default: here)"
    )
    previewing.set_defaults(command=preview)

    describing = commands.add_parser("describe", help=describe.__doc__)
    describing.add_argument("file", type=Path, help="a file or folder exported by jaxmini")
    describing.set_defaults(command=describe)

    benchmarking = commands.add_parser("benchmark", help=benchmark.__doc__)
    benchmarking.add_argument("file", type=Path, help="a .tflite file, whoever wrote it")
    benchmarking.add_argument(
        "--threads", type=int, default=4, help="time it with 1 thread and with so many (default: 4)"
    )
    benchmarking.add_argument("--runs", type=int, default=100, help="measured runs (default: 100)")
    benchmarking.add_argument(
        "--kernels", choices=("xnnpack", "optimized", "reference"), default="xnnpack"
    )
    benchmarking.set_defaults(command=benchmark)

    comparing = commands.add_parser("parity", help=parity.__doc__)
    comparing.add_argument("artifact", type=Path, help="a run's stages/<name>/artifact")
    comparing.add_argument("file", type=Path, help="a .tflite file made from it")
    comparing.add_argument(
        "--images", type=int, default=500, help="pictures to compare on (default: 500)"
    )
    comparing.add_argument(
        "--config",
        dest="config_file",
        metavar="FILE",
        help="the config file that defines the artifact's net, where jaxmini does not",
    )
    comparing.add_argument("--micro", action="store_true", help="run it in TFLite-Micro too")
    comparing.set_defaults(command=parity)

    showing = commands.add_parser("demo", help=demo.__doc__)
    _add_demo(showing)
    showing.set_defaults(command=demo)

    writing = commands.add_parser("micro", help=micro.__doc__)
    writing.add_argument("file", type=Path, help="an int8 .tflite file")
    writing.add_argument("folder", type=Path, help="where the sources go; made if it is not there")
    writing.add_argument("--name", help="of the files and of the namespace (default: the file's)")
    writing.set_defaults(command=micro)
    return parser


def _add_demo(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", type=Path, help="a .tflite file that classifies pictures")
    parser.add_argument("--output", type=Path, help="the folder (default: <file>-demo, here)")
    parser.add_argument(
        "--pictures", type=Path, help="folder of pictures (default: the run's test split)"
    )
    parser.add_argument("--count", type=int, default=32, help="pictures at most (default: 32)")
    parser.add_argument(
        "--litertjs", type=Path, help="npm's archive of LiteRT.js, or unpacked (default: npm's)"
    )
    parser.add_argument("--threads", action="store_true", help="with the build of several threads")
    parser.add_argument(
        "--serve", type=int, nargs="?", const=8000, metavar="PORT", help="serve it (default: 8000)"
    )


def _add_config(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("config", help="a Python file with get_config() -> Recipe")
    parser.add_argument(
        "overrides", nargs="*", metavar="stage.field=value", help="changes to the recipe"
    )


if __name__ == "__main__":
    sys.exit(main())
