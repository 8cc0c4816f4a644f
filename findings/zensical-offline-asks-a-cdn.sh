#!/usr/bin/env bash
# A site built with Zensical's offline plugin: every page asks a CDN for a script, and without it search from a folder is off.
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
cd "$tmp"
python3 -m venv env
env/bin/pip install --quiet --disable-pip-version-check zensical==0.0.73 playwright==1.65.2 2>/dev/null || { echo 'pip failed' >&2; exit 2; }
mkdir pages
printf '# Home\n\nA threshold divides what passes from what does not.\n' > pages/index.md
cat > zensical.toml <<'TOML'
[project]
site_name = "Offline"
docs_dir = "pages"
[project.theme]
font = false
[project.plugins.search]
[project.plugins.offline]
TOML
env/bin/zensical build --strict >/dev/null 2>&1
echo "zensical 0.0.73, offline plugin, fonts off; scripts of the page:"
grep -o '<script src="[^"]*"' site/index.html | tee scripts
cat > ask.py <<'PY'
import pathlib, shutil, sys
from playwright.sync_api import sync_playwright
with sync_playwright() as playwright:
    browser = playwright.chromium.launch(executable_path=sys.argv[1], args=["--no-sandbox", "--disable-gpu"])
    context = browser.new_context()
    # A machine without a network.
    context.route(lambda url: url.startswith("http"), lambda route: route.abort())
    page = context.new_page()
    page.goto(pathlib.Path("site/index.html").resolve().as_uri())
    page.keyboard.press("Control+k")
    page.keyboard.type("threshold")
    page.get_by_text("Search is unavailable").wait_for(timeout=10_000)
    print("opened from the folder without a network, search says:", page.get_by_text("Search is unavailable").inner_text())
PY
if browser=$(command -v chromium || command -v chromium-browser || command -v google-chrome); then
  env/bin/python ask.py "$browser"
else
  echo "no Chromium here: search was not tried"
fi
grep -q 'src="https://unpkg.com/iframe-worker/shim"' scripts
test -z "$(find site -name '*iframe-worker*')"
