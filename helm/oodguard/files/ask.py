"""Ask a gateway about an image, as `helm test` does: exit 0 when it answers as it should."""

import io
import json
import os
import ssl
import sys
import urllib.error
import urllib.request

from PIL import Image

url = os.environ["OODGUARD_URL"]
key = os.environ.get("OODGUARD_KEY", "")
picture = io.BytesIO()
Image.linear_gradient("L").convert("RGB").save(picture, "PNG")
# The certificate names the address that callers use, not this Service.
context = ssl._create_unverified_context()
if os.path.isdir("/tls"):
    context.load_cert_chain("/tls/tls.crt", "/tls/tls.key")


def ask(headers):
    request = urllib.request.Request(f"{url}/predict", picture.getvalue(), {"Content-Type": "image/png", **headers})
    try:
        with urllib.request.urlopen(request, timeout=30, context=context) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


if os.environ.get("OODGUARD_AUTH", "keys") == "keys":
    status, _ = ask({})
    if status != 401:
        sys.exit(f"a caller without a key got {status} instead of 401")
    print("a caller without a key is refused")
    if not key:
        print("no key was given to this test: nothing else is asked (test.keySecret)")
        sys.exit(0)
status, answer = ask({"X-API-Key": key} if key else {})
if status != 200:
    sys.exit(f"the image was answered with {status}: {answer}")
found = answer["predictions"][0]
verdict = "out of" if found["is_ood"] else "in"
print(f"{answer['model']['name']} {answer['model']['version']}: {found['label']}, {verdict} distribution")
