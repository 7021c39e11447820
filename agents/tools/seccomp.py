"""The system calls that code in the sandbox may not make, as a BPF program the kernel runs before each call.

A list of what is refused: everything a test suite has no use for and a way out needs. With bubblewrap it is the second wall;
with Landlock alone it also closes what Landlock leaves open (sockets, signals, modes and times of files).
"""

from __future__ import annotations

import errno
import os
import platform
import struct
from dataclasses import dataclass

from contracts.errors import Refused

# name: (x86-64, aarch64); None where the architecture has no such call
NUMBERS: dict[str, tuple[int | None, int | None]] = {
    "acct": (163, 89),
    "add_key": (248, 217),
    "adjtimex": (159, 171),
    "bpf": (321, 280),
    "chmod": (90, None),
    "chown": (92, None),
    "chroot": (161, 51),
    "clock_adjtime": (305, 266),
    "clock_settime": (227, 112),
    "clone": (56, 220),
    "clone3": (435, 435),
    "delete_module": (176, 106),
    "fanotify_init": (300, 262),
    "fchmod": (91, 52),
    "fchmodat": (268, 53),
    "fchmodat2": (452, 452),
    "fchown": (93, 55),
    "fchownat": (260, 54),
    "fcntl": (72, 25),
    "file_setattr": (469, 469),
    "finit_module": (313, 273),
    "fremovexattr": (199, 16),
    "fsconfig": (431, 431),
    "fsetxattr": (190, 7),
    "fsmount": (432, 432),
    "fsopen": (430, 430),
    "fspick": (433, 433),
    "futimesat": (261, None),
    "init_module": (175, 105),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "io_uring_setup": (425, 425),
    "ioctl": (16, 29),
    "ioperm": (173, None),
    "iopl": (172, None),
    "ioprio_set": (251, 30),
    "kcmp": (312, 272),
    "kexec_file_load": (320, 294),
    "kexec_load": (246, 104),
    "keyctl": (250, 219),
    "kill": (62, 129),
    "lchown": (94, None),
    "lookup_dcookie": (212, 18),
    "lremovexattr": (198, 15),
    "lsetxattr": (189, 6),
    "migrate_pages": (256, 238),
    "modify_ldt": (154, None),
    "mount": (165, 40),
    "mount_setattr": (442, 442),
    "move_mount": (429, 429),
    "move_pages": (279, 239),
    "mq_open": (240, 180),
    "mq_unlink": (241, 181),
    "msgctl": (71, 187),
    "msgget": (68, 186),
    "msgrcv": (70, 188),
    "msgsnd": (69, 189),
    "open": (2, None),
    "open_by_handle_at": (304, 265),
    "open_tree": (428, 428),
    "open_tree_attr": (467, 467),
    "openat": (257, 56),
    "openat2": (437, 437),
    "perf_event_open": (298, 241),
    "pidfd_getfd": (438, 438),
    "pidfd_send_signal": (424, 424),
    "pivot_root": (155, 41),
    "prlimit64": (302, 261),
    "process_madvise": (440, 440),
    "process_mrelease": (448, 448),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "ptrace": (101, 117),
    "quotactl": (179, 60),
    "quotactl_fd": (443, 443),
    "reboot": (169, 142),
    "removexattr": (197, 14),
    "removexattrat": (466, 466),
    "request_key": (249, 218),
    "rt_sigqueueinfo": (129, 138),
    "rt_tgsigqueueinfo": (297, 240),
    "sched_setaffinity": (203, 122),
    "sched_setattr": (314, 274),
    "sched_setparam": (142, 118),
    "sched_setscheduler": (144, 119),
    "semctl": (66, 191),
    "semget": (64, 190),
    "semop": (65, 193),
    "semtimedop": (220, 192),
    "setdomainname": (171, 162),
    "sethostname": (170, 161),
    "setns": (308, 268),
    "setpriority": (141, 140),
    "settimeofday": (164, 170),
    "setxattr": (188, 5),
    "setxattrat": (463, 463),
    "shmat": (30, 196),
    "shmctl": (31, 195),
    "shmget": (29, 194),
    "socket": (41, 198),
    "socketpair": (53, 199),
    "swapoff": (168, 225),
    "swapon": (167, 224),
    "syslog": (103, 116),
    "tgkill": (234, 131),
    "tkill": (200, 130),
    "truncate": (76, 45),
    "umount2": (166, 39),
    "unshare": (272, 97),
    "userfaultfd": (323, 282),
    "utime": (132, None),
    "utimensat": (280, 88),
    "utimes": (235, None),
    "vhangup": (153, 58),
}
NEWEST_KNOWN = 469  # numbers are common to all architectures since 424; what came later is answered as unknown

ALWAYS_REFUSED = [
    "acct",
    "add_key",
    "adjtimex",
    "bpf",
    "chroot",
    "clock_adjtime",
    "clock_settime",
    "delete_module",
    "fanotify_init",
    "finit_module",
    "fsconfig",
    "fsmount",
    "fsopen",
    "fspick",
    "init_module",
    "io_uring_enter",
    "io_uring_register",
    "io_uring_setup",
    "ioperm",
    "iopl",
    "kcmp",
    "kexec_file_load",
    "kexec_load",
    "keyctl",
    "lookup_dcookie",
    "migrate_pages",
    "modify_ldt",
    "mount",
    "mount_setattr",
    "move_mount",
    "move_pages",
    "open_by_handle_at",
    "open_tree",
    "open_tree_attr",
    "perf_event_open",
    "pidfd_getfd",
    "pivot_root",
    "process_madvise",
    "process_mrelease",
    "process_vm_readv",
    "process_vm_writev",
    "ptrace",
    "quotactl",
    "quotactl_fd",
    "reboot",
    "request_key",
    "setdomainname",
    "sethostname",
    "setns",
    "settimeofday",
    "swapoff",
    "swapon",
    "syslog",
    "umount2",
    "unshare",
    "userfaultfd",
    "vhangup",
]
# The kernel checks the owner alone for these, so they reach the user's own files and queues outside the sandbox.
SHARED_MEMORY_AND_QUEUES = [
    "mq_open",
    "mq_unlink",
    "msgctl",
    "msgget",
    "msgrcv",
    "msgsnd",
    "semctl",
    "semget",
    "semop",
    "semtimedop",
    "shmat",
    "shmctl",
    "shmget",
]
MODES_AND_TIMES = ["chmod", "fchmod", "fchmodat", "fchmodat2", "futimesat", "utime", "utimensat", "utimes"]
OWNERS_AND_ATTRIBUTES = [
    "chown",
    "fchown",
    "fchownat",
    "file_setattr",
    "fremovexattr",
    "fsetxattr",
    "lchown",
    "lremovexattr",
    "lsetxattr",
    "removexattr",
    "removexattrat",
    "setxattr",
    "setxattrat",
]
SIGNALS = ["kill", "pidfd_send_signal", "rt_sigqueueinfo", "rt_tgsigqueueinfo", "tgkill", "tkill"]
# call, index of the argument that names another process (0 is the caller itself)
ACTS_ON_A_PROCESS = (
    ("prlimit64", 0),
    ("sched_setaffinity", 0),
    ("sched_setattr", 0),
    ("sched_setparam", 0),
    ("sched_setscheduler", 0),
    ("setpriority", 1),
    ("ioprio_set", 1),
)
FLAGS_OF_NEW_NAMESPACES = 0x7E020000  # CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET
AF_UNIX, AF_INET, AF_INET6 = 1, 2, 10
TIOCSTI, TIOCLINUX, FIOSETOWN, SIOCSPGRP = 0x5412, 0x541C, 0x8901, 0x8902
FS_IOC_SETFLAGS, FS_IOC_FSSETXATTR = 0x40086602, 0x401C5820
F_SETOWN, F_SETSIG, F_SETOWN_EX = 8, 10, 15
LANDLOCK_WITH_TRUNCATE, LANDLOCK_WITH_SIGNALS = 3, 6

AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
LOAD, JUMP_EQUAL, JUMP_GREATER, MASK, RETURN = 0x20, 0x15, 0x25, 0x54, 0x06  # opcodes of classic BPF
ALLOW, ANSWER_ERRNO, KILL_PROCESS = 0x7FFF0000, 0x00050000, 0x80000000
FAKE_SUCCESS = 0


@dataclass(frozen=True, slots=True)
class Argument:
    """A test on the low 32 bits of an argument: `(value & mask) == equals`, or its opposite if `negated`."""

    index: int
    equals: int
    mask: int = 0xFFFFFFFF
    negated: bool = False


@dataclass(frozen=True, slots=True)
class Rule:
    """`call` is answered with `answer` (an errno, or 0 for success without effect) when all tests hold."""

    call: str
    answer: int = errno.EPERM
    tests: tuple[Argument, ...] = ()


def machine() -> str:
    """The architecture by the kernel's name, refused where the numbers of its calls are not known here."""
    name = platform.machine()
    if name not in AUDIT_ARCH:
        raise Refused(
            f"the sandbox does not know the system calls of {name}",
            hint="it runs on x86-64 and aarch64 Linux",
            code="sandbox_unavailable",
        )
    return name


def namespaced_rules() -> list[Rule]:
    """For a command in namespaces of its own: no new namespaces, no kernel interfaces, plain sockets only."""
    not_plain = tuple(Argument(0, family, negated=True) for family in (AF_UNIX, AF_INET, AF_INET6))
    return [
        *(Rule(call) for call in ALWAYS_REFUSED),
        *(Rule("clone", tests=(Argument(0, bit, mask=bit),)) for bit in _bits(FLAGS_OF_NEW_NAMESPACES)),
        Rule("clone3", errno.ENOSYS),  # its flags lie in memory, out of the filter's sight; libc falls back to clone
        Rule("ioctl", tests=(Argument(1, TIOCSTI),)),
        Rule("ioctl", tests=(Argument(1, TIOCLINUX),)),
        Rule("socket", tests=not_plain),  # vsock and others know no network namespace
    ]


def bare_rules(*, landlock_abi: int, own_user: bool) -> list[Rule]:
    """For a command that shares the host's namespaces under Landlock.

    `own_user`: it runs as a user that owns nothing else, so that owner checks of the kernel hold by themselves.
    """
    rules = [
        *namespaced_rules(),
        Rule("socket"),
        Rule("socketpair", tests=(Argument(0, AF_UNIX, negated=True),)),
        *(Rule(call) for call in SHARED_MEMORY_AND_QUEUES),
    ]
    if own_user:
        return rules
    rules += [
        *(Rule(call, FAKE_SUCCESS) for call in MODES_AND_TIMES),  # so that copying a file works; nothing changes
        *(Rule(call) for call in OWNERS_AND_ATTRIBUTES),
        *(Rule("ioctl", tests=(Argument(1, request),)) for request in (FS_IOC_SETFLAGS, FS_IOC_FSSETXATTR)),
        *(Rule(call, tests=(Argument(index, 0, negated=True),)) for call, index in ACTS_ON_A_PROCESS),
    ]
    if landlock_abi < LANDLOCK_WITH_TRUNCATE:
        truncates_what_it_reads = Argument(1, os.O_TRUNC | os.O_RDONLY, mask=os.O_TRUNC | os.O_ACCMODE)
        at = Argument(2, os.O_TRUNC | os.O_RDONLY, mask=os.O_TRUNC | os.O_ACCMODE)
        rules += [
            Rule("truncate"),
            Rule("open", tests=(truncates_what_it_reads,)),
            Rule("openat", tests=(at,)),
            Rule("openat2", errno.ENOSYS),
        ]
    if landlock_abi < LANDLOCK_WITH_SIGNALS:
        rules += [
            Rule("kill", tests=(Argument(0, 0, negated=True),)),  # its own group may be signalled, nothing else
            *(Rule(call) for call in SIGNALS if call != "kill"),
            *(Rule("fcntl", tests=(Argument(1, command),)) for command in (F_SETOWN, F_SETSIG, F_SETOWN_EX)),
            *(Rule("ioctl", tests=(Argument(1, request),)) for request in (FIOSETOWN, SIOCSPGRP)),
        ]
    return rules


def assemble(rules: list[Rule], arch: str) -> bytes:
    """The rules as an array of `struct sock_filter`; the first rule that holds answers, else the call is allowed."""
    column = 0 if arch == "x86_64" else 1
    program = [
        _instruction(LOAD, 4),  # seccomp_data.arch
        _instruction(JUMP_EQUAL, AUDIT_ARCH[arch], 1, 0),
        _instruction(RETURN, KILL_PROCESS),
        _instruction(LOAD, 0),  # seccomp_data.nr
        _instruction(JUMP_GREATER, NEWEST_KNOWN, 0, 1),  # also every call of the x32 table
        _instruction(RETURN, ANSWER_ERRNO | errno.ENOSYS),
    ]
    for rule in rules:
        number = NUMBERS[rule.call][column]
        if number is not None:
            program += _block(rule, number)
    program.append(_instruction(RETURN, ALLOW))
    return b"".join(program)


def _block(rule: Rule, number: int) -> list[bytes]:
    """Compare the number, then each argument; a test that fails jumps behind the answer, where the number is reloaded."""
    body: list[bytes] = []
    for position, test in enumerate(rule.tests):
        behind = 3 * (len(rule.tests) - position - 1) + 1  # the tests still to come, and the answer
        jumps = (behind, 0) if test.negated else (0, behind)
        body += [
            _instruction(LOAD, 16 + 8 * test.index),
            _instruction(MASK, test.mask),
            _instruction(JUMP_EQUAL, test.equals, *jumps),
        ]
    body.append(_instruction(RETURN, ANSWER_ERRNO | rule.answer))
    if rule.tests:
        body.append(_instruction(LOAD, 0))
    return [_instruction(JUMP_EQUAL, number, 0, len(body)), *body]


def _instruction(code: int, value: int, jump_true: int = 0, jump_false: int = 0) -> bytes:
    return struct.pack("=HBBI", code, jump_true, jump_false, value)


def _bits(mask: int) -> list[int]:
    return [1 << position for position in range(32) if mask >> position & 1]
