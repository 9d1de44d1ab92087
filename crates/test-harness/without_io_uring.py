"""Runs a command for which a system call of io_uring fails, as a container's seccomp profile has it: without_io_uring.py setup|enter|sleep ERRNO COMMAND..."""

import ctypes
import os
import struct
import sys

PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS, SECCOMP_MODE_FILTER = 22, 38, 2
# Number (the same on x86-64 and arm64), and which bit of the fourth argument must be set: sleep is io_uring_enter with IORING_ENTER_EXT_ARG.
CALLS = {"setup": (425, None), "enter": (426, None), "sleep": (426, 8)}
NUMBER, FOURTH_ARGUMENT = 0, 16 + 3 * 8  # in struct seccomp_data
LOAD, JUMP_IF_EQUAL, JUMP_IF_SET, RETURN = 0x20, 0x15, 0x45, 0x06
ALLOW, ERRNO = 0x7FFF0000, 0x00050000

number, bit = CALLS[sys.argv[1]]
narrower = [(LOAD, 0, 0, FOURTH_ARGUMENT), (JUMP_IF_SET, 0, 1, bit)] if bit else []
program = b"".join(
    struct.pack("HBBI", *instruction)
    for instruction in [
        (LOAD, 0, 0, NUMBER),
        (JUMP_IF_EQUAL, 0, len(narrower) + 1, number),
        *narrower,
        (RETURN, 0, 0, ERRNO | int(sys.argv[2])),
        (RETURN, 0, 0, ALLOW),
    ]
)
libc = ctypes.CDLL(None, use_errno=True)
buffer = ctypes.create_string_buffer(program)
header = ctypes.create_string_buffer(struct.pack("HP", len(program) // 8, ctypes.addressof(buffer)))
if libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) or libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, header, 0, 0):
    sys.exit(f"prctl: {os.strerror(ctypes.get_errno())}")
os.execv(sys.argv[3], sys.argv[3:])
