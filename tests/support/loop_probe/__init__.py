"""A pack for tests: how long the server's loop was kept from its work.

``GET /loop_probe/start`` begins to look every few milliseconds, ``GET /loop_probe/stop`` ends it and tells the longest delay. A delay
counts as far as this process was at work meanwhile, so a machine that gave it no time is not taken for a loop that was blocked.
"""

import asyncio
import time

from aiohttp import web
from server import PromptServer

NODE_CLASS_MAPPINGS = {}
EVERY = 0.005
_looking = []


async def _look(found):
    while True:
        wall, cpu = time.perf_counter(), time.process_time()
        await asyncio.sleep(EVERY)
        late, worked = time.perf_counter() - wall - EVERY, time.process_time() - cpu
        found.append(min(late, worked))


@PromptServer.instance.routes.get("/loop_probe/start")
async def start(request):
    found = []
    _looking.append((asyncio.ensure_future(_look(found)), found))
    return web.json_response({})


@PromptServer.instance.routes.get("/loop_probe/stop")
async def stop(request):
    task, found = _looking.pop()
    looks = len(found)
    while len(found) == looks:  # the look that is under way has seen what came last
        await asyncio.sleep(EVERY)
    task.cancel()
    return web.json_response({"longest": max(found, default=0.0), "looks": len(found)})
