#!/usr/bin/env bash
# The step of action.yml: finds or fetches the program, runs it, and says how it ended. Everything comes in by the environment.
set -euo pipefail

# stop TEXT: ends the step with an error that is one annotation whatever it holds.
stop() {
    local text=${1//'%'/%25}
    text=${text//$'\r'/%0D}
    echo "::error title=Holdfast::${text//$'\n'/%0A}"
    echo "exit-code=2" >>"$GITHUB_OUTPUT"
    exit 2
}

# fetch: puts the program of the release into a folder of this job's own, and its name into `binary`.
fetch() {
    [[ $INPUT_VERSION =~ ^[0-9A-Za-z.+-]+$ ]] || stop "name a release (version: 0.1.0) or a program that is there (binary: /path/to/holdfast)"
    [[ $INPUT_REPOSITORY =~ ^[A-Za-z0-9._-]+/[A-Za-z0-9._-]+$ ]] || stop "repository: $INPUT_REPOSITORY is no OWNER/REPOSITORY"
    [[ -z $INPUT_SHA256 || $INPUT_SHA256 =~ ^[0-9a-f]{64}$ ]] || stop "sha256: must be 64 hexadecimal digits"
    local machine archive from folder sum
    case "$(uname -s)-$(uname -m)" in
    Linux-x86_64) machine=x86_64-linux ;;
    Linux-aarch64) machine=aarch64-linux ;;
    *) stop "there is no release for $(uname -s) on $(uname -m): build one and name it as binary" ;;
    esac
    archive=holdfast-$INPUT_VERSION-$machine.tar.gz
    from=${GITHUB_SERVER_URL:-https://github.com}/$INPUT_REPOSITORY/releases/download/v$INPUT_VERSION
    folder=$(mktemp -d "${RUNNER_TEMP:-/tmp}/holdfast.XXXXXX")
    curl --fail --silent --show-error --location --retry 3 --max-time 300 --output "$folder/$archive" "$from/$archive" ||
        stop "fetching $from/$archive failed"
    sum=$INPUT_SHA256
    if [[ -z $sum ]]; then
        curl --fail --silent --show-error --location --retry 3 --max-time 60 --output "$folder/SHA256SUMS" "$from/SHA256SUMS" ||
            stop "fetching $from/SHA256SUMS failed"
        sum=$(awk -v name="$archive" '$2 == name { print $1 }' "$folder/SHA256SUMS")
    fi
    echo "$sum  $folder/$archive" | sha256sum --check --status || stop "$archive is not what its digest says: it was not run"
    tar -xzf "$folder/$archive" -C "$folder" --strip-components=1
    binary=$folder/holdfast
}

binary=$INPUT_BINARY
[[ -n $binary ]] || fetch
[[ $INPUT_COMMAND =~ ^[a-z]+$ ]] || stop "command: $INPUT_COMMAND is no command"
[[ $INPUT_ALLOW =~ ^[0-9]*(,[0-9]+)*$ ]] || stop "allow: codes separated by commas, not $INPUT_ALLOW"

words=(--github=always)
[[ -z $INPUT_CONFIG ]] || words+=(--config "$INPUT_CONFIG")
words+=("$INPUT_COMMAND")
while IFS= read -r word; do
    [[ -z $word ]] || words+=("$word")
done <<<"$INPUT_ARGUMENTS"

code=0
"$binary" "${words[@]}" || code=$?
echo "exit-code=$code" >>"$GITHUB_OUTPUT"
case ",$INPUT_ALLOW," in
*",$code,"*) exit 0 ;;
esac
exit "$code"
