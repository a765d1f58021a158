#!/bin/sh
# A backup as a step of any CI system: fetches a release, verifies its digest, backs up what the configuration says, and ends with
# a code that the system understands. Needs sh, curl, sha256sum and tar. Settings by the environment:
#
#   HOLDFAST_RELEASES       where the releases are, as https://host/owner/repository/releases/download
#   HOLDFAST_VERSION        which one, without the v
#   HOLDFAST_SHA256         digest of its archive, from your own notes rather than from where the archive came from
#   HOLDFAST_BINARY         instead of these three: a program that is there already
#   HOLDFAST_CONFIG         the configuration file
#   HOLDFAST_PASSWORD_FILE  the passphrase, from the system's secrets as a file
#   HOLDFAST_ALLOW          codes besides 0 that are no failure of the step, separated by spaces; default "4": done, a replica is behind
#
# Arguments are Holdfast's; without any: run --init.
set -eu

program=${HOLDFAST_BINARY:-}
if [ -z "$program" ]; then
    : "${HOLDFAST_RELEASES:?where the releases are}" "${HOLDFAST_VERSION:?which release}" "${HOLDFAST_SHA256:?the digest of the archive}"
    archive=holdfast-$HOLDFAST_VERSION-$(uname -m)-linux.tar.gz
    folder=$(mktemp -d)
    trap 'rm -rf "$folder"' EXIT
    curl --fail --silent --show-error --location --retry 3 --max-time 300 --output "$folder/$archive" "$HOLDFAST_RELEASES/v$HOLDFAST_VERSION/$archive"
    if ! echo "$HOLDFAST_SHA256  $folder/$archive" | sha256sum -c - >/dev/null 2>&1; then
        echo "$archive is not what its digest says: it was not run" >&2
        exit 1
    fi
    tar -xzf "$folder/$archive" -C "$folder" --strip-components=1
    program=$folder/holdfast
fi
# The host that snapshots are recorded under: a runner has a new name each time.
export HOLDFAST_HOST="${HOLDFAST_HOST:-ci}"
[ $# -gt 0 ] || set -- run --init

code=0
"$program" "$@" || code=$?
for allowed in ${HOLDFAST_ALLOW-4}; do
    if [ "$code" = "$allowed" ]; then
        echo "exit code $code is allowed here: see the messages above" >&2
        exit 0
    fi
done
exit "$code"
