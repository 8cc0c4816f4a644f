#!/usr/bin/env bash
# Webhook.sign takes a datetime with a zone and signs its wall clock as if it were UTC: the signature is of another second.
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
python3 -m venv "$tmp/venv"
"$tmp/venv/bin/pip" install --quiet --disable-pip-version-check standardwebhooks==1.1.0 2>/dev/null || { echo 'pip failed' >&2; exit 2; }
cd "$tmp"
"$tmp/venv/bin/python" - <<'PY'
import importlib.metadata as md
from datetime import datetime, timedelta, timezone

from standardwebhooks.webhooks import Webhook, WebhookVerificationError

print("standardwebhooks", md.version("standardwebhooks"))
webhook = Webhook("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
now = datetime.now(timezone.utc).replace(microsecond=0)
body = '{"type": "image.flagged"}'
outcomes = {}
for hours in (0, 2, -5):
    # The same moment, written in another zone.
    moment = now.astimezone(timezone(timedelta(hours=hours)))
    assert moment == now
    headers = {
        "webhook-id": "msg_1",
        "webhook-timestamp": str(int(moment.timestamp())),
        "webhook-signature": webhook.sign("msg_1", moment, body),
    }
    try:
        webhook.verify(body, headers)
        outcomes[hours] = "verified"
    except WebhookVerificationError as error:
        outcomes[hours] = str(error)
    print(f"signed at {moment.isoformat()}: {outcomes[hours]}")
assert outcomes == {0: "verified", 2: "No matching signature found", -5: "No matching signature found"}
PY
