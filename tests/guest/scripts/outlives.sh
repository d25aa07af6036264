# The test adds a disk with a write cache under a connected host, creates the subsystem again, and restarts the target
# with many subsystems. The host must stay connected, or reconnect by itself.
. "$(dirname "$0")/nvme.sh"

connect
disk=$(wait_disk 1)
use_disk() {
    head -c 262144 /dev/urandom >/run/pattern
    dd if=/run/pattern of="$disk" bs=64k oflag=direct status=none
    dd if="$disk" bs=64k count=4 iflag=direct status=none | cmp - /run/pattern
}
use_disk
tell connected

second=$(wait_disk 2)
cache=$(cat "/sys/block/${second##*/}/queue/write_cache")
[ "$cache" = "write back" ] || { mark "the kernel does not flush the added disk: $cache"; exit 1; }
head -c 1048576 /dev/urandom >/run/guest/synced-data
dd if=/run/guest/synced-data of="$second" bs=64k conv=fsync status=none
mark "an added disk was synced"
tell synced

wait_for remade
use_disk
mark "the subsystem was made anew"
tell used-again

wait_for restarted
use_disk
mark "the target was started again"
dmesg | grep -iE 'nvme.*(reconnect|error|failed)' | tail -5
disconnect
mark done
