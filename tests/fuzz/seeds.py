#!/usr/bin/env python3
"""The inputs that the fuzz targets begin with: seeds.py TARGET DIRECTORY writes them there.

A target takes its input apart with libFuzzer's FuzzedDataProvider: texts from the front, where a
backslash ends one, and numbers from the end, backwards."""

import os
import random
import struct
import sys

SIDECAR = b"""{"format":1,"gateway_id":"f1f27107-a65a-4b6b-9afa-95c3f9ff94b5","log_uuid":\
"34512c3f-0993-450b-82da-e9570aa3d21d","epoch":1,"serial":2,"written_ms":1795622223326,\
"next_seq":9,\
"chains":[{"chain":1,"retention_ms":604800000,"retention_bytes":-1,"segment_rows":100000,\
"segment":1}],"topics":[{"topic_id":1,"uuid":"47aad137-06be-4177-8626-2eb054993674","name":"a",\
"chain":1,"retention_ms":604800000,"retention_bytes":-1,"columns":["x"],"partitions":[{"tp":1,\
"log_start":0,"next_offset":5},{"tp":2,"log_start":2,"next_offset":4}]}],"offsets":[{"group":"g",\
"tp":1,"next":3,"metadata":""}],"facts":[["paused.cloud","1"]],"counters":[["dropped",2]],\
"lost":[{"tp":1,"from":2,"to":3,"kind":"damage","why":"torn"}]}"""


def text(value):
    """A text from the front; the next one follows."""
    return value.replace(b"\\", b"\\\\") + b"\\ "


def numbers(*values):
    """Bytes that are taken from the end: the first comes last."""
    return bytes(reversed(values))


def prefixed(value):
    return struct.pack(">H", len(value)) + value


def packet(first, body):
    assert len(body) < 128
    return bytes([first, len(body)]) + body


def connect(version, client_id, will=False):
    flags = 0x2E if will else 0x02
    body = prefixed(b"MQTT") + bytes([version, flags]) + struct.pack(">H", 60)
    v5 = version == 5
    body += (b"\x05\x11\x00\x00\x00\x3c" if v5 else b"") + prefixed(client_id)
    if will:
        body += (b"\x00" if v5 else b"") + prefixed(b"w/1") + prefixed(b"gone")
    return packet(0x10, body)


def publish(qos, packet_id, payload, properties=None, topic=b"t/1"):
    body = prefixed(topic) + (struct.pack(">H", packet_id) if qos else b"")
    if properties is not None:
        body += bytes([len(properties)]) + properties
    return packet(0x30 | qos << 1, body + payload)


def mqtt_session():
    tail = numbers(0, 3)
    for version in (3, 4, 5):
        none = None if version < 5 else b""
        alias = None if version < 5 else b"\x23\x00\x01"
        user = None if version < 5 else b"\x26\x00\x01k\x00\x01v\x03\x00\x04json\x01\x01"
        empty = b"" if version < 5 else b"\x00"
        opened = connect(version, b"c")
        if version == 3:
            opened = packet(0x10, prefixed(b"MQIsdp") + b"\x03\x02\x00\x3c" + prefixed(b"c"))
        yield (opened + publish(0, 0, b"a", none) + publish(1, 1, b"b", user) +
               publish(2, 7, b"c", none) + packet(0x62, b"\x00\x07") + packet(0xC0, b"") +
               packet(0xE0, b"") + tail)
        yield (connect(version, b"", will=version != 3) + publish(1, 1, b"a", alias) +
               publish(1, 2, b"b", alias, b"" if version == 5 else b"t") +
               packet(0x82, b"\x00\x01" + empty + prefixed(b"t/#") + b"\x01") +
               packet(0xA2, b"\x00\x02" + empty + prefixed(b"t/#")) + tail)
    yield b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + tail
    yield b"GET / HTTP/1.1\r\n\r\n" + tail


JSONS = [b'{"t":1795339391,"k":"a","v":[1,{"k":"b","t":"2026-11-25T15:00:00Z"},2.5],"l":[{"k":1}]}',
         b'{"k":"\\u00e9\\ud83d\\ude00","t":"1795339391","v":null}', b"[]", b'"x"', b"-0.0",
         b"\xef\xbb\xbf[true,false,null]", b"18446744073709551615", b'{"a":1,"a":2}']
CBORS = [b"\xa2\x61k\x61a\x61v\x83\x01\x43xyz\xfb\x3f\xf0\x00\x00\x00\x00\x00\x00", b"\x9f\x01\xff",
         b"\xbf\x61v\xf9\x7e\x00\xff", b"\xc1\x1a\x6b\x03\x4c\xff"]


def payload():
    for kind, payloads in ((1, JSONS), (0, CBORS)):
        for one in payloads:
            # Pointers /k and /t; the condition "/v > 0"; then with a split at /l, a value at /v.
            for split, value in ((0, 0), (1, 0), (0, 1)):
                tail = [kind, 1, 0, 1, 0, split] + ([1, 0] if split else []) + [value]
                tail += [1, 0] if value else []
                texts = text(b"k") + text(b"t") + (text(b"l") if split else b"")
                texts += text(b"v") if value else b""
                yield texts + text(b"/v > 0") + one + numbers(*tail)


def ingest():
    for route, topic in enumerate((b"d1/x", b"x", b"x", b"a/b", b"a/b", b"none")):
        for one in JSONS + CBORS:
            yield text(topic) + one + numbers(route, 0)


def raw_file():
    draw = random.Random(1)
    for size in (0, 8, 30, 100, 300):
        yield draw.randbytes(size)


def record():
    headers = b"\x04\x02a\x02b\x04cd\x01"
    yield text(b"key") + text(JSONS[0]) + headers + numbers(0, *([7] * 8), 1, 1)
    yield text(b"") + text(CBORS[0]) + headers + numbers(8, *([0xFF] * 8), 1, 1)
    yield text(b"\xff\xfe\n") + b"\x00" + numbers(15, *([0] * 8), 1, 0)


def sidecar():
    yield SIDECAR
    yield SIDECAR.replace(b'"columns":["x"],', b"")


def control():
    join = b'{"do":"join","group":"g","topic":"a","client":"c"}\n'
    commit = b'{"do":"commit","offsets":[{"partition":0,"offset":1}]}\n'
    offsets = b'"offsets":[{"partition":0,"offset":0},{"partition":2,"offset":5}]}\n'
    yield join + commit + join
    yield (b'{"do":"hello","data_dir":"/"}\n{"do":"status"}\n{"do":"devices"}\n{"do":"groups"}\n'
           b'{"do":"reload"}\n')
    yield (b'{"do":"topics.create","topic":"b","partitions":3}\n{"do":"topics.alter","topic":"b",'
           b'"partitions":4}\n{"do":"topics.delete","topic":"b"}\n')
    yield (b'{"do":"groups.reset","group":"g","topic":"a",' + offsets +
           b'{"do":"groups.delete","group":"g"}\n')
    yield b'{"do":"quarantine.settle","how":"retry","offsets":[0,1]}\n'
    yield b'{"do":"bridge.pause","bridge":"cloud"}\n{"do":"bridge.resume","bridge":"cloud"}\n'
    yield b'{"do":"sta\n\n[1,2]\n{"do":1}\n\xff\n{}{}\n{"do":"status"}'


def main():
    target, directory = sys.argv[1:]
    os.makedirs(directory, exist_ok=True)
    for n, seed in enumerate(globals()[target]()):
        with open(os.path.join(directory, f"seed-{n:02}"), "wb") as f:
            f.write(seed)


if __name__ == "__main__":
    main()
