"""Opens the test vectors of wrapped keys from the documented formats only, with
python3-cryptography. Arguments: a file with vectors (`keys`, which it compares, may be left out), or
a key file and the file with its master's 32 bytes. Prints how much was opened."""

import base64
import hashlib
import hmac
import json
import sys

from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

decode = base64.b64decode


def open_sealed(key, sealed, aad):
    ciphertext = decode(sealed["ciphertext"]) + decode(sealed["tag"])
    return AESGCM(key).decrypt(decode(sealed["iv"]), ciphertext, aad)


def prefixed(*parts):
    return b"".join(len(part).to_bytes(2, "big") + part for part in parts)


def keys_of(text, master):
    """Each version's number with its key, after every check that the format has."""
    file = json.loads(text)
    assert json.dumps(file, indent=2) + "\n" == text, "not in its one form"
    names = ["format", "set", "label", "epoch", "primary", "versions"]
    rest = json.dumps({name: file[name] for name in names}, separators=(",", ":"))
    open_sealed(master, file["seal"], hashlib.sha256(rest.encode()).digest())
    label, keys = file["label"].encode(), {}
    for version in file["versions"]:
        number = version["version"].to_bytes(2, "big")
        for wrap in version["wraps"]:
            aad = prefixed(
                b"xksd key wrap 1", file["set"].encode(), label, number, bytes([version["cipher"]]),
                version["created"].encode(), wrap["master"].encode())
            key = open_sealed(master, wrap, aad)
            check = hmac.new(key, b"xksd check 1" + label + number, hashlib.sha256).digest()
            assert check[:16] == decode(version["check"]), "check value"
            keys[version["version"]] = key
    return file["label"], keys


def open_message(label, keys, message):
    metadata = decode(message["metadata"])
    key = keys[int.from_bytes(metadata[1:3], "big")]
    if metadata[0] == 2:
        key = HKDFExpand(SHA256(), 32, label.encode() + metadata[3:]).derive(key)
    return open_sealed(key, message, decode(message["aad"])).decode()


if len(sys.argv) == 3:
    with open(sys.argv[1]) as file, open(sys.argv[2], "rb") as master:
        print(len(keys_of(file.read(), master.read())[1]))
else:
    with open(sys.argv[1]) as file:
        vectors = json.load(file)
    label, keys = keys_of(vectors["key_file"], decode(vectors["master"]))
    if "keys" in vectors:
        assert [decode(key) for key in vectors["keys"]] == list(keys.values()), "keys"
    for message in vectors["messages"]:
        assert open_message(label, keys, message) == message["plaintext"]
    print(len(keys) + len(vectors["messages"]))
