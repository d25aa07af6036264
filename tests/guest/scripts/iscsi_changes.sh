# While fio verifies on unit 0, unit 1 is added and removed, and unit 0 grows to $GROWN bytes.
. "$(dirname "$0")/iscsi.sh"

rescan() { iscsiadm -m session --rescan >/dev/null; }
luns_changed() { [ "$(dmesg | grep -c 'LUN assignments on this target have changed')" -ge "$1" ]; } # TIMES
size() { cat "/sys/block/${disk#/dev/}/size"; }

connect
disk=$(wait_disk 0)
start_fio "$disk"

tell connected
until_true 30 "word of another unit" luns_changed 1
rescan
second=$(wait_disk 1)
dd if=/dev/urandom of="$second" bs=64k count=16 oflag=direct status=none
mark "unit 1 is there"
tell second-used
until_true 30 "word that a unit went" luns_changed 2
if dd if="$second" of=/dev/null bs=4k count=1 iflag=direct status=none 2>/dev/null; then mark "it is still read"; exit 1; fi
echo 1 >"/sys/block/${second#/dev/}/device/delete"
rescan
has_no_disk 1
mark "unit 1 is gone"
fio_runs

tell second-gone
until_true 30 "word of the new size" kernel_said 'Capacity data has changed'
echo 1 >"/sys/block/${disk#/dev/}/device/rescan"
[ $(($(size) * 512)) = "$GROWN" ]
mark "unit 0 has grown"
fio_runs
# The guest can write to the new end of the disk.
dd if=/dev/urandom of="$disk" bs=4k count=1 seek=$((GROWN / 4096 - 1)) oflag=direct status=none

stop_fio
mark "fio verified"
disconnect
mark done
