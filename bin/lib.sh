# shellcheck shell=bash
# What the commands in bin/ share: source it.

set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root"
export PATH="$root/.venv/bin:$PATH"
# uv trusts what the machine trusts, as pip and apt do.
export UV_SYSTEM_CERTS=true UV_NATIVE_TLS=true
# A terminal that reads progress wants no cows, and a pipe no colours.
export ANSIBLE_NOCOWS=1 PYTHONDONTWRITEBYTECODE=1

# All talk goes to stderr: stdout belongs to results.
say() { printf '%s [%d s] %s\n' "${0##*/}" "$SECONDS" "$*" >&2; }
die() { printf '%s: %s\n' "${0##*/}" "$*" >&2; exit 1; }

is_debian_root() { [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; }

# quietly LOG COMMAND...: runs it with its output in .cache/LOG, which is shown when it fails.
quietly() {
  local log="$root/.cache/$1"
  shift
  mkdir -p "$root/.cache"
  "$@" >"$log" 2>&1 </dev/null && return
  tail -n 25 "$log" >&2
  die "failed: $1; the whole log is in $log"
}

apt_install() {
  say "installing Debian packages: $*"
  quietly apt.log env DEBIAN_FRONTEND=noninteractive sh -c \
    'apt-get install -qy --no-install-recommends "$@" || { apt-get update -q && apt-get install -qy --no-install-recommends "$@"; }' \
    apt "$@"
}
