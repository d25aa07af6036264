# One unit by two portals, $TPORT and $SECOND_PORT, under dm-multipath. The test removes one of them, later
# the other. fio must not notice.
. "$(dirname "$0")/iscsi.sh"
modprobe -a dm-multipath dm-round-robin

for port in "$TPORT" "$SECOND_PORT"; do
    # I/O on a lost path fails after 1 s, and then uses the other path.
    login "$TADDR:$port" node.session.timeo.replacement_timeout=1
done
path() { # SESSION
    until_true 30 "the disk of session $1" disk 0 "$1" >/dev/null
    disk 0 "$1"
}
one=$(path 1) other=$(path 2)
wwid() { cat "/sys/block/${1#/dev/}/device/wwid"; } # DISK
[ -n "$(wwid "$one")" ] && [ "$(wwid "$one")" = "$(wwid "$other")" ]

number() { cat "/sys/block/${1#/dev/}/dev"; } # DISK
# The script does the work of multipathd: it makes the map, and reinstates a path.
dmsetup --noudevsync create --table "0 $(blockdev --getsz "$one") multipath 1 queue_if_no_path 0 1 1 \
    round-robin 0 2 1 $(number "$one") 1 $(number "$other") 1" both
path_is() { dmsetup status both | grep -q " $(number "$1") $2 "; } # DISK A|F
take_back() { # DISK
    runs() { [ "$(cat "/sys/block/${1#/dev/}/device/state")" = running ]; }
    until_true 60 "a session to come back" runs "$1"
    dmsetup message both 0 reinstate_path "$(number "$1")"
    path_is "$1" A
}
written() { awk '{ print $7 }' "/sys/block/${1#/dev/}/stat"; } # DISK: sectors
writes_go_by() { # DISK
    local before
    before=$(written "$1")
    has_more() { [ "$(written "$1")" -gt $((before + 100)) ]; }
    until_true 30 "writes by $1" has_more "$1"
}

start_fio /dev/dm-0
writes_go_by "$one"
writes_go_by "$other"
tell connected
until_true 60 "the second path to fail" path_is "$other" F
path_is "$one" A
writes_go_by "$one"
mark "one path is enough"
tell second-failed

take_back "$other"
writes_go_by "$other"
mark "two paths again"
tell second-back
until_true 60 "the first path to fail" path_is "$one" F
writes_go_by "$other"
mark "the other path is enough"

stop_fio
mark "fio verified"
dmsetup --noudevsync remove both
mark done
