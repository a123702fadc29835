"""`ecr-cache-proxy serve` without ECR's rates, and with limits of time of one's own.

    python -m tests.fuzz.server FLAGS [TUNING]

Both are JSON: flags by name, as `load_settings` takes them, and fields of `Tuning`.
"""

from __future__ import annotations

import json
import logging
import sys

from proxy import app
from proxy.cli.base import run_until_signal
from proxy.config import load_settings
from proxy.upstream import Tuning


def _say(started: app.Started) -> None:
    print(f"listening on http://{started.address}, at the service of this test", flush=True)


def main() -> None:
    flags, *tunings = (json.loads(argument) for argument in sys.argv[1:])
    settings = load_settings(flags)
    logging.basicConfig(
        level=settings.log_level.upper(), format="%(asctime)s %(levelname)s %(message)s"
    )
    tuning = Tuning(rates={}, **(tunings[0] if tunings else {}))
    timing = app.Timing(tuning=tuning)
    run_until_signal(lambda stop: app.serve(settings, stop=stop, ready=_say, timing=timing))


if __name__ == "__main__":
    main()
