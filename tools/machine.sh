# machine.sh - what tools/stock and tools/vmx share: an emulated machine that boots Debian's kernel
# with a KVM of its own and runs one command there, in a copy of this checkout. They source it.
#
# Who sources it sets
#   name         of the tool: stock, vmx
#   memory, limit, boot_limit  in MiB and seconds
#   packages     words "program-or-/file:Debian package" that it needs
#   kernel_package  of Debian, whose kernel boots (linux-image-amd64)
#   modules      of the kernel, in the order in which they depend on each other; one that is built
#                into the kernel has no file; the last one is the KVM module
#   specs        what runs when no command is given
# and defines
#   usage        prints the help
#   pack         puts files of its own into $work/root, the machine's first file system
#   init         prints the commands that make the command's file system in /layer/root and set
#                `output`, `result` and `pulse`, the devices on which these leave
#   configure    prepares what boot needs, once
#   boot         starts the emulator, its process id in $work/pid, its messages in
#                $work/machine.log, the machine's console in $results/kernel.log, output to the FIFO
#                $work/output, result and pulse to the files $work/result and $work/pulse
#   nudge        gives a machine that sleeps without a pulse an interrupt
#   again        after a hang, or the emulator's own end without a result: prepares that boot is
#                called once more, or fails and leaves the reason in $work/machine.log
# The machine's output comes through while it runs. The result is a compressed archive with the exit
# status and the artefacts: if it arrives it is whole. A machine without a pulse is hung.

# shellcheck shell=bash
fail() { printf '%s: %s\n' "$name" "$*" >&2; exit 125; }
misuse() { printf '%s: %s\n' "$name" "$*" >&2; usage >&2; exit 125; }
is_number() { [[ $1 =~ ^[1-9][0-9]*$ ]] && [ "${#1}" -le 7 ]; }
have() { command -v "$1" >/dev/null 2>&1; }
# Whether somebody watches, on a terminal that takes a line which is drawn over itself.
on_terminal() { [ -t 2 ] && [ -n "${TERM-}" ] && [ "$TERM" != dumb ]; }

more=() command=() given=''
: "${kernel_package:=linux-image-amd64}"
read_arguments() {
    while [ $# -gt 0 ]; do
        case $1 in
        -m | -t)
            is_number "${2-}" || misuse "$1 needs a positive number"
            if [ "$1" = -m ]; then memory=$2; else limit=$2; fi
            shift 2 ;;
        -a)
            [ "$name" = vmx ] || misuse "unknown option '-a'"
            [ -e "${2-}" ] || misuse "-a needs a file or a folder that is there"
            more+=("$(realpath -s "$2")")
            shift 2 ;;
        -h | --help) usage; exit 0 ;;
        --) shift; break ;;
        -*) misuse "unknown option '$1'" ;;
        *) break ;;
        esac
    done
    command=("$@") given=$*
}

machine='' reader=''
# shellcheck disable=SC2317,SC2086 # it is reached by the trap; there are none, one or two of them
clean_up() {
    [ -z "$machine" ] || kill -- -$machine 2>/dev/null || kill $machine 2>/dev/null || true
    [ -z "$reader" ] || kill $reader 2>/dev/null || true
    wait
    if [ -e "$results" ]; then
        rm -rf "build/$name"
        mv -T "$results" "build/$name"
    fi
    rm -rf "$work"
}

set_up() {
    checkout=$PWD
    build=build/${BUILD:-release}
    [ -x "$build/minikvm" ] || fail "$build/minikvm is not there: run 'make' first"
    [ ${#command[@]} != 0 ] ||
        command=(env "BUILD=${BUILD:-release}" UNDER=minikvm ./tools/test "${specs[@]}")
    cache=${XDG_CACHE_HOME:-${HOME:-}/.cache}/minikvm-stock
    work=$(mktemp -d)
    results=$work/$name # becomes build/$name at the end: two runs at a time do not mix
    trap clean_up EXIT
    trap 'exit 129' HUP
    trap 'exit 130' INT
    trap 'exit 143' TERM
}

# --- what it takes ---

is_there() { # a program, or a file
    case $1 in
    busybox) have busybox && ! ldd "$(command -v busybox)" >/dev/null 2>&1 ;; # a static one
    /*) [ -e "$1" ] ;;
    *) have "$1" ;;
    esac
}

install_missing() {
    local missing=() root=() need
    for need in cpio:cpio busybox:busybox-static $packages; do
        is_there "${need%%:*}" || missing+=("${need##*:}")
    done
    [ ${#missing[@]} != 0 ] || return 0
    have apt-get || fail "install these (their Debian names), then try again: ${missing[*]}"
    if [ "$(id -u)" != 0 ]; then
        have sudo || fail "as root: apt-get install ${missing[*]}"
        root=(sudo)
    fi
    echo "Installing: ${missing[*]}" >&2
    { "${root[@]}" apt-get update -qq &&
        DEBIAN_FRONTEND=noninteractive "${root[@]}" apt-get install -y -qq \
            --no-install-recommends "${missing[@]}" >/dev/null; } ||
        fail "apt-get cannot install ${missing[*]} (is there a network?): install them by hand"
}

kernel_of() { find "$1/boot" -name 'vmlinuz-*' 2>/dev/null | sort | tail -1; }

# Unpacked beside its place and renamed: neither a broken download nor a second run at the same
# time can leave half a kernel there.
fetch_kernel() {
    [ -z "$(kernel_of "$cache/root")" ] || return 0
    local by_hand="download a package linux-image-*-amd64 of Debian's and run
  dpkg-deb -x linux-image-*.deb $cache/root"
    { have apt-get && have dpkg-deb; } ||
        fail "no kernel yet, and no apt-get to fetch one: $by_hand"
    local package
    package=$(apt-cache depends "$kernel_package" 2>/dev/null |
        sed -n 's/^ *Depends: *//p' | head -1)
    [ -n "$package" ] || fail "apt knows no $kernel_package (apt-get update?): else $by_hand"
    echo "Fetching $package" >&2
    mkdir -p "$cache" "$work/deb"
    (cd "$work/deb" && apt-get download $(on_terminal || echo -qq) "$package" >&2) ||
        fail "cannot download $package (is there a network?): else $by_hand"
    local fresh
    fresh=$(mktemp -d "$cache/new.XXXXXX")
    dpkg-deb -x "$work"/deb/*.deb "$fresh/root" ||
        { rm -rf "$fresh"; fail "cannot unpack $package"; }
    mv -T "$fresh/root" "$cache/root" 2>/dev/null || true # another run was faster
    rm -rf "$fresh"
}

# --- what is taken along ---

copy_modules() {
    local module file
    mkdir "$work/root/modules"
    for module in $modules; do
        file=$(find "$cache/root" -name "$module.ko" -print -quit)
        [ -z "$file" ] || cp "$file" "$work/root/modules/"
    done
    [ -e "$work/root/modules/$module.ko" ] ||
        fail "$cache/root has no $module.ko: remove that folder"
}

# The checkout as it is now, without git's own and the other build folders, as an archive on stdout.
# tar's status 1: a file changed meanwhile.
pack_checkout() { # more options of tar
    local file=$work/checkout.tar
    tar -cf "$file" --exclude=./.git --exclude='./build/*' --exclude='*.o' --exclude='*.d' \
        "$@" . || [ $? = 1 ]
    tar -rf "$file" --exclude='*.o' --exclude='*.d' "$@" "./$build" || [ $? = 1 ]
    cat "$file"
    rm "$file"
}

print_command() { printf 'cd %q && exec' "$checkout"; printf ' %q' "$@"; echo; }

# The first process of the machine, and the command it runs.
write_init() {
    print_command "${command[@]}" >"$work/root/command"
    {
        printf '#!/bin/sh\nmodules="%s"\ncheckout=%q limit=%d name=%q caches=%q work=%q\n' \
            "${modules//$'\n'/ }" "$checkout" "$limit" "$name" "$(dirname "$cache")" "$work"
        cat <<'END'
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
for m in $modules; do [ ! -e /modules/$m.ko ] || insmod /modules/$m.ko || poweroff -f; done
END
        init
        cat <<'END'
(while :; do echo >$pulse; sleep 1; done) &
cd /layer/root
mount -t proc proc proc
mount -t sysfs sysfs sys
mount --bind /dev dev
mkdir -p dev/pts dev/shm artefacts
mount -t devpts devpts dev/pts
mount -t tmpfs tmp dev/shm
for d in tmp run; do # unless the checkout is there already
    case $checkout in /$d/*) [ -e /checkout.tar ] || continue ;; esac
    mount -t tmpfs $d $d
done
chmod 1777 tmp dev/shm
mkdir -p tmp/home ./$checkout
if [ -e /checkout.tar ]; then
    mount -t tmpfs checkout ./$checkout
    tar -xf /checkout.tar -C ./$checkout
    rm /checkout.tar
fi
ip link set lo up
cp /command /layer/root/run/command
deliver() { # the exit status, the artefacts, and that is all
    echo $1 >artefacts/.status
    dmesg >artefacts/dmesg
    tar -czf $result -C artefacts .
    poweroff -f
}
(sleep $limit; ps -o pid,ppid,stat,args >artefacts/processes; deliver 124) &
{
    env -i HOME=/tmp/home TERM=dumb LANG=C.UTF-8 ARTEFACTS=/artefacts EMULATED=$name XDG_CACHE_HOME=$caches \
        PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
        chroot /layer/root /bin/bash /run/command </dev/null
    echo $? >status
} 2>&1 | cat >$output
deliver $(cat status)
END
    } >"$work/root/init"
    chmod +x "$work/root/init"
}

make_initramfs() {
    mkdir -p "$work/root"/{bin,proc,sys,dev,layer}
    cp "$(command -v busybox)" "$work/root/bin/busybox"
    ln -s busybox "$work/root/bin/sh"
    copy_modules
    pack
    write_init
    (cd "$work/root" && find . | cpio -o -H newc --quiet | gzip -1) >"$work/initramfs"
}

# --- whether it lives ---

signs_of_life() { stat -c %s "$work/pulse" "$work/result" "$results/kernel.log" 2>/dev/null || true; }
processor_seconds() { # of the emulator, however busy this machine is; nothing when it has ended
    awk '$3 != "Z" { print int(($14 + $15) / 100) }' "/proc/$(cat "$work/pid")/stat" 2>/dev/null
}

# True when the emulator ended by itself, false when it hung: it used two minutes of the processor
# without a pulse, which takes 2 seconds (the silent part of booting: less than 60), or none for as
# long.
watch() {
    local now before='' seen=none since=0 idle=0
    while now=$(processor_seconds) && [ -n "$now" ]; do
        if [ "$now" = "$before" ]; then idle=$((idle + 1)); else before=$now idle=0; fi
        if [ "$(signs_of_life)" != "$seen" ]; then seen=$(signs_of_life) since=$now idle=0; fi
        [ $((now - since)) -le 120 ] && [ $idle -le 240 ] || return 1
        [ $((idle % 10)) != 9 ] || nudge
        [ $SECONDS -le $((limit + boot_limit)) ] || exit 124
        sleep 0.5
    done
}

# shellcheck disable=SC2317 # it is reached by the trap
end_emulator() { kill -9 "$(cat "$work/pid" 2>/dev/null)" 2>/dev/null || true; }

run_emulator() {
    trap end_emulator EXIT
    trap 'exit 143' TERM
    boot
    until watch && [ -s "$work/result" ]; do
        again || exit 1
        { end_emulator; wait; } 2>/dev/null
        rm -f "$work/result" "$work/pulse"
        boot
    done
}

start() {
    configure
    exec 3>"$work/output" # so that its reader does not end with the first emulator
    set -m # a process group of its own
    (run_emulator) &
    machine=$!
    set +m
    exec 3>&-
}

# --- progress ---

finished='s/^(ok|FAIL|cut) +([0-9.]+) s  (spec\/[^ ]+) \(.*/\3 \2/p' # a spec file's line

# The specs that are run, and how many seconds each took last time, the others as many as the average.
seconds_of_specs() { # log of the last run
    find "${specs[@]}" -name '*_spec.lua' | awk -v log_lines="$(sed -nE "$finished" "$1" 2>/dev/null)" '
        BEGIN { count = split(log_lines, line, "\n")
            for (i = 1; i <= count; i++) { split(line[i], w, " "); took[w[1]] = w[2]; sum += w[2] } }
        { print $1, ($1 in took) ? took[$1] : (count ? sum / count : 10) }'
}

# How many have ended, and how long the others will take: as long as last time, at the rate of this one.
progress() { # seconds that passed, lines of those that ended, file of seconds_of_specs
    awk -v elapsed="$1" -v ended="$2" '
        BEGIN { n = split(ended, line, "\n")
            for (i = 1; i <= n; i++) if (split(line[i], w, " ")) { gone[w[1]] = 1; took += w[2] } }
        { all++; if ($1 in gone) { count++; were += $2 } else rest += $2 }
        END { printf "[%d/%d] %d min, about %d min left", count, all, elapsed / 60,
            rest * (were ? took / were : 1) / 60 + 1 }' "$3"
}

# Passes the output on. Where somebody watches the specs it has a line of progress below it.
show() { # file of seconds_of_specs
    if [ -n "$given" ] || [ ! -t 1 ] || ! on_terminal; then exec cat; fi
    local line part='' ended='' status columns text
    while true; do
        status=0
        IFS= read -r -t 1 line || status=$?
        part+=$line
        [ $status != 0 ] || ended+=$(sed -nE "$finished" <<<"$part")$'\n'
        if [ $status -le 128 ]; then printf '\r\033[K%s' "$part"; part=''; fi
        case $status in 0) echo ;; 1) return ;; esac
        columns=$(stty size <&1 2>/dev/null | cut -d ' ' -f 2) || true
        text=$(progress $SECONDS "$ended" "$1")
        [ "${columns:-80}" -lt 10 ] || printf '\r\033[K%s' "${text:0:$((${columns:-80} - 1))}"
    done
}

# --- the run ---

fail_at_boot() {
    cat "$work/machine.log" >&2
    tail -n 20 "$results/kernel.log" >&2 2>/dev/null || true
    fail "$1 (build/$name/kernel.log is the machine's console)"
}

run_machine() {
    local status=0
    install_missing
    fetch_kernel
    make_initramfs
    mkdir -p "$results/artefacts"
    mkfifo "$work/output"
    seconds_of_specs "build/$name/output.log" >"$work/seconds"
    tee "$results/output.log" <"$work/output" | show "$work/seconds" &
    reader=$!
    start
    wait "$machine" || status=$?
    machine=''
    wait "$reader"
    reader=''
    [ "$status" != 124 ] || fail_at_boot "the machine neither booted nor ended in time"
    [ "$status" = 0 ] || fail_at_boot "the emulator ended with status $status"
    tar -xzf "$work/result" -C "$results/artefacts" 2>/dev/null ||
        fail_at_boot "the machine stopped before it delivered its result"
    read -r status <"$results/artefacts/.status"
    rm "$results/artefacts/.status"
    [ "$status" != 124 ] ||
        echo "$name: no end within $limit s (build/$name/artefacts/processes)" >&2
    exit "$status"
}
