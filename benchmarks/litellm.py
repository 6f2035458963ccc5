"""What Tollhouse adds to a call through LiteLLM's proxy: `python -m benchmarks.litellm`.

Two proxies run side by side, one with Tollhouse and one without. Calls of a model that answers by itself go to both in
turn, so that both meet the same machine.
"""

import asyncio
import os
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Final

from tests.system.installation import Installation, running
from tests.system.litellm_proxy import INTEGRATION, Proxy
from tests.system.litellm_site import new_caller

_CALLS: Final = 240
_WARM_UP: Final = 60
_PLAIN: Final = """
model_list:
  - model_name: mock
    litellm_params: {model: openai/gpt-5-mini, api_key: none, mock_response: "Hello from nobody."}
"""
_MASTER: Final = "sk-" + "0123456789abcdef" * 3


async def _times_ms(proxies: dict[str, tuple[Proxy, str]], calls: int, at_once: int) -> dict[str, list[float]]:
    times: dict[str, list[float]] = {name: [] for name in proxies}

    async def one(name: str, mark: str) -> None:
        proxy, key = proxies[name]
        began_s = time.perf_counter()
        answer = await proxy.chat(key, mark, model="mock")
        times[name].append((time.perf_counter() - began_s) * 1000)
        assert answer.status == 200, answer.body

    for number in range(calls // at_once):
        for name in proxies:
            await asyncio.gather(*(one(name, f"{name}:{number}:{place}") for place in range(at_once)))
    return times


def _shown(times: dict[str, list[float]], at_once: int) -> str:
    figures = {name: statistics.quantiles(of, n=100) for name, of in times.items()}
    lines = [f"{at_once} at a time, {len(times['without'])} calls each, load {os.getloadavg()[0]:.1f}"]
    for percent in (50, 90, 99):
        plain, metered = figures["without"][percent - 1], figures["with"][percent - 1]
        lines.append(
            f"  p{percent}: {plain:7.2f} ms without, {metered:7.2f} ms with: "
            f"{metered - plain:+.2f} ms, {metered / plain:.2f} times"
        )
    return "\n".join(lines)


async def main() -> None:
    """Measure, and print the figures."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        async with running(Installation(folder)) as installation:
            installation.command("models", "import", str(INTEGRATION / "prices.yaml"))
            metered = Proxy(installation, "http://127.0.0.1:9", folder)
            (folder / "plain").mkdir()
            config = folder / "plain" / "config.yaml"
            config.write_text(_PLAIN)
            plain = replace(metered, folder=config.parent, config=config, port=metered.port + 1)
            plain.credentials = {"LITELLM_MASTER_KEY": _MASTER}
            try:
                for proxy in (metered, plain):
                    proxy.start()
                await asyncio.gather(metered.ready(), plain.ready())
                async with installation.connection().open() as channels:
                    _, key = await new_caller(channels)
                    proxies = {"without": (plain, _MASTER), "with": (metered, key)}
                    await _times_ms(proxies, _WARM_UP, 4)
                    for at_once in (1, 8):
                        print(_shown(await _times_ms(proxies, _CALLS, at_once), at_once))
            finally:
                for proxy in (metered, plain):
                    proxy.close()


if __name__ == "__main__":
    asyncio.run(main())
