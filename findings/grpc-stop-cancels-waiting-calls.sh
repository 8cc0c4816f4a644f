#!/usr/bin/env bash
# grpcio 1.85.1: grpc.aio's Server.stop(grace=10) answers the calls that a handler has, and cancels those that have
# arrived and wait for the event loop: their callers get CANCELLED, as if they had cancelled themselves, although there
# was time for all. See https://github.com/grpc/grpc/issues/41785.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check grpcio==1.85.1

cat > "$work/ask.py" <<'PY'
import sys
from collections import Counter

import grpc

with grpc.insecure_channel(sys.argv[1]) as channel:
    ask = channel.unary_unary("/some.Service/Method")
    ask(b"connect", timeout=30)
    print("connected", flush=True)
    calls = [ask.future(b"work", timeout=30) for _ in range(8)]
    print(*(f"{code.name}={count}" for code, count in sorted(Counter(call.code() for call in calls).items(), key=str)))
PY

cat > "$work/serve.py" <<'PY'
import asyncio
import sys
import time
from collections import Counter

import grpc


class Handler:
    def service(self, details):
        return grpc.unary_unary_rpc_method_handler(self.answer)

    async def answer(self, message, context):
        if message != b"connect":
            await asyncio.sleep(0.2)
        return b""


async def main() -> dict[str, int]:
    server = grpc.aio.server(handlers=(Handler(),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    program = sys.argv[1].replace("serve", "ask")
    client = await asyncio.create_subprocess_exec(
        sys.executable, program, f"127.0.0.1:{port}", stdout=asyncio.subprocess.PIPE
    )
    await client.stdout.readline()
    # Something keeps the event loop busy for a moment, while the calls arrive.
    time.sleep(1)
    await server.stop(grace=10)
    text = (await client.stdout.read()).decode()
    return {name: int(count) for name, _, count in (word.partition("=") for word in text.split())}


found = asyncio.run(main())
print(f"grpcio {grpc.__version__}: 8 calls of 0.2 s at a stop with 10 s of grace: {found}")
assert found.get("CANCELLED", 0) >= 1 and sum(found.values()) == 8, found
PY
"$work/venv/bin/python" "$work/serve.py" "$work/serve.py"
