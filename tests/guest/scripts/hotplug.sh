# A controller on the guest's PCI bus appears, disappears under verified I/O, and comes back. A host in the guest attaches
# it each time, and exports its disk to the guest's own kernel. The test plugs the controller in and pulls it out.
TADDR=127.0.0.1 TPORT=4420
. "$(dirname "$0")/nvme.sh"
. "$(dirname "$0")/host.sh"
modprobe -a vfio-pci vfio_iommu_type1

new_controller() {
    local path
    for path in /sys/bus/pci/devices/*; do
        if [ "$(cat "$path/class" 2>/dev/null)" = 0x010802 ]; then echo "${path##*/}"; return; fi
    done
    return 1
}
has_bdev() { rpc bdev_get_bdevs "{\"name\":\"$1\"}"; }
has_no_bdev() { ! has_bdev "$1"; }
locked_kib() { sed -n 's/^VmLck:[^0-9]*\([0-9]*\).*/\1/p' /proc/$host/status; }
wakeups() { cat /proc/$host/task/*/status | awk '/^voluntary_ctxt_switches/ { sum += $2 } END { print sum }'; }
sum_of() { dd if="$1" bs=1M count=8 iflag=direct status=none | sha256sum; }
verify() { # DISK FIO-OPTION...
    local disk=$1
    shift
    # Between two passes fio opens the disk again. It must not create a file when the disk is gone.
    fio --name=load --filename="$disk" --allow_file_create=0 --direct=1 --ioengine=libaio --verify=crc32c --verify_fatal=1 \
        --bs=4k --iodepth=16 --output=/run/fio "$@"
}

serve
refused "enable" bdev_nvme_set_hotplug '{}'
rpc_or_show bdev_nvme_set_hotplug '{"enable":true}'
locked_kib >/run/guest/locked_kib
tell ready
until_true 60 "the controller" new_controller
address=$(new_controller)
"$DRIVEBAY_BIN" pci bind "$address"
until_true 30 "its bdev" has_bdev HotInNvme0n1
locked_kib >>/run/guest/locked_kib
mark "the controller is attached"

before=$(wakeups) cpu=$(cut -d' ' -f14,15 /proc/$host/stat)
sleep 5
echo $(($(wakeups) - before)) >/run/guest/idle_wakeups
mark "idle for 5 s: $(cat /run/guest/idle_wakeups) wake-ups; ticks of user and system before and after: $cpu, $(cut -d' ' -f14,15 /proc/$host/stat)"

rpc_or_show nvmf_create_transport '{"trtype":"TCP"}'
export_disk HotInNvme0n1
connect
disk=$(wait_disk 1)
verify "$disk" --rw=randwrite --size=8M || { cat /run/fio; exit 1; }
sum=$(sum_of "$disk")
mark "verified"
# The load ends with an error when the controller goes, and does not hang.
verify "$disk" --rw=randwrite --offset=16M --size=8M --time_based --runtime=120 &
load=$!
sleep 1
tell under_load
if wait $load; then mark "the load did not notice the removal"; exit 1; fi
if grep -q "verify: bad" /run/fio; then cat /run/fio; exit 1; fi
until_true 30 "the end of the bdev" has_no_bdev HotInNvme0n1
until_true 30 "the end of the device" test ! -e "/sys/bus/pci/devices/$address"
rpc_or_show framework_get_pci_devices
[ "$(tr -d ' \n' </run/answer)" = "[]" ] || { cat /run/answer; exit 1; }
is_unlocked() { [ "$(locked_kib)" = "$(head -n 1 /run/guest/locked_kib)" ]; }
until_true 30 "the end of the DMA maps" is_unlocked
mark "the controller is gone"

# From now on the kernel binds such a controller by itself.
echo 1b36 0010 >/sys/bus/pci/drivers/vfio-pci/new_id
tell gone
until_true 60 "the bdev of the controller that came back" has_bdev HotInNvme1n1
rpc_or_show nvmf_subsystem_add_ns "{\"nqn\":\"$NQN\",\"namespace\":{\"bdev_name\":\"HotInNvme1n1\"}}"
disk=$(wait_disk 1)
[ "$(sum_of "$disk")" = "$sum" ] || { mark "other data"; exit 1; }
disconnect

# An operator's detach holds.
rpc_or_show bdev_nvme_detach_controller '{"name":"HotInNvme1"}'
rpc_or_show bdev_nvme_set_hotplug '{"enable":true}'
sleep 1
has_no_bdev HotInNvme2n1
kill $host
wait $host || { echo "the host ended with $?"; exit 1; }
mark done
