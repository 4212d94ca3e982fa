"""What the checks of all clients have in common."""

from collections.abc import Iterable
from pathlib import Path

from checks import Checks
from stage import CALLER, Stage


class Client:
    """A client, and the calls whose agent it is."""

    def __init__(self, readme: Path, program: Path) -> None:
        self.checks, self._stage, self._calls = Checks(), Stage(program), 0

    @property
    def service(self):
        return self._stage.service

    async def clean_up(self) -> None:
        await self._stage.stop()

    def _hears_the_caller(self, who: str, said: Iterable[str], least: int = 6) -> None:
        """Each half second the client writes the frequency that it hears; the caller's stands in so many lines at least."""
        heard = [int(line.split()[1]) for line in said if line.startswith("hears ")]
        tones = sum(abs(hertz - CALLER) <= 10 for hertz in heard)
        self.checks.check(f"  {who} hears the caller", tones >= least, f"{tones} of {len(heard)} half seconds: {heard}")
