# While fio verifies on namespace 1, namespace 2 is added and removed, and namespace 1 grows to $GROWN
# bytes.
. "$(dirname "$0")/nvme.sh"

connect
disk=$(wait_disk 1)
fio --name=verify --filename="$disk" --rw=randwrite --bs=4k --size=24M --direct=1 --iodepth=8 --ioengine=libaio \
    --verify=crc32c --verify_fatal=1 --runtime=12 --time_based --output-format=terse >/run/fio 2>&1 &
fio=$!
fio_runs() { kill -0 $fio 2>/dev/null; }
sleep 1

tell connected
second=$(wait_disk 2)
dd if=/dev/urandom of="$second" bs=64k count=16 oflag=direct status=none
mark "namespace 2 is there"
tell second-used
until_true 30 "namespace 2 to go" has_no_disk 2
mark "namespace 2 is gone"
fio_runs

tell second-gone
has_grown() { [ "$(blockdev --getsize64 "$disk")" = "$GROWN" ]; }
until_true 30 "the disk to grow" has_grown
mark "namespace 1 has grown"
fio_runs
# The guest can write to the new end of the disk.
dd if=/dev/urandom of="$disk" bs=4k count=1 seek=$((GROWN / 4096 - 1)) oflag=direct status=none

wait $fio || { cat /run/fio; exit 1; }
mark "fio verified"
disconnect
mark done
