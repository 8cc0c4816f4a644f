#!/bin/sh
# Run a command the way a container with Kubernetes' "restricted" profile runs it, where no container runtime can:
# another root file system, read-only, as another user, without capabilities or new privileges. Needs root on Linux.
#
#   confined.sh ROOTFS UID WORKDIR [MOUNT...] -- COMMAND...
#
# MOUNT is SOURCE:TARGET[:rw] or tmpfs:TARGET. The environment is passed on as it is, the process keeps its id. Network,
# processes and limits are not isolated.
set -eu
PATH=$PATH:/usr/sbin:/usr/bin:/sbin:/bin
if [ "${CONFINED:-}" != inside ]; then
  CONFINED=inside exec unshare --mount --propagation private "$0" "$@"
fi
unset CONFINED
ROOTFS=$1 USER_ID=$2 WORKDIR=$3
shift 3

# Mount points are made in a layer above the root file system, which stays untouched.
LAYER=$(mktemp -d)
mount -t tmpfs tmpfs "$LAYER"
mkdir "$LAYER/upper" "$LAYER/work" "$LAYER/root"
mount -t overlay overlay -o "lowerdir=$ROOTFS,upperdir=$LAYER/upper,workdir=$LAYER/work" "$LAYER/root"
NEW=$LAYER/root
mkdir -p "$NEW/proc" "$NEW/dev"
mount --rbind /proc "$NEW/proc"
mount --rbind /dev "$NEW/dev"
while [ "$1" != -- ]; do
  SOURCE=${1%%:*} REST=${1#*:}
  TARGET=${REST%%:*}
  if [ "$SOURCE" = tmpfs ]; then
    mkdir -p "$NEW$TARGET"
    mount -t tmpfs -o mode=1777 tmpfs "$NEW$TARGET"
  else
    if [ -d "$SOURCE" ]; then
      mkdir -p "$NEW$TARGET"
    elif [ ! -e "$NEW$TARGET" ]; then
      mkdir -p "$NEW$(dirname "$TARGET")"
      touch "$NEW$TARGET"
    fi
    mount --bind "$SOURCE" "$NEW$TARGET"
    [ "$REST" != "${REST%:rw}" ] || mount -o remount,bind,ro "$NEW$TARGET"
  fi
  shift
done
shift
mount -o remount,ro "$NEW"
exec chroot "$NEW" /usr/bin/setpriv --reuid "$USER_ID" --regid "$USER_ID" --clear-groups --bounding-set=-all \
  --inh-caps=-all --no-new-privs /bin/sh -c 'cd "$1" && shift && exec "$@"' sh "$WORKDIR" "$@"
