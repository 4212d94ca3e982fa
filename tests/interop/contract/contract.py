"""The control API against its own document: requests made up by schemathesis, with and without a call that lives."""

import asyncio
import hashlib
import os
import shutil
import sys
from pathlib import Path

import aiohttp

from checks import Checks, run
from deadline import stop_all, within
from meta import Meta, new_call_id
from phone import Phone
from processes import SCRATCH, Service

ALL_WITHIN = 180
SEED = 20_260_131
KEY = "patchcord_contract_0123456789"
SCOPES = '"calls:read", "calls:write", "recordings:read", "admin"'
SECONDS = {"all operations": 40, "a call that lives": 20}
# Below the 100 a second that a key may ask for.
RATE = "90/s"


class Scenario:
    def __init__(self, _readme: Path, program: Path) -> None:
        self.checks = Checks()
        self.meta = Meta()
        self.service = Service(program)
        self.phone = Phone()

    async def run(self) -> None:
        folder = SCRATCH / "contract"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        await self.meta.start()
        digest = hashlib.sha256(KEY.encode()).hexdigest()
        sections = f"""
[api]
keys = [{{ id = "contract", sha256 = "{digest}", scopes = [{SCOPES}] }}]
"""
        address = await self.service.run(self.meta.graph_url, "prompt:hold", "loop = true", sections, folder)
        self.meta.webhook_url = address + "/webhooks/whatsapp"
        await self._conforms(address, "all operations")
        call = await self._call(address)
        await self._conforms(address, "a call that lives", "--include-path-regex", "call_id", call=call)
        wrong = [line for line in self.service.lines if '"level":"ERROR"' in line or "panicked" in line]
        self.checks.check("the service logged no error", not wrong, wrong[0] if wrong else "")

    async def _conforms(self, address: str, name: str, *arguments: str, call: str | None = None) -> None:
        config = SCRATCH / "schemathesis.toml"
        text = (Path(__file__).parent / "schemathesis.toml").read_text()
        config.write_text((f'parameters = {{ "path.call_id" = "{call}" }}\n' if call else "") + text)
        command = [
            str(Path(sys.executable).parent / "schemathesis"), "--config-file", str(config), "run",
            f"{address}/openapi.json", "--header", f"Authorization: Bearer {KEY}", "--seed", str(SEED),
            # Which ids, names and places are known, what a call's state allows and what is a sound, no document can say.
            "--exclude-checks", "positive_data_acceptance", "--phases", "examples,coverage,fuzzing", "--max-time", str(SECONDS[name]),
            "--rate-limit", RATE, "--request-timeout", "10", "--warnings", "off", *arguments,
        ]
        print(f"schemathesis, {name}, seed {SEED}", flush=True)
        settings = {"NO_COLOR": "1", "SCHEMATHESIS_HOOKS": "bodies", "PYTHONPATH": str(Path(__file__).parent)}
        process = await asyncio.create_subprocess_exec(*command, cwd=SCRATCH, env={**os.environ, **settings})
        try:
            code = await within(SECONDS[name] + 30, f"schemathesis, {name}", process.wait())
        finally:
            if process.returncode is None:
                process.kill()
        self.checks.equal(f"{name}: every answer is documented, and none is a server error", code, 0)

    async def _call(self, address: str) -> str:
        """Our id of a call that has been accepted."""
        call_id = new_call_id()
        await self.meta.connect(call_id, await self.phone.offer())
        await self.phone.take_answer((await self.meta.wait_for(call_id, "pre_accept")).body["session"]["sdp"])
        await self.meta.wait_for(call_id, "accept")
        headers = {"Authorization": f"Bearer {KEY}"}
        async with aiohttp.ClientSession(headers=headers) as client:
            async with client.get(f"{address}/v1/calls?state=live") as response:
                return (await response.json())["calls"][0]["id"]

    async def clean_up(self) -> None:
        await stop_all([self.meta.stop, self.service.stop, self.phone.close])


if __name__ == "__main__":
    run("the API against its own document", Scenario, ALL_WITHIN)
