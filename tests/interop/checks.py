"""What was found, a line each, and the exit code."""

import argparse
import asyncio
import sys
import time
import traceback
from pathlib import Path

from deadline import within
from processes import ROOT, SCRATCH


class Checks:
    """What was found, a line each."""

    def __init__(self) -> None:
        self.passed = self.failed = 0

    def check(self, name: str, passed: bool, detail: str = "") -> None:
        self.passed += passed
        self.failed += not passed
        print(f"{'PASS' if passed else 'FAIL'}  {name}{f'  ({detail})' if detail else ''}", flush=True)

    def equal(self, name: str, found, wanted) -> None:
        self.check(name, found == wanted, "" if found == wanted else f"found {found!r}, wanted {wanted!r}")


def run(what: str, scenario_of, seconds: float) -> None:
    """Runs the scenario that `scenario_of(readme, program)` makes, cleans up, and ends the process."""
    arguments = argparse.ArgumentParser(description=what)
    arguments.add_argument("--readme", type=Path, default=ROOT / "README.md", help="holds the agent's example")
    arguments.add_argument("--program", type=Path, default=ROOT / "target" / "debug" / "patchcord")
    given = arguments.parse_args()
    SCRATCH.mkdir(parents=True, exist_ok=True)
    sys.exit(asyncio.run(_run(scenario_of(given.readme, given.program), seconds)))


async def _run(scenario, seconds: float) -> int:
    checks = scenario.checks
    began = time.monotonic()
    try:
        await within(seconds, "all checks", scenario.run())
    except Exception as error:
        checks.check("the scenario goes on to its end", False, f"{type(error).__name__}: {error}")
        traceback.print_exc()
    finally:
        try:
            await scenario.clean_up()
        except Exception as error:
            checks.check("everything stops", False, str(error))
    if checks.failed:
        print(f"The service's last lines (all of them in {SCRATCH}):")
        print("\n".join(scenario.service.lines[-15:]))
    print(f"{checks.passed} passed, {checks.failed} failed, in {time.monotonic() - began:.0f} s")
    return 1 if checks.failed else 0
