#!/usr/bin/env bash
# tritonclient 2.73.0 and kserve 0.21.0: two clients of one protocol install side by side, and pip check is content; but a
# process that has imported one cannot import the other. Both bring messages of the name inference.ServerLiveRequest, from
# files of different names, and protobuf has one table of names for each process.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check 'tritonclient[grpc,http]==2.73.0' kserve==0.21.0
"$work/venv/bin/pip" check --disable-pip-version-check

attempt() {
  if "$work/venv/bin/python" -W ignore -c "$1" >"$work/out" 2>&1; then
    echo "works: $1"
  else
    echo "$(tail -n 1 "$work/out" | cut -c 1-120): $1"
  fi
}
duplicate="TypeError: Couldn't build proto file into descriptor pool: duplicate symbol 'inference.ServerLiveRequest'"
{
  attempt 'import tritonclient.grpc'
  attempt 'import tritonclient.http, kserve'
  attempt 'import tritonclient.grpc, kserve'
  attempt 'import kserve, tritonclient.grpc'
} | tee "$work/found"
diff "$work/found" - <<END
works: import tritonclient.grpc
works: import tritonclient.http, kserve
$duplicate: import tritonclient.grpc, kserve
$duplicate: import kserve, tritonclient.grpc
END
