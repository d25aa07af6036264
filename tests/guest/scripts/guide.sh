# Runs the Linux parts of a document of docs/plugin-guide, block by block, when the document's script asks for
# them. All blocks run in one shell, so later blocks see the variables of earlier ones.
set -eu
cd /run/guest
modprobe nvme-tcp
for block in $BLOCKS; do
    until [ -e "/run/guest/ask$block" ]; do sleep 0.1; done
    . "/run/guest/block$block"
    touch "/run/guest/said$block"
done
echo done
