#!/bin/sh
# Build the gateway image with buildah, say how large it is and why, run it read-only as its own user, ask it a question
# and end it. Needs root, buildah, curl; without a reachable image registry also debootstrap.
#
#   images/build_and_ask.sh BUNDLE [PHOTO]      BASE=... another base image
#                                               STAND_IN=yes make a base from Debian packages
#                                               BUILD_OPTIONS=... more options for buildah build
set -eu
cd "$(dirname "$0")/.."
BUNDLE=$(realpath "$1")
PHOTO=${2:-$(find "$BUNDLE/golden" -type f | sort | head -n 1)}
IMAGE=${IMAGE:-localhost/oodguard-gateway:latest}
PORT=${PORT:-18000}
ADMIN_PORT=${ADMIN_PORT:-18001}
BASE=${BASE:-docker.io/library/python:3.11-slim-bookworm}
if [ "${STAND_IN:-no}" = yes ]; then
  BASE=localhost/python:3.11-slim
  buildah inspect --type image "$BASE" > /dev/null 2>&1 || images/stand_in_base.sh "$BASE"
  BUILD_OPTIONS="--pull-never ${BUILD_OPTIONS:-}"
fi

# shellcheck disable=SC2086
buildah build --isolation chroot --layers --format docker ${BUILD_OPTIONS:-} --build-arg BASE="$BASE" --target gateway \
  -f images/Dockerfile -t "$IMAGE" . > build.log 2>&1 || { tail -n 20 build.log; exit 1; }
rm build.log

CONTAINER=$(buildah from --pull-never "$IMAGE")
ROOT=$(buildah mount "$CONTAINER")
SERVER=
end() {
  [ -z "$SERVER" ] || kill -9 "$SERVER" 2> /dev/null || true
  buildah umount "$CONTAINER" > /dev/null
  buildah rm "$CONTAINER" > /dev/null
}
trap end EXIT

echo "== size"
buildah images --format '{{.Name}}:{{.Tag}} {{.Size}}' | grep -E "^($IMAGE|$BASE)" || true
echo "gateway above its base: $(du -sm "$ROOT/opt/oodguard" | cut -f 1) MB; the largest of it:"
du -sm "$ROOT"/opt/oodguard/lib/python3*/site-packages/* | sort -rn | head -n 8 |
  while read -r size folder; do echo "  $size MB $(basename "$folder")"; done

echo "== contents"
for ABSENT in torch pip setuptools sympy; do
  [ ! -e "$ROOT"/opt/oodguard/lib/python3.11/site-packages/$ABSENT ] || { echo "$ABSENT is in the image"; exit 1; }
done
for ABSENT in gcc cc make git; do
  [ ! -e "$ROOT/usr/bin/$ABSENT" ] || { echo "$ABSENT is in the image"; exit 1; }
done
[ "$(buildah inspect --type image --format '{{.OCIv1.Config.User}}' "$IMAGE")" = 10001:10001 ]
echo "no torch, no compiler, no installer; user 10001; $(grep -c bom-ref "$ROOT"/opt/oodguard/share/oodguard/sbom.cdx.json) entries in the bill of materials"

# The image's own settings, as a container runtime applies them. In a subshell of its own, which it replaces.
image_env() {
  buildah inspect --type image --format '{{range .OCIv1.Config.Env}}{{println .}}{{end}}' "$IMAGE"
}
serve() {
  # shellcheck disable=SC2046
  exec env -i $(image_env) OODGUARD_SERVE_PORT="$PORT" OODGUARD_SERVE_ADMIN_PORT="$ADMIN_PORT" "$@"
}
confined() {
  echo images/confined.sh "$ROOT" 10001 /tmp "$BUNDLE:/bundle" tmpfs:/tmp --
}

echo "== without keys it refuses to start"
# shellcheck disable=SC2046
if serve $(confined) oodguard serve 2>&1 | tee refusal.log | grep -q "reachable from other machines"; then
  rm refusal.log
  echo "refused"
else
  cat refusal.log; exit 1
fi

echo "== start, read-only, as user 10001, with a key"
HASH=$(serve images/confined.sh "$ROOT" 10001 /tmp tmpfs:/tmp -- oodguard key caller 2> key.log)
KEY=$(sed -n 's/.*once): *//p' key.log)
rm key.log
STARTED=$(date +%s%N)
# shellcheck disable=SC2046
serve OODGUARD_SERVE_KEY_HASHES="$HASH" $(confined) oodguard serve > serve.log 2>&1 &
SERVER=$!
until curl -fsS "http://127.0.0.1:$ADMIN_PORT/health/ready" > /dev/null 2>&1; do
  kill -0 "$SERVER" 2> /dev/null || { cat serve.log; exit 1; }
  sleep 0.1
done
echo "ready after $(( ($(date +%s%N) - STARTED) / 1000000 )) ms"
grep -E "^(Uid|CapEff|NoNewPrivs|VmRSS)" "/proc/$SERVER/status" | tr -s '\t ' ' '
grep -q "^Uid:.10001" "/proc/$SERVER/status"

echo "== ask"
[ "$(curl -s -o /dev/null -w '%{http_code}' -F "image=@$PHOTO" "http://127.0.0.1:$PORT/predict")" = 401 ]
curl -fsS -F "image=@$PHOTO" -H "X-API-Key: $KEY" "http://127.0.0.1:$PORT/predict" | cut -c 1-200

echo "== the image's health check"
buildah inspect --type image "$IMAGE" | python3 -c '
import json, sys
print("\0".join(json.load(sys.stdin)["Docker"]["config"]["Healthcheck"]["Test"][1:]), end="")' > health
# shellcheck disable=SC2046
(serve xargs -0 images/confined.sh "$ROOT" 10001 /tmp tmpfs:/tmp -- < health)
rm health
echo "healthy"

echo "== stop"
kill -TERM "$SERVER"
wait "$SERVER" && echo "exit 0"
SERVER=
rm -f serve.log
