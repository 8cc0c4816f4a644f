#!/bin/sh
# Ask a server about images with curl alone; prints its JSON answer.
#
#   examples/predict.sh http://localhost:8000 photo.jpg other.jpg
#   OODGUARD_KEY=... examples/predict.sh https://guard.example.com photo.jpg
#
# The exit code is curl's: 22 when the server refused, and then its problem document is printed.
set -eu
if [ $# -lt 2 ]; then
  echo "usage: $0 URL IMAGE..." >&2
  exit 2
fi
url=$1
shift
count=$#
while [ "$count" -gt 0 ]; do
  set -- "$@" --form "image=@\"$1\""
  shift
  count=$((count - 1))
done
# The key goes in by standard input: other users of this machine can read command lines.
if [ -n "${OODGUARD_KEY:-}" ]; then
  printf 'header = "X-API-Key: %s"\n' "$OODGUARD_KEY"
fi | curl --config - --silent --show-error --fail-with-body --max-time 60 --retry 3 "$@" "$url/predict"
echo
