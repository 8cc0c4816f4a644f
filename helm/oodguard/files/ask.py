"""Ask a gateway about an image, as `helm test` does: exit 0 when it answers as it should."""

import http.client
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
# The certificate names the address that callers use, which need not be this Service.
name = os.environ.get("OODGUARD_SERVER_NAME", "")
tls = os.environ.get("OODGUARD_TLS", "/tls")


class Named(http.client.HTTPSConnection):
    """A connection to one address, to a server that shows the certificate of another name."""

    def connect(self):
        http.client.HTTPConnection.connect(self)
        self.sock = context.wrap_socket(self.sock, server_hostname=name or self.host)


class Handler(urllib.request.HTTPSHandler):
    def https_open(self, request):
        return self.do_open(Named, request)


if os.path.exists(f"{tls}/ca.crt"):
    context = ssl.create_default_context(cafile=f"{tls}/ca.crt")
    if url.startswith("https:"):
        print(f"the certificate of {name or 'the Service'} is verified with the CA of the chart's Secret")
else:
    context = ssl.create_default_context()
if os.path.exists(f"{tls}/tls.key"):
    context.load_cert_chain(f"{tls}/tls.crt", f"{tls}/tls.key")
opener = urllib.request.build_opener(Handler)


def ask(headers):
    request = urllib.request.Request(f"{url}/predict", picture.getvalue(), {"Content-Type": "image/png", **headers})
    try:
        with opener.open(request, timeout=30) as answer:
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
