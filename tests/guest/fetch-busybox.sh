#!/bin/bash
# Downloads Debian's static busybox into the cache of the guest's kernels. It is unpacked, not installed,
# because its package conflicts with the usual dynamic one.
#
# Result: $GUEST_CACHE/busybox. GUEST_CACHE is ~/.cache/guest-kernels unless set. Needs apt-get, dpkg-deb.
set -euo pipefail
cache=${GUEST_CACHE:-$HOME/.cache/guest-kernels}

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
chown _apt "$work" 2>/dev/null || true      # apt drops its privileges for the download
(cd "$work" && apt-get -q download busybox-static)
dpkg-deb -x "$work"/busybox-static_*.deb "$work/x"
mkdir -p "$cache"
for path in "$work/x/usr/bin/busybox" "$work/x/bin/busybox"; do
    [ ! -f "$path" ] || install "$path" "$cache/busybox.$$"
done
mv "$cache/busybox.$$" "$cache/busybox"     # atomic, in case another run fetches it now
echo "$cache/busybox"
