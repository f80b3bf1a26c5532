#!/usr/bin/env bash
# Makes what a package has beside the binary: man pages, completions, changelogs, the settings file. Into target/packaging, by
# the binary itself: packaging/build.sh [target/release/waypost [target/packaging]]
set -euo pipefail
cd "$(dirname "$0")/.."
waypost=${1:-target/release/waypost}
out=${2:-target/packaging}
rm -rf "$out/man" "$out/completions"
mkdir -p "$out/man" "$out/completions"

"$waypost" man "$out/man"
gzip -9 --no-name "$out"/man/*
"$waypost" completions bash > "$out/completions/waypost"
"$waypost" completions zsh > "$out/completions/_waypost"
"$waypost" completions fish > "$out/completions/waypost.fish"

gzip -9 --no-name < CHANGELOG.md > "$out/changelog.gz"
version=$("$waypost" --version | cut -d' ' -f2)
gzip -9 --no-name > "$out/changelog.Debian.gz" << END
waypost ($version-1) stable; urgency=medium

  * What has changed is in changelog.gz.

 -- The authors of waypost <waypost@registry.example>  $(date --rfc-email --reference CHANGELOG.md)
END

# Every setting with its meaning, and none set but the data directory: what is not set follows the version's defaults.
env -i "$waypost" config print --data-dir /var/lib/waypost \
    | grep -v '^# Default: ' \
    | sed -e '/^data_dir = /!s/^[a-z_]* = /#&/' > "$out/waypost.toml"
"$waypost" config check "$out/waypost.toml" > /dev/null
