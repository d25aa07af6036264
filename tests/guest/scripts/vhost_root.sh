# In a guest whose root file system is on a vhost-user-blk disk: verified load in a file of that file system while the
# test kills the host and starts it again. Then the disk grows, and the file system grows with it.
set -euo pipefail
wait_for() { # COMMAND...: waits until it succeeds
    for _ in $(seq 600); do "$@" && return; sleep 0.1; done
    echo "waited in vain for: $*"
    dmesg | tail -20
    exit 1
}
grep -q '^/dev/vda / ext4' /proc/mounts

fio --name=v --filename=/load --rw=randrw --bs=4k --size=8M --direct=1 --iodepth=16 --ioengine=libaio --thread \
    --verify=crc32c --verify_fatal=1 --verify_state_save=0 --loops=1000 --runtime=8 --time_based >/run/fio 2>&1 &
fio=$!
sleep 2
touch /run/guest/loaded # from here on the test may kill the host at any moment
wait_for [ -e /run/guest/restarted ]
wait $fio || { cat /run/fio; dmesg | tail -5; exit 1; }

before=$(cat /sys/block/vda/size)
touch /run/guest/verified
grown() { [ "$(cat /sys/block/vda/size)" -gt "$before" ]; }
wait_for grown
cat /sys/block/vda/size >/run/guest/sectors
resize2fs /dev/vda 2>&1
dd if=/dev/urandom of=/run/data bs=1M count=32 status=none
cp /run/data /data # more than was free before
sync
echo 3 >/proc/sys/vm/drop_caches
cmp /run/data /data
if dmesg | grep -E 'I/O error|critical|EXT4-fs error'; then exit 1; fi
echo done
