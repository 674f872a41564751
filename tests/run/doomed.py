"""A run that something happens to: ``python doomed.py HOW STAGE STEP DELAY [arguments of jaxmini]``.

HOW is ``kill`` (SIGKILL to itself, DELAY seconds later), ``raise`` (an error), ``full`` (from then on no
file can grow) or ``SIGTERM`` (to itself). It happens once STEP of STAGE is done; STAGE ``start`` is at once,
``export`` the first conversion of a file.
"""

import os
import resource
import signal
import sys
import threading
from collections.abc import Callable

from jaxmini.__main__ import main
from jaxmini.run import delivery
from jaxmini.run.log import Log


def fate(how: str, delay: float) -> None:
    if how == "kill":
        threading.Timer(delay, os.kill, (os.getpid(), signal.SIGKILL)).start()
    elif how == "full":
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    elif how == "SIGTERM":
        os.kill(os.getpid(), signal.SIGTERM)
    else:
        raise RuntimeError("doomed")


def doom(happen: Callable[[], None], stage: str, step: int) -> None:
    progress, convert = Log.progress, delivery.write

    def observed_progress(log: Log, name: str, done: int, *figures: object) -> None:
        progress(log, name, done, *figures)
        if (name, done) == (stage, step):
            happen()

    def observed_convert(*arguments: object, **options: object) -> object:
        if stage == "export":
            happen()
        return convert(*arguments, **options)

    Log.progress, delivery.write = observed_progress, observed_convert
    if stage == "start":
        happen()


if __name__ == "__main__":
    how, stage, step, delay, *arguments = sys.argv[1:]
    doom(lambda: fate(how, float(delay)), stage, int(step))
    sys.exit(main(arguments))
