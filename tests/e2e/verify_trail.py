"""Verifies an audit trail with nothing of xksd's: RFC 6962 by hashlib, the C2SP checkpoint and
cosignatures by python3-cryptography. Arguments: directory, verifier key, and the key of a witness
that must have cosigned one of the checkpoints. Prints the number of records."""

import base64
import hashlib
import pathlib
import sys

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey


def root(leaves):
    if not leaves:
        return hashlib.sha256(b"").digest()
    if len(leaves) == 1:
        return leaves[0]
    k = 1
    while k * 2 < len(leaves):
        k *= 2
    return hashlib.sha256(b"\x01" + root(leaves[:k]) + root(leaves[k:])).digest()


directory, verifier = pathlib.Path(sys.argv[1]), sys.argv[2]
name, key_id, key = verifier.split("+", 2)
public = base64.b64decode(key)
assert public[0] == 1
assert hashlib.sha256(name.encode() + b"\n" + public).digest()[:4].hex() == key_id

text, signatures = (directory / "checkpoint").read_text().rsplit("\n\n", 1)
origin, size, expected = text.split("\n")
assert origin == name
line = next(line for line in signatures.splitlines() if line.startswith(f"\u2014 {name} "))
signature = base64.b64decode(line.split(" ")[2])
assert signature[:4].hex() == key_id
Ed25519PublicKey.from_public_bytes(public[1:]).verify(signature[4:], (text + "\n").encode())

leaves = []
for file in sorted((directory / "records").glob("*.jsonl")):
    assert int(file.stem) == len(leaves)
    content = file.read_bytes()
    assert content.endswith(b"\n") or not content
    leaves += [hashlib.sha256(b"\x00" + record).digest() for record in content.split(b"\n")[:-1]]
assert base64.b64decode(expected) == root(leaves[: int(size)])

if len(sys.argv) > 3:
    name, key_id, key = sys.argv[3].split("+", 2)
    public = base64.b64decode(key)
    assert public[0] == 4
    assert hashlib.sha256(name.encode() + b"\n" + public).digest()[:4].hex() == key_id
    cosigned = 0
    parts = (directory / "checkpoints.log").read_text().split("\n\n")
    for text, signatures in zip(parts[::2], parts[1::2]):
        for line in signatures.splitlines():
            if not line.startswith(f"\u2014 {name} "):
                continue
            signature = base64.b64decode(line.split(" ")[2])
            assert signature[:4].hex() == key_id
            time = int.from_bytes(signature[4:12], "big")
            signed = f"cosignature/v1\ntime {time}\n{text}\n"
            Ed25519PublicKey.from_public_bytes(public[1:]).verify(signature[12:], signed.encode())
            size, expected = text.split("\n")[1:3]
            assert base64.b64decode(expected) == root(leaves[: int(size)])
            cosigned += 1
    assert cosigned > 0
print(len(leaves))
