#!/usr/bin/env bash
# `zensical build --strict`: a page that is missing is noticed where a link in Markdown names it, and nowhere else.
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
cd "$tmp"
python3 -m venv env
env/bin/pip install --quiet --disable-pip-version-check zensical==0.0.73 2>/dev/null || { echo 'pip failed' >&2; exit 2; }
mkdir pages
build() { # the exit code of a strict build with this text and this navigation
  printf '# Home\n\n%s\n' "$1" > pages/index.md
  printf '[project]\nsite_name = "Strict"\ndocs_dir = "pages"\nnav = [{ "Home" = "index.md" }%s]\n[project.theme]\nfont = false\n' "$2" > zensical.toml
  rm -rf .cache site
  env/bin/zensical build --strict >/dev/null 2>&1 && code=0 || code=$?
  echo "zensical 0.0.73 --strict, $3: exit $code"
}
build '[gone](gone.md)' '' 'link to a page that is missing'
[ "$code" = 1 ]
build 'Text.' ', { "Gone" = "gone.md" }' 'navigation names a page that is missing'
[ "$code" = 0 ]
grep -q 'href="./gone.md"' site/index.html
[ ! -e site/gone ]
for text in '![gone](gone.png)' '[gone](gone.py)' '[gone](gone.md?x=1)'; do
  build "$text" '' "$text"
  [ "$code" = 0 ]
done
