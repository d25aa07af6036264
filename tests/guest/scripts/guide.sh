# Runs what a document of docs/plugin-guide does with a Linux kernel, block by block as the document's script comes
# to it: one shell, so that later blocks know what earlier ones set.
set -eu
cd /run/guest
modprobe nvme-tcp
for block in $BLOCKS; do
    until [ -e "/run/guest/ask$block" ]; do sleep 0.1; done
    . "/run/guest/block$block"
    touch "/run/guest/said$block"
done
echo done
