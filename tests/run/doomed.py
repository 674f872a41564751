"""A run that dies at a given moment: ``python doomed.py HOW STAGE STEP DELAY [arguments of jaxmini]``.

HOW is ``kill`` (SIGKILL to itself, DELAY seconds after STEP) or ``raise`` (an error in STEP). The stage
``export`` means the conversion of a file, whatever the step.
"""

import os
import signal
import sys
import threading

from jaxmini.__main__ import main
from jaxmini.run import delivery
from jaxmini.run.log import Log


def doom(how: str, stage: str, step: int, delay: float) -> None:
    def die() -> None:
        if how == "raise":
            raise RuntimeError("doomed")
        threading.Timer(delay, os.kill, (os.getpid(), signal.SIGKILL)).start()

    progress, convert = Log.progress, delivery.tflite

    def observed_progress(log, name, done, *figures):
        progress(log, name, done, *figures)
        if (name, done) == (stage, step):
            die()

    def observed_convert(*arguments, **options):
        if stage == "export":
            die()
        return convert(*arguments, **options)

    Log.progress, delivery.tflite = observed_progress, observed_convert


if __name__ == "__main__":
    how, stage, step, delay, *arguments = sys.argv[1:]
    doom(how, stage, int(step), float(delay))
    sys.exit(main(arguments))
