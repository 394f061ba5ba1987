# The AppArmor profile of containers that ask for no other one. What it takes away is what Docker's profile of this name does,
# so that the two are one for everybody; NAME and ENGINE are put in when it is loaded. The path rules spell out "everything
# but" letter by letter, since a pattern has no other way to say it, and a deny has no exceptions.

profile "NAME" flags=(attach_disconnected, mediate_deleted) {
  file,
  capability,
  network,
  unix,
  dbus,
  umount,
  deny mount,

  # Who may signal and trace: the container itself; from outside the engine, the runtimes and everybody unconfined.
  signal (send, receive) peer="NAME",
  signal (receive) peer=unconfined,
  signal (receive) peer="ENGINE",
  signal (receive) peer=runc,
  signal (receive) peer=crun,
  ptrace (read, readby, trace, tracedby) peer="NAME",

  # /proc: nothing directly in it, and in no directory that is neither a process nor sys.
  deny /proc/* w,
  deny /proc/[^1-9s]*/** w,
  deny /proc/s[^y]*/** w,
  deny /proc/sy[^s]*/** w,
  deny /proc/sys?*/** w,
  deny /proc/{kcore,sysrq-trigger} rwklx,

  # /proc/sys: the limits of shared memory alone, kernel/shm*.
  deny /proc/sys/* w,
  deny /proc/sys/[^k]*/** w,
  deny /proc/sys/k[^e]*/** w,
  deny /proc/sys/ke[^r]*/** w,
  deny /proc/sys/ker[^n]*/** w,
  deny /proc/sys/kern[^e]*/** w,
  deny /proc/sys/kerne[^l]*/** w,
  deny /proc/sys/kernel?*/** w,
  deny /proc/sys/kernel/{s,sh} w,
  deny /proc/sys/kernel/[^s]** w,
  deny /proc/sys/kernel/s[^h]** w,
  deny /proc/sys/kernel/sh[^m]** w,

  # /sys: the control groups alone.
  deny /sys/[^f]*/** wklx,
  deny /sys/f[^s]*/** wklx,
  deny /sys/fs?*/** wklx,
  deny /sys/fs/[^c]*/** wklx,
  deny /sys/fs/c[^g]*/** wklx,
  deny /sys/fs/cg[^r]*/** wklx,
  deny /sys/{firmware,devices/virtual/powercap,kernel/security}/** rwklx,
}
