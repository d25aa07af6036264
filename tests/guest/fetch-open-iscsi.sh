#!/bin/bash
# Downloads Debian's open-iscsi and the libraries that only it uses into the cache of the guest's kernels. They
# are unpacked, not installed, because the package depends on udev.
#
# Result: $GUEST_CACHE/open-iscsi. GUEST_CACHE is ~/.cache/guest-kernels unless set. Needs apt-get, dpkg-deb.
set -euo pipefail
cache=${GUEST_CACHE:-$HOME/.cache/guest-kernels}

mkdir -p "$cache"
work=$(mktemp -d)
new=$(mktemp -d "$cache/open-iscsi.XXXXXX")
trap 'rm -rf "$work" "$new"' EXIT
chown _apt "$work" 2>/dev/null || true      # apt drops its privileges for the download
(cd "$work" && apt-get -q download open-iscsi libopeniscsiusr libisns0)
for package in "$work"/*.deb; do dpkg-deb -x "$package" "$new"; done
chmod 755 "$new"
rm -rf "$cache/open-iscsi"
mv "$new" "$cache/open-iscsi"
echo "$cache/open-iscsi"
