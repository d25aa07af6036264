# Writes what nvme-cli shows of the controller and its namespace to the run directory as JSON, for the test to
# check.
. "$(dirname "$0")/nvme.sh"

connect
disk=$(wait_disk 1)
controller=/dev/$(controller)
show() { # NAME COMMAND...
    mark "$1"
    nvme "${@:2}" -o json >"/run/guest/$1.json"
}
show id-ctrl id-ctrl "$controller"
show id-ns id-ns "$disk"
show list-ns list-ns "$controller"
show list-subsys list-subsys
show smart-log smart-log "$controller"
show error-log error-log "$controller"
# The namespace's identifiers, as the kernel read them from the identification descriptors.
cat "/sys/block/$(basename "$disk")/wwid" >/run/guest/wwid
nvme flush "$disk" -n 1
# A read past the end must fail, and the controller must continue to work.
blocks=$(blockdev --getsz "$disk")
if nvme read "$disk" -s "$blocks" -c 0 -z 512 >/run/guest/past-the-end 2>&1; then
    mark "a read past the end was not refused"
    exit 1
fi
dd if="$disk" of=/dev/null bs=4k count=16 iflag=direct status=none
disconnect
mark done
