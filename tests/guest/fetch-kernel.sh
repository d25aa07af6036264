#!/bin/bash
# Downloads a Debian kernel into a cache folder and prepares it for QEMU's direct kernel boot. It is
# unpacked, not installed. It has the full set of modules, with nvme-tcp and 9p.
#
# Result: $GUEST_CACHE/<release>/{vmlinux,config,modules/,.complete}, and a link $GUEST_CACHE/current.
# GUEST_CACHE is ~/.cache/guest-kernels unless set. Needs apt-get, dpkg-deb, depmod, python3, zstd or xz.
set -euo pipefail
cache=${GUEST_CACHE:-$HOME/.cache/guest-kernels}
here=$(dirname "$(readlink -f "$0")")

# The meta package names the newest release. Debian 12 has two: the tests need 6.12.
for meta in linux-image-6.12-amd64 linux-image-amd64; do
    package=$(apt-cache depends --no-recommends --no-suggests "$meta" 2>/dev/null |
              awk '/Depends: linux-image-[0-9]/ { print $2; exit }')
    [ -z "$package" ] || break
done
[ -n "$package" ] || { echo "no kernel package found (apt-get update?)" >&2; exit 1; }
release=${package#linux-image-}
dir=$cache/$release

if [ ! -e "$dir/.complete" ]; then
    work=$(mktemp -d)
    trap 'rm -rf "$work"' EXIT
    chown _apt "$work" 2>/dev/null || true      # apt drops its privileges for the download
    (cd "$work" && apt-get -q download "$package")
    dpkg-deb -x "$work"/linux-image-*.deb "$work/x"
    rm -rf "$dir"
    mkdir -p "$dir"
    cp "$work/x/boot/config-$release" "$dir/config"
    # depmod needs the folder <base>/lib/modules/<release>. Only the inner folder is kept.
    lib=$work/x/lib
    [ -d "$lib" ] || lib=$work/x/usr/lib
    depmod -b "${lib%/lib}" "$release"
    mv "$lib/modules/$release" "$dir/modules"
    # An uncompressed ELF kernel starts through its PVH entry, so the emulated CPU need not decompress
    # it.
    "$here/extract-vmlinux.py" "$work/x/boot/vmlinuz-$release" "$dir/vmlinux"
    touch "$dir/.complete"
fi
ln -sfn "$release" "$cache/current"
echo "$dir"
