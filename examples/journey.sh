#!/bin/sh
# The journey of a new user: from photos to a guard in service, to its second version, and back.
#
#   examples/journey.sh PHOTOS TEST STRANGERS
#   JOURNEY_TRAIN="--no-fine-tune --threads 2" examples/journey.sh shop/photos shop/heldout other/shirts
#
# PHOTOS and TEST hold one folder for each class, TEST of photos that nobody trained on; STRANGERS holds images of
# nothing that is a class. Every step prints its command and what that says. Half of TEST and STRANGERS plays the traffic
# of a week, the other half measures. All of it happens in a temporary folder, which is removed at the end.
# JOURNEY_TRAIN has further options for `oodguard train`, JOURNEY_CHECK for `oodguard check`.
set -eu
if [ $# -ne 3 ]; then
  echo "usage: $0 PHOTOS TEST STRANGERS" >&2
  exit 2
fi

work=$(mktemp -d)
server=
finish() {
  [ -z "$server" ] || { kill "$server" && wait "$server"; } 2>/dev/null || true
  rm -rf "$work"
}
trap finish EXIT
trap 'exit 130' INT TERM

step() { printf '\n## %s\n\n' "$1"; }

# Print a command, run it, and print the last lines of what it says; all of it where it fails.
last() {
  lines=$1
  shift
  printf '$ %s\n' "$*"
  if "$@" > "$work/said" 2>&1; then
    # The temporary folder says nothing to a reader.
    tail -n "$lines" "$work/said" | sed "s|$work/||g"
  else
    code=$?
    cat "$work/said"
    return "$code"
  fi
}

# Copy every second file of a folder to one place, and the others to another.
halve() {
  turn=0
  (cd "$1" && find . -type f ! -name '.*' | sort) > "$work/files"
  while IFS= read -r file; do
    turn=$((1 - turn))
    [ "$turn" = 1 ] && to=$2 || to=$3
    mkdir -p "$(dirname "$to/$file")"
    cp "$1/$file" "$to/$file"
  done < "$work/files"
}

# The names of files hold no tabs here, so the sums are a table: hash, path.
sums() { find "$@" -type f -exec sha256sum {} + | sed 's/^\\//; s/  /	/'; }

mkdir "$work/photos" "$work/runs" "$work/bundles"
cp -R "$1" "$work/photos/train"
halve "$2" "$work/traffic/known" "$work/photos/test"
halve "$3" "$work/traffic/strangers" "$work/strangers"
cd "$work"
export COLUMNS=120 NO_COLOR=1

step "Look at the photos before training"
last 20 oodguard check photos --out check ${JOURNEY_CHECK:-}

step "Train without copies and unreadable files, and measure"
last 8 oodguard train --data photos --exclude check/suspects.csv --out runs/photos ${JOURNEY_TRAIN:-}
printf '$ oodguard evaluate runs/photos --ood strangers=strangers\n'
oodguard evaluate runs/photos --ood strangers=strangers > said 2>&1 || { cat said; exit 1; }
# What is weak, and what to do about it; the report has the rest.
grep -E 'Weak|The promise|^saved' -A 3 said | head -n 40

step "Export, and put it into service"
last 2 oodguard export runs/photos --out bundles/photos
last 5 oodguard releases bundles promote photos
printf '$ oodguard serve bundles/current --sample-dir flagged --sample-rate 1\n'
OODGUARD_SERVE_PORT=0 OODGUARD_SERVE_ADMIN_PORT=0 COLUMNS=300 PYTHONUNBUFFERED=1 \
  oodguard serve bundles/current --sample-dir flagged --sample-rate 1 > served 2>&1 &
server=$!
until grep -q '^serving on' served; do
  kill -0 "$server" 2>/dev/null || { cat served; exit 1; }
  sleep 0.2
done
head -n 1 served
url=$(sed -n 's/^serving on \([^ ]*\).*/\1/p' served)
private=$(sed -n 's/.*metrics on \([^ ]*\)\/metrics.*/\1/p' served)
until curl --fail --silent --output /dev/null "$private/health/ready"; do sleep 0.2; done

step "A week of traffic"
last 6 oodguard predict traffic --url "$url"

step "Review what was flagged"
# The server writes them a moment after it has answered.
before=-1
until [ "$(ls flagged | wc -l)" = "$before" ]; do
  before=$(ls flagged | wc -l)
  sleep 2
done
last 3 oodguard review flagged --out review.html
# A person would mark them with `oodguard review flagged --open`. Here the folders that they were sent from know.
sums traffic > sent
sums flagged | grep -v '\.json$' > kept
awk -F '\t' -v OFS=, '
  BEGIN { print "path,mark,class" }
  FNR == NR { from[$1] = $2; next }
  {
    split(from[$1], part, "/"); sub(/^flagged\//, "", $2)
    if (part[2] == "strangers") print $2, "stranger", ""
    else { gsub(/"/, "\"\"", part[3]); print $2, "known", "\"" part[3] "\"" }
  }' sent kept > marks.csv
last 15 oodguard review flagged --apply marks.csv --into photos/train --strangers seen-strangers --out known.txt

step "Train the next version with what was learned"
last 5 oodguard train --data photos --exclude check/suspects.csv --outliers seen-strangers --parent runs/photos \
  --out runs/photos-2 ${JOURNEY_TRAIN:-}
last 2 oodguard export runs/photos-2 --out bundles/photos-2

step "Is it better?"
last 20 oodguard compare bundles/photos bundles/photos-2 --test photos/test --ood strangers=strangers --out comparison

step "Promote it, and have the server take it over"
last 5 oodguard releases bundles promote photos-2
last 1 curl --fail --silent --show-error --request POST "$private/admin/reload"
echo

step "Is this week still like the photos that it was calibrated on?"
last 2 oodguard score bundles/current traffic --out week.csv
last 12 oodguard drift week.csv --bundle bundles/current

step "Roll back"
last 5 oodguard releases bundles rollback
last 1 curl --fail --silent --show-error --request POST "$private/admin/reload"
echo
last 10 oodguard releases bundles history
