# The guest's kernel uses one namespace through two listeners, $TPORT and $SECOND_PORT, with its own multipath. The
# test changes the ANA states, and then removes a listener. fio must not notice.
. "$(dirname "$0")/nvme.sh"
[ "$(cat /sys/module/nvme_core/parameters/multipath)" = Y ]

connect
disk=$(wait_disk 1)
(TPORT=$SECOND_PORT && connect)
path_of() { # PORT: the folder of the controller that is connected there
    local path
    for path in "$(subsystem)"/nvme*; do
        [[ ${path##*/} =~ ^nvme[0-9]+$ ]] && grep -q "trsvcid=$1\b" "$path/address" && echo "$path" && return
    done
    return 1
}
state_is() { # PORT STATE
    [ "$(cat "$(path_of "$1")"/nvme*c*n*/ana_state 2>/dev/null)" = "$2" ]
}
wait_state() { until_true 30 "$1 to be $2" state_is "$1" "$2"; } # PORT STATE
io_count() { awk '{ print $5 }' "/sys/block/${disk#/dev/}/stat"; } # writes
writes_go_on() {
    local before
    before=$(io_count)
    has_more() { [ "$(io_count)" -gt $((before + 100)) ]; }
    until_true 30 "writes" has_more
}
wait_state "$TPORT" optimized
wait_state "$SECOND_PORT" inaccessible

while [ ! -e /run/fio-stop ]; do
    fio --name=verify --filename="$disk" --rw=randwrite --bs=4k --size=24M --io_size=8M --direct=1 --iodepth=8 \
        --ioengine=libaio --verify=crc32c --verify_fatal=1 --output-format=terse >/run/fio 2>&1 || { cat /run/fio; exit 1; }
done &
fio=$!
writes_go_on
tell connected

wait_for second-only
wait_state "$TPORT" inaccessible
wait_state "$SECOND_PORT" optimized
writes_go_on
mark "the second listener serves"
tell second-used

wait_for both
wait_state "$TPORT" non-optimized
writes_go_on
tell both-used

wait_for second-gone
has_gone() { [ "$(cat "$(path_of "$SECOND_PORT")/state" 2>/dev/null)" != live ]; }
until_true 30 "the second controller to be lost" has_gone
writes_go_on
mark "the first listener serves"
tell first-used

touch /run/fio-stop
wait $fio || { cat /run/fio; exit 1; }
mark "fio verified"
nvme disconnect -n "$NQN" | grep 'disconnected 2 '
mark done
