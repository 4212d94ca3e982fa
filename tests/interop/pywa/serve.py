"""The bot of examples/pywa, whose Graph API is the simulator's: pywa has no option for it."""

import os
import sys

import uvicorn

sys.path.insert(0, os.environ["EXAMPLE"])
import bot  # noqa: E402

bot.wa.api._session.event_hooks["response"].append(
    lambda response: print("graph:", response.request.method, response.request.url.path, response.status_code, flush=True)
)
bot.wa.api._session.base_url = os.environ["GRAPH_URL"] + "/v26.0"
uvicorn.run(bot.app, host="127.0.0.1", port=int(os.environ["PORT"]))
