"""Run one command as root in a throw-away QEMU guest: Debian 12 with its own kernel and pure cgroup v2.

    guest_run.py [--share DIR] [--at PATH] [--timeout S] [--mem MB] [--lsm NAME] [--init NAME] [--disk KIND] [--append WORDS]
                 [--verbose] -- command...

The command's output comes back on ours, its exit status becomes ours (124 time limit, 125 the guest failed). In the guest a
read-only copy of DIR is mounted at PATH (and is the working directory), /data is an empty writable disk, / a Debian root
whose changes are thrown away, /sys/fs/cgroup is cgroup2 with every controller, / is a shared mount as under systemd, and eth0
has NAT to the host. Needs root, qemu-system-x86, mmdebstrap, e2fsprogs. Root image and kernel are built on first use from
Debian's packages and kept in ~/.cache/berth-guest. With the processor's own virtualization (KVM) where the host has it; else
in software emulation, where Python is 7 to 15 times slower. BERTH_TEST_SLOW in the guest says how much more time tests allow.

    --lsm   none (default), apparmor, selinux (without a policy): the security module that the kernel starts with
    --init  plain (default): no init system, the command's parent is process 1; systemd: the command is a unit of it
    --disk  ext4 (default), ext4-prjquota, xfs (project quota on): the file system of /data
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import os
import selectors
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time

SUITE, KERNEL = "bookworm", "linux-image-cloud-amd64"
PACKAGES = (
    "busybox-static", "ca-certificates", "curl", "iproute2", "iputils-ping", "kmod", "libnftables1", "libseccomp2", "nftables",
    "procps", "python3",
    # What tests drive the engine with, or compare it with; the docker CLI is the host's.
    "conmon", "crun", "docker-compose", "docker-registry", "docker.io", "libfaketime", "openssl", "podman", "runc", "skopeo",
    "strace", "tini",
    # What only the guest's kernel has a use for.
    "apparmor", "e2fsprogs", "systemd", "xfsprogs",
)  # fmt: skip
LSM = {"none": "lsm=landlock", "apparmor": "lsm=landlock,apparmor apparmor=1", "selinux": "lsm=landlock,selinux"}
# Options of mke2fs and of mount(8). Project quota is a feature of ext4 that is chosen when it is made; xfs is made in the guest.
DISKS = {
    "ext4": ((), "ext4", "noinit_itable"),
    "ext4-prjquota": (("-O", "project,quota", "-E", "quotatype=prjquota"), "ext4", "noinit_itable,prjquota"),
    "xfs": (None, "xfs", "prjquota"),
}
# What must be loaded before the root disk can be mounted, in this order; ext4 is built in, virtio is not.
EARLY = ("virtio_ring", "virtio", "virtio_pci_legacy_dev", "virtio_pci_modern_dev", "virtio_pci", "virtio_blk")

INIT = """#!/bin/sh
mount -t devtmpfs dev /dev
for m in {modules}; do insmod /$m.ko; done
mount -t ext4 /dev/vda /root && mount -t devtmpfs dev /root/dev && mount -t tmpfs -o mode=755 run /root/run
cp /stage2 /job /root/run/
cp /guest-job.service /root/etc/systemd/system/
exec switch_root /root {init}
"""
INITS = {"plain": "/bin/sh /run/stage2", "systemd": "/lib/systemd/systemd"}
UNIT = """[Unit]
Description=The command of the guest
[Service]
ExecStart=/bin/sh /run/stage2
Environment=GUEST_INIT=systemd
"""

# What an init system does where there is one.
MOUNTS = """
mkdir -p /dev/pts /dev/shm /dev/mqueue
mount -t proc -o nosuid,nodev,noexec proc /proc
mount -t sysfs -o nosuid,nodev,noexec sys /sys
mount -t securityfs -o nosuid,nodev,noexec securityfs /sys/kernel/security
mount -t devpts -o gid=5,mode=620,ptmxmode=666 devpts /dev/pts
mount -t tmpfs -o mode=1777 shm /dev/shm
mount -t cgroup2 -o nosuid,nodev,noexec cgroup2 /sys/fs/cgroup
ln -sfn /proc/self/fd /dev/fd
mount --make-rshared /
for c in $(cat /sys/fs/cgroup/cgroup.controllers); do echo +$c > /sys/fs/cgroup/cgroup.subtree_control; done
"""

STAGE2 = """
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8 PYTHONDONTWRITEBYTECODE=1
export BERTH_GUEST=1 BERTH_TEST_SLOW={slow}
[ -n "$GUEST_INIT" ] || {{ {mounts} }}
mkdir -p /data {at}
[ {kind} = xfs ] && modprobe xfs && mkfs.xfs -q -f /dev/vdb
mount -t {kind} -o {options} /dev/vdb /data
[ -b /dev/vdc ] && mount -t ext4 -o ro /dev/vdc {at} && cd {at}
modprobe virtio_console; modprobe virtio_net; modprobe overlay
hostname guest; echo '127.0.0.1 localhost guest' > /etc/hosts
rm -f /etc/resolv.conf; echo 'nameserver 10.0.2.3' > /etc/resolv.conf
ip link set lo up; ip link set eth0 up && ip address add 10.0.2.15/24 dev eth0 && ip route add default via 10.0.2.2
for p in /sys/class/virtio-ports/*; do read n < $p/name; eval "$n=/dev/${{p##*/}}"; done
# A port can be opened only once, so the command gets pipes, and cat the ports.
mkfifo /run/o /run/e
cat /run/o > $out & O=$!
cat /run/e > $err & E=$!
/bin/sh /run/job < /dev/null > /run/o 2> /run/e
r=$?
# All of the output first; but a background process that was left may still hold the pipes.
(sleep 10; kill $O $E 2>/dev/null) & W=$!
wait $O $E; kill $W 2>/dev/null
echo $r > $rc
busybox poweroff -f
"""


def cpio(files: dict[str, tuple[int, bytes]]) -> bytes:
    """A newc archive of {name: (mode, content)}."""
    out = bytearray()
    for number, (name, (mode, data)) in enumerate([*files.items(), ("TRAILER!!!", (0, b""))], 1):
        head = (number, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name) + 1, 0)
        out += b"070701" + b"".join(b"%08x" % value for value in head) + name.encode() + b"\0"
        out += b"\0" * (-len(out) % 4) + data
        out += b"\0" * (-len(out) % 4)
    return bytes(out)


def make_ext4(path: str, megabytes: int, *more: str) -> None:
    """An ext4 image; `-d DIR` in `more` fills it."""
    with open(path, "wb") as file:
        file.truncate(megabytes << 20)
    subprocess.run(["mke2fs", "-q", "-F", "-t", "ext4", "-m", "0", "-E", "lazy_itable_init=1", *more, path], check=True)


def make_disk(path: str, megabytes: int, features: tuple[str, ...] | None) -> None:
    """An empty disk, with ext4 or (None) without a file system."""
    if features is None:
        with open(path, "wb") as file:
            file.truncate(megabytes << 20)
    else:
        make_ext4(path, megabytes, *features)


def tree_megabytes(root: str) -> int:
    """Room for a copy of the tree in ext4."""
    blocks = sum(os.lstat(os.path.join(d, f)).st_size // 4096 + 2 for d, dirs, files in os.walk(root) for f in dirs + files)
    return blocks * 5 // 1024 + 16


def build(target: str) -> None:
    """Make target/{root.ext4,vmlinuz,early.cpio} from Debian's packages; nothing is installed on the host."""
    work = tempfile.mkdtemp(prefix="build.", dir=os.path.dirname(target))
    try:
        root, deb, new = (os.path.join(work, name) for name in ("root", "deb", "new"))
        os.mkdir(deb)
        os.mkdir(new)
        fetch = (
            f'cd {shlex.quote(deb)} && export APT_CONFIG="$MMDEBSTRAP_APT_CONFIG" && '
            f'apt-get -qq download $(apt-cache depends {KERNEL} | sed -n "s/.*Depends: //p" | head -1)'
        )
        include = "--include=" + ",".join(PACKAGES)
        command = ["mmdebstrap", "--quiet", "--variant=minbase", include, "--customize-hook=" + fetch, SUITE, root]
        subprocess.run(command, check=True, stdout=sys.stderr)
        subprocess.run(["dpkg-deb", "-x", os.path.join(deb, os.listdir(deb)[0]), deb], check=True)
        version = os.listdir(deb + "/lib/modules")[0]
        modules = f"{root}/usr/lib/modules/{version}"
        os.makedirs(os.path.dirname(modules), exist_ok=True)
        shutil.move(f"{deb}/lib/modules/{version}", modules)
        subprocess.run(["chroot", root, "depmod", version], check=True)
        shutil.copy(f"{deb}/boot/vmlinuz-{version}", new + "/vmlinuz")
        with open(new + "/early.cpio", "wb") as file:
            file.write(cpio(early_files(root, modules)))
        make_ext4(new + "/root.ext4", tree_megabytes(root) + 2048, "-O", "^has_journal", "-d", root)
        os.rename(new, target)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def early_files(root: str, modules: str) -> dict[str, tuple[int, bytes]]:
    """What the first root needs: busybox and the modules of the disk."""
    found = {name[:-3]: os.path.join(d, name) for d, _, names in os.walk(modules) for name in names if name.endswith(".ko")}
    files: dict[str, tuple[int, bytes]] = dict.fromkeys(("bin", "dev", "root"), (16877, b""))
    files["bin/busybox"] = (0o100755, content(root + "/bin/busybox"))
    files |= {"bin/" + applet: (0o120777, b"busybox") for applet in ("sh", "insmod", "mount", "cp", "switch_root")}
    return files | {m + ".ko": (0o100644, content(found[m])) for m in EARLY}


def content(path: str) -> bytes:
    """A file's bytes."""
    with open(path, "rb") as file:
        return file.read()


def image(cache: str) -> str:
    """The folder with root image and kernel, built if it is not there."""
    key = hashlib.sha256(" ".join([SUITE, KERNEL, *PACKAGES]).encode()).hexdigest()[:12]
    target = os.path.join(cache, key)
    os.makedirs(cache, exist_ok=True)
    with open(os.path.join(cache, "lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not os.path.isdir(target):
            print("guest: building the image (once)", file=sys.stderr)
            build(target)
    return target


def accelerated() -> bool:
    """Whether KVM can run a guest with an ordinary kernel. The device alone does not say so: kvm_pvm has it too."""
    modules = ("/sys/module/kvm_intel", "/sys/module/kvm_amd")
    return any(map(os.path.isdir, modules)) and os.access("/dev/kvm", os.R_OK | os.W_OK)


def processor() -> list[str]:
    """QEMU's options for the processor. Emulated, an old one: AVX2, memory keys and five levels of page tables cost much."""
    if accelerated():
        return ["-accel", "kvm", "-cpu", "host"]
    return ["-accel", "tcg,thread=multi,tb-size=512", "-cpu", "Nehalem"]


def qemu(options: argparse.Namespace, img: str, tmp: str, ports: dict[str, int]) -> list[str]:
    """The command line. `ports` are descriptors that the guest's output goes to."""
    kernel = f"console=ttyS0 panic=-1 cgroup_no_v1=all mitigations=off {'loglevel=6' if options.verbose else 'quiet loglevel=4'}"
    # Only systemd reads the second.
    kernel += f" {LSM[options.lsm]} systemd.unit=guest-job.service {options.append}"
    args = ["qemu-system-x86_64", *processor(), "-machine", "q35", "-smp", "2"]
    args += ["-m", str(options.mem), "-nodefaults", "-display", "none", "-no-reboot"]
    args += ["-kernel", img + "/vmlinuz", "-initrd", tmp + "/initrd", "-append", kernel, "-serial", f"file:{tmp}/console"]
    args += ["-nic", "user,model=virtio-net-pci", "-device", "virtio-rng-pci", "-device", "virtio-serial-pci"]
    disks = [(img + "/root.ext4", ",snapshot=on"), (tmp + "/data", "")]
    disks += [(tmp + "/share", ",readonly=on")] if options.share else []
    for path, more in disks:
        args += ["-drive", f"if=virtio,format=raw,cache=unsafe,file={path}{more}"]
    for name, fd in ports.items():
        args += ["-chardev", f"file,id={name},path=/proc/self/fd/{fd}", "-device", f"virtserialport,chardev={name},name={name}"]
    return args


def run(options: argparse.Namespace, img: str, tmp: str) -> int:
    """Boot, relay the output, return the command's status."""
    at = shlex.quote(options.at)
    features, kind, mount_options = DISKS[options.disk]
    job = ("exec " + shlex.join(options.command) + "\n").encode()
    with open(tmp + "/initrd", "wb") as file:
        file.write(content(img + "/early.cpio"))
        init = INIT.format(modules=" ".join(EARLY), init=INITS[options.init])
        stage2 = STAGE2.format(at=at, slow=3 if accelerated() else 15, mounts=MOUNTS, kind=kind, options=mount_options)
        scripts = {"init": init, "stage2": stage2, "guest-job.service": UNIT}
        file.write(cpio({"job": (0o100755, job)} | {name: (0o100755, text.encode()) for name, text in scripts.items()}))
    make_disk(tmp + "/data", 8192, features)
    if options.share:
        make_ext4(tmp + "/share", tree_megabytes(options.share), "-O", "^has_journal", "-d", options.share)
    pipes = {name: os.pipe() for name in ("out", "err", "rc")}
    command = qemu(options, img, tmp, {name: write for name, (_, write) in pipes.items()})
    writers = [write for _, write in pipes.values()]
    machine = subprocess.Popen(command, stdin=subprocess.DEVNULL, pass_fds=writers, env=os.environ | {"TMPDIR": tmp})
    try:
        for write in writers:
            os.close(write)
        status = relay({name: read for name, (read, _) in pipes.items()}, time.monotonic() + options.timeout)
        if status is not None:
            machine.wait(20)  # It powers itself off.
    finally:
        machine.kill()
        machine.wait()
    if options.verbose or not status:
        if os.path.exists(tmp + "/console"):
            sys.stderr.write(content(tmp + "/console").decode(errors="replace")[-8000:])
        if not status:
            print("guest: " + ("it ended early" if status == b"" else f"time limit of {options.timeout:g} s"), file=sys.stderr)
    return 124 if status is None else int(status or 125)


def relay(pipes: dict[str, int], end: float) -> bytes | None:
    """Copy the guest's output until it ends; the status it reported (empty if none), or None at the time limit."""
    status = b""
    with selectors.DefaultSelector() as selector:
        for name, fd in pipes.items():
            selector.register(fd, selectors.EVENT_READ, name)
        while selector.get_map():
            ready = selector.select(max(0.0, end - time.monotonic()))
            if not ready:
                return None
            for key, _ in ready:
                data = os.read(key.fd, 65536)
                if not data:
                    selector.unregister(key.fd)
                elif key.data == "rc":
                    status += data
                else:
                    stream = sys.stdout if key.data == "out" else sys.stderr
                    stream.buffer.write(data)
                    stream.flush()
    return status


def main() -> int:
    """The entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--share", metavar="DIR", help="a folder that the guest gets a read-only copy of")
    parser.add_argument("--at", metavar="PATH", default="/share", help="where the copy is in the guest (%(default)s)")
    parser.add_argument("--timeout", metavar="S", type=float, default=1800, help="end the guest after S seconds (%(default)s)")
    parser.add_argument("--mem", metavar="MB", type=int, default=3072, help="memory of the guest (%(default)s)")
    parser.add_argument("--lsm", choices=list(LSM), default="none")
    parser.add_argument("--init", choices=list(INITS), default="plain")
    parser.add_argument("--disk", choices=list(DISKS), default="ext4")
    parser.add_argument("--append", metavar="WORDS", default="", help="more words for the kernel's command line")
    parser.add_argument("--cache", metavar="DIR", default=os.path.expanduser("~/.cache/berth-guest"))
    parser.add_argument("--verbose", action="store_true", help="print the kernel's messages at the end")
    parser.add_argument("command", nargs="+")
    options = parser.parse_args()
    # Whoever ends this ends the guest too.
    signal.signal(signal.SIGTERM, lambda number, _frame: sys.exit(128 + number))
    img = image(os.path.abspath(options.cache))
    with tempfile.TemporaryDirectory(prefix="berth-guest-") as tmp:
        return run(options, img, tmp)


if __name__ == "__main__":
    sys.exit(main())
