#!/bin/sh
# pack.sh BINARY MACHINE FOLDER: makes FOLDER/holdfast-VERSION-MACHINE.tar.gz of a binary that was built, with its licences, completions
# and manual pages. MACHINE is x86_64-linux or aarch64-linux. The binary has to run here: it writes the pages itself. The same input
# gives the same bytes; times are SOURCE_DATE_EPOCH's.
set -eu
binary=$1
machine=$2
folder=$3
here=$(cd "$(dirname "$0")/../.." && pwd)

version=$("$binary" --version | cut -d ' ' -f 2)
name=holdfast-$version-$machine
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$folder" "$work/$name/completions" "$work/$name/man"
install -m 0755 "$binary" "$work/$name/holdfast"
strip "$work/$name/holdfast"
install -m 0644 "$here/LICENSE-APACHE" "$here/LICENSE-MIT" "$here/README.md" "$here/config.example.toml" "$work/$name/"
"$binary" completions bash >"$work/$name/completions/holdfast.bash"
"$binary" completions zsh >"$work/$name/completions/_holdfast"
"$binary" completions fish >"$work/$name/completions/holdfast.fish"
"$binary" --quiet man "$work/$name/man"
tar --create --sort=name --owner=0 --group=0 --numeric-owner --mode=go-w --mtime="@${SOURCE_DATE_EPOCH:-0}" --directory "$work" "$name" |
    gzip --no-name >"$folder/$name.tar.gz"
echo "$folder/$name.tar.gz"
